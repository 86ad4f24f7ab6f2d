"""Which GPUs CUDA sees: real calls into a driver that says so; see tests/drivers/cuda.c."""

from pathlib import Path
from uuid import UUID

import pytest
from stoker.runtime.visible_gpus import visible_gpus

from tests.driver_stubs import CUDA, build

FIRST = UUID("1b4e28ba-2fa1-11d2-883f-0016d3cca427")
SECOND = UUID("6f1b0b6c-1111-5555-8888-0016d3cca427")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("driver"), CUDA) / CUDA


def test_the_gpus_come_in_cudas_order(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_STUB", f"{SECOND.hex},{FIRST.hex}")

    assert visible_gpus(str(driver)) == (SECOND, FIRST)


def test_without_a_driver_there_are_none(tmp_path: Path) -> None:
    assert visible_gpus(str(tmp_path / CUDA)) == ()


def test_without_a_gpu_there_are_none(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_STUB", "")

    assert visible_gpus(str(driver)) == ()


@pytest.mark.parametrize(
    "function", ["cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetUuid_v2"]
)
def test_a_driver_that_fails_has_none(
    driver: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    monkeypatch.setenv("CUDA_STUB", FIRST.hex)
    monkeypatch.setenv("CUDA_STUB_FAILS", function)

    assert visible_gpus(str(driver)) == ()
