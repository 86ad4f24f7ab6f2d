"""What models can be placed on, against a driver that is built for the test."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from stoker.runtime.discovery import Discovery
from stoker.runtime.gpu_diagnosis import cuda_needs
from stoker.runtime.placement import DeviceWish

from tests.stub.libraries import Libraries, build_driver


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    return build_driver(tmp_path_factory.mktemp("driver"))


class Looking:
    """A discovery whose preloads are counted."""

    def __init__(self, driver: Libraries, wish: DeviceWish = "auto", cuda: str = "13.0") -> None:
        self.preloads = 0
        self.found = Discovery(
            wish, cuda_needs(cuda), preload=self._preload, driver=str(driver.driver)
        )

    def _preload(self) -> None:
        self.preloads += 1


def test_gpus_are_found_and_their_libraries_loaded_once(
    driver: Libraries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_CUDA_DEVICES", "2")
    looking = Looking(driver)
    assert looking.preloads == 0
    start = threading.Barrier(4)

    def gpus() -> int:
        start.wait()
        return looking.found.machine.gpus

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: gpus(), range(4))) == [2] * 4
    assert looking.preloads == 1
    assert looking.found.gpus.count == 2


def test_each_gpu_that_is_found_is_logged_once(
    driver: Libraries, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STUB_CUDA_DEVICES", "2")
    monkeypatch.setenv("STUB_CUDA_CAPABILITY", "8.9,9.0")
    looking = Looking(driver)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert looking.found.machine.gpus == 2
    told = [
        record.__dict__["stoker_fields"]
        for record in caplog.records
        if record.__dict__.get("stoker_event") == "gpu"
    ]
    assert [each["index"] for each in told] == [0, 1]
    assert [each["compute_capability"] for each in told] == ["8.9", "9.0"]
    assert {each["driver_cuda"] for each in told} == {"13.5"}


def test_with_the_device_cpu_the_driver_is_not_asked(
    driver: Libraries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_CUDA_DEVICES", "2")
    looking = Looking(driver, "cpu")
    assert looking.found.machine.gpus == 0
    assert looking.found.machine.absence == "the server runs with --device cpu"
    assert not looking.found.gpus.has_driver
    assert looking.preloads == 0


@pytest.mark.parametrize(
    ("stub", "cuda", "words"),
    [
        ({}, "13.0", "the driver sees no GPU"),
        ({"CUDA_VISIBLE_DEVICES": "9"}, "13.0", "CUDA_VISIBLE_DEVICES is '9' and leaves no GPU"),
        (
            {"STUB_CUDA_DEVICES": "1", "STUB_CUDA_DRIVER_VERSION": "12040"},
            "13.0",
            "the NVIDIA driver is too old",
        ),
        ({"STUB_CUDA_DEVICES": "1"}, "", "the installed ONNX Runtime is the CPU package"),
        (
            {"STUB_CUDA_DEVICES": "2", "STUB_CUDA_CAPABILITY": "10.0,7.0"},
            "13.0",
            "GPU 0 (Stub GPU) has compute capability 10.0",
        ),
    ],
)
def test_gpus_that_cannot_be_used_are_none_and_the_log_says_why(
    driver: Libraries,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stub: dict[str, str],
    cuda: str,
    words: str,
) -> None:
    for key, value in stub.items():
        monkeypatch.setenv(key, value)
    looking = Looking(driver, cuda=cuda)
    assert looking.found.machine.gpus == 0
    assert words in looking.found.machine.absence
    assert words in caplog.text
    assert looking.preloads == 0


def test_a_gpu_without_code_beside_one_that_has_is_left_to_the_models_that_name_it(
    driver: Libraries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_CUDA_DEVICES", "2")
    monkeypatch.setenv("STUB_CUDA_CAPABILITY", "10.0,9.0")
    assert Looking(driver).found.machine.gpus == 2


def test_a_machine_without_driver_says_so_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = Discovery("auto", cuda_needs("13.0"), preload=lambda: None, driver="libnone.so.1")
    assert "libcuda.so.1 was not found" in found.machine.absence
    assert caplog.text == ""
