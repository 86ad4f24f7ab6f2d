"""NVML's figures on the machine itself, by the server's own reader."""

import importlib

import pytest
from stoker.runtime.gpu_facts import read_gpu_facts
from stoker.telemetry.nvml import Handle, Nvml

from tests.gpu.conftest import Record
from tests.gpu.cudart import Cudart
from tests.gpu.hardware import Hardware

pytestmark = pytest.mark.gpu


@pytest.fixture
def nvml() -> Nvml:
    opened = Nvml(importlib.import_module("pynvml"))
    if not opened.open():
        pytest.fail(
            "CUDA sees a GPU, and NVML does not open: is the driver capability `utility` set?"
        )
    return opened


def visible() -> list[str]:
    return [each.uuid for each in read_gpu_facts().gpus]


def handles(nvml: Nvml, *, slices: bool) -> list[Handle]:
    found = [each for each in nvml.find(visible()) if each.gpu.is_mig == slices]
    if not found:
        pytest.skip("no GPU here is a MIG slice" if slices else "every GPU here is a MIG slice")
    return found


def test_nvml_finds_every_gpu_that_cuda_sees(nvml: Nvml, gpu: Hardware) -> None:
    found = nvml.find(visible())

    assert [each.gpu.device for each in found] == [f"cuda:{n}" for n in range(len(gpu.gpus))]
    for known, each in zip(gpu.gpus, found, strict=True):
        assert each.gpu.is_mig or known.name == each.gpu.name


def test_nvml_and_cuda_agree_about_the_first_gpus_memory(
    nvml: Nvml, cuda: Cudart, record_property: Record
) -> None:
    reading = nvml.read(nvml.find(visible())[0])
    _, total = cuda.memory_info()

    record_property("reading", reading)
    record_property("CUDA's total", total)
    assert reading.memory_total_bytes == pytest.approx(total, rel=0.05)
    assert reading.memory_used_bytes is not None


def test_a_whole_gpu_tells_its_utilisation_power_temperature_and_clocks(
    nvml: Nvml, record_property: Record
) -> None:
    for handle in handles(nvml, slices=False):
        reading = nvml.read(handle)
        record_property(handle.gpu.name, reading)
        for known in (
            reading.utilization,
            reading.power_watts,
            reading.temperature_celsius,
            reading.sm_clock_hertz,
            reading.clocks_event_reasons,
        ):
            assert known is not None


def test_a_mig_slice_tells_its_memory_and_no_utilisation(
    nvml: Nvml, record_property: Record
) -> None:
    for handle in handles(nvml, slices=True):
        reading = nvml.read(handle)
        record_property(handle.gpu.name, reading)
        assert reading.memory_total_bytes
        assert reading.utilization is None


def test_the_driver_tells_of_xid_errors(nvml: Nvml, record_property: Record) -> None:
    found = nvml.find(visible())

    heard = nvml.listen(found)

    record_property("heard", sorted(heard))
    assert heard == {each.gpu.uuid for each in found}
    assert list(nvml.xids(found)) == []
