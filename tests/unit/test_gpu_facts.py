"""What the driver is asked, against a driver that is built for the test."""

from pathlib import Path

import pytest
from stoker.runtime.gpu_facts import Gpu, GpuFacts, loads, read_free_memory, read_gpu_facts

from tests.stub.libraries import Libraries, build_driver, free_memory

GPUS = (
    Gpu(0, "NVIDIA L4", (8, 9), 80 << 30, "GPU-00000000-0000-0000-0000-000000000000"),
    Gpu(1, "NVIDIA L4", (9, 0), 80 << 30, "GPU-00000000-0000-0000-0000-000000000001"),
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    return build_driver(tmp_path_factory.mktemp("driver"))


def facts(driver: Libraries, visible: str | None = None) -> GpuFacts:
    return read_gpu_facts(visible=visible, library=str(driver.driver))


def test_without_driver_nothing_is_known() -> None:
    found = read_gpu_facts(visible="0", library="libcuda-that-is-not-here.so.1")
    assert found == GpuFacts(has_driver=False, visible="0")
    assert found.count == 0


def test_each_gpu_is_told_with_name_capability_memory_and_uuid(
    driver: Libraries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_CUDA_DEVICES", "2")
    monkeypatch.setenv("STUB_CUDA_NAME", "NVIDIA L4")
    monkeypatch.setenv("STUB_CUDA_CAPABILITY", "8.9,9.0")
    found = facts(driver)
    assert found == GpuFacts(True, 0, 13050, GPUS)
    assert [gpu.capability_text for gpu in found.gpus] == ["8.9", "9.0"]
    assert Gpu(0).capability_text == ""


@pytest.mark.parametrize(
    ("stub", "code"),
    [
        ({}, 100),
        ({"STUB_CUDA_INIT": "803"}, 803),
        ({"STUB_CUDA_DEVICES": "1", "STUB_CUDA_COUNT": "999"}, 999),
    ],
)
def test_what_the_driver_answers_instead_of_gpus_is_kept(
    driver: Libraries, monkeypatch: pytest.MonkeyPatch, stub: dict[str, str], code: int
) -> None:
    for key, value in stub.items():
        monkeypatch.setenv(key, value)
    assert facts(driver, visible="") == GpuFacts(True, code, 13050, visible="")


def test_the_version_of_an_old_driver_is_known_too(
    driver: Libraries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_CUDA_DRIVER_VERSION", "12040")
    assert facts(driver).driver_version == 12040


def test_a_driver_that_is_too_old_to_tell_uuids_tells_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_CUDA_DEVICES", "1")
    monkeypatch.setenv("STUB_CUDA_DRIVER_VERSION", "11020")
    found = facts(build_driver(tmp_path, "-DOLD_DRIVER"))
    assert found == GpuFacts(True, 0, 11020, (Gpu(0, "Stub GPU", (9, 0), 80 << 30),))
    assert read_free_memory(found.gpus) == (None,)


def test_free_memory_is_told_per_gpu(driver: Libraries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*free_memory(1000, 2000).popitem())
    assert read_free_memory(GPUS, library=str(driver.nvml)) == (1000, 2000)


def test_free_memory_that_nobody_tells_is_unknown(
    driver: Libraries, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_free_memory(GPUS, library="libnvidia-ml-that-is-not-here.so.1") == (None, None)
    assert read_free_memory(GPUS, library=str(driver.nvml)) == (None, None)
    name, said = free_memory(1000).popitem()
    monkeypatch.setenv(name, said)
    assert read_free_memory((*GPUS, Gpu(2)), library=str(driver.nvml)) == (1000, None, None)
    monkeypatch.setenv(name, f"{said};nvmlInit=!9")
    assert read_free_memory(GPUS, library=str(driver.nvml)) == (None, None)


def test_a_library_loads_or_does_not(driver: Libraries) -> None:
    assert loads(str(driver.nvml))
    assert not loads("libcublas-that-is-not-here.so.13")
