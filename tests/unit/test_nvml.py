"""What the real `pynvml` gives against a driver that answers as told; see tests/drivers/nvml.c."""

import logging
from collections.abc import Iterator
from dataclasses import fields, replace
from types import ModuleType

import pytest
from stoker.telemetry.gpu_reading import CLOCKS_EVENT_REASONS, GpuReading
from stoker.telemetry.nvml import Handle, Nvml

from tests.driver_stubs import NVML, build, pynvml_of

FIRST = "GPU-1b4e28ba-2fa1-11d2-883f-0016d3cca427"
SECOND = "GPU-6f1b0b6c-1111-5555-8888-0016d3cca427"
SLICE = FIRST.replace("GPU", "MIG")
UNKNOWN = "GPU-00000000-0000-0000-0000-000000000007"

NOT_SUPPORTED, UNKNOWN_ERROR, FUNCTION_NOT_FOUND, GPU_IS_LOST = 3, 999, 13, 15


@pytest.fixture(scope="module")
def pynvml(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The real binding, on the stand-in for the driver."""
    return pynvml_of(build(tmp_path_factory.mktemp("driver"), NVML))


class Driver:
    """Tells the stand-in what to answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._answers = {"gpus": f"{FIRST},{SECOND}"}
        self.answer()

    def answer(self, **answers: str | int) -> None:
        self._answers |= {name: str(each) for name, each in answers.items()}
        said = ";".join(f"{name}={each}" for name, each in self._answers.items())
        self._monkeypatch.setenv("NVML_STUB", said)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(monkeypatch)


@pytest.fixture
def nvml(pynvml: ModuleType, driver: Driver) -> Iterator[Nvml]:
    opened = Nvml(pynvml)
    assert opened.open()
    yield opened
    opened.close()


def find(nvml: Nvml, *uuids: str) -> tuple[Handle, ...]:
    return nvml.find(uuids or (FIRST, SECOND))


def test_a_gpu_is_read_in_base_units(nvml: Nvml) -> None:
    (handle,) = find(nvml, FIRST)

    assert nvml.read(handle) == GpuReading(
        utilization=0.25,
        memory_busy=0.1,
        memory_total_bytes=8000,
        memory_used_bytes=3000,
        memory_free_bytes=4900,
        memory_reserved_bytes=100,
        power_watts=250.5,
        power_limit_watts=300.0,
        energy_joules=5000.0,
        temperature_celsius=61,
        sm_clock_hertz=1.41e9,
        memory_clock_hertz=1.215e9,
        clocks_event_reasons=0x24,
        ecc_corrected=7,
        ecc_uncorrected=2,
        remapped_corrected=4,
        remapped_uncorrected=1,
        remap_pending=True,
        remap_failed=False,
    )


def test_every_reason_that_the_binding_knows_has_a_name(pynvml: ModuleType) -> None:
    known = {
        value
        for name, value in vars(pynvml).items()
        if name.startswith(("nvmlClocksEventReason", "nvmlClocksThrottleReason"))
        and not name.endswith(("None", "All"))
    }
    assert set(CLOCKS_EVENT_REASONS) == known


def test_gpus_are_found_by_uuid_in_cudas_order(nvml: Nvml) -> None:
    handles = find(nvml, SECOND, FIRST)

    assert [(each.gpu.device, each.gpu.uuid) for each in handles] == [
        ("cuda:0", SECOND),
        ("cuda:1", FIRST),
    ]
    assert nvml.read(handles[0]).memory_used_bytes == 3002
    assert {each.gpu.driver_version for each in handles} == {"580.95"}


def test_a_gpu_that_nvml_does_not_know_is_told_and_left_out(
    nvml: Nvml, caplog: pytest.LogCaptureFixture
) -> None:
    handles = find(nvml, UNKNOWN, FIRST)

    assert [each.gpu.device for each in handles] == ["cuda:1"]
    assert f"NVML does not know cuda:0, whose UUID is {UNKNOWN}" in caplog.text


def test_of_a_slice_the_memory_is_known_and_what_is_refused_is_absent(
    nvml: Nvml, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    driver.answer(gpus=SLICE)
    (handle,) = find(nvml, FIRST)

    reading = nvml.read(handle)

    assert handle.gpu.is_mig
    assert handle.gpu.uuid == SLICE
    assert reading == GpuReading(
        memory_total_bytes=8000,
        memory_used_bytes=3000,
        memory_free_bytes=4900,
        memory_reserved_bytes=100,
    )
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("function", "absent"),
    [
        ("nvmlDeviceGetUtilizationRates", {"utilization", "memory_busy"}),
        ("nvmlDeviceGetPowerUsage", {"power_watts"}),
        ("nvmlDeviceGetPowerManagementLimit", {"power_limit_watts"}),
        ("nvmlDeviceGetTotalEnergyConsumption", {"energy_joules"}),
        ("nvmlDeviceGetTemperature", {"temperature_celsius"}),
        ("nvmlDeviceGetClockInfo", {"sm_clock_hertz", "memory_clock_hertz"}),
        ("nvmlDeviceGetTotalEccErrors", {"ecc_corrected", "ecc_uncorrected"}),
        (
            "nvmlDeviceGetRemappedRows",
            {"remapped_corrected", "remapped_uncorrected", "remap_pending", "remap_failed"},
        ),
    ],
)
@pytest.mark.parametrize("code", [NOT_SUPPORTED, GPU_IS_LOST])
def test_a_refused_figure_takes_nothing_else_away(
    nvml: Nvml, driver: Driver, function: str, absent: set[str], code: int
) -> None:
    (handle,) = find(nvml, FIRST)
    whole = nvml.read(handle)
    driver.answer(**{function: f"!{code}"})

    reading = nvml.read(handle)

    assert {each.name for each in fields(reading) if getattr(reading, each.name) is None} == absent
    assert replace(reading, **{name: getattr(whole, name) for name in absent}) == whole


def test_an_old_driver_is_asked_by_the_old_names(nvml: Nvml, driver: Driver) -> None:
    (handle,) = find(nvml, FIRST)
    driver.answer(
        nvmlDeviceGetMemoryInfo_v2=f"!{FUNCTION_NOT_FOUND}",
        nvmlDeviceGetCurrentClocksEventReasons=f"!{FUNCTION_NOT_FOUND}",
    )

    reading = nvml.read(handle)

    assert (reading.memory_used_bytes, reading.memory_reserved_bytes) == (3100, None)
    assert reading.clocks_event_reasons == 0x24


def test_what_the_gpu_does_not_have_is_not_logged_and_a_failure_is_logged_once(
    nvml: Nvml, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    handles = find(nvml)
    driver.answer(
        nvmlDeviceGetPowerUsage=f"!{NOT_SUPPORTED}", nvmlDeviceGetTemperature=f"!{GPU_IS_LOST}"
    )

    for _ in range(3):
        for handle in handles:
            nvml.read(handle)

    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    for uuid, message in zip((FIRST, SECOND), told, strict=True):
        assert message.startswith(f"nvmlDeviceGetTemperature failed for {uuid}: ")


def test_without_a_driver_nvml_does_not_open_and_says_nothing(
    pynvml: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NVML_STUB", raising=False)

    assert not Nvml(pynvml).open()
    assert caplog.text == ""


def test_a_driver_that_fails_is_told(
    pynvml: ModuleType, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    driver.answer(nvmlInit=f"!{UNKNOWN_ERROR}")

    assert not Nvml(pynvml).open()
    assert "nvmlInit failed: " in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_xid_errors_come_once_each_with_their_gpu(nvml: Nvml, driver: Driver) -> None:
    handles = find(nvml)
    assert nvml.listen(handles) == {FIRST, SECOND}
    driver.answer(xids="1:79,0:13")

    assert list(nvml.xids(handles)) == [(SECOND, 79), (FIRST, 13)]
    assert list(nvml.xids(handles)) == []


@pytest.mark.parametrize(
    ("event", "concerns"),
    [("0:94:3:0", True), ("0:94:3:4294967295", True), ("0:94:5:0", False), ("0:94:3:1", False),
     ("0:79", True)],
)  # fmt: skip
def test_a_slice_hears_its_own_xid_errors_and_those_of_the_whole_gpu(
    nvml: Nvml, driver: Driver, event: str, *, concerns: bool
) -> None:
    driver.answer(gpus=SLICE, gpu_instance=3, compute_instance=0)
    handles = find(nvml, FIRST)
    assert nvml.listen(handles) == {SLICE}
    driver.answer(xids=event)

    assert [uuid for uuid, _ in nvml.xids(handles)] == [SLICE] * concerns


def test_a_driver_that_tells_of_no_xid_errors_takes_only_those_away(
    nvml: Nvml, driver: Driver
) -> None:
    handles = find(nvml)
    driver.answer(nvmlDeviceRegisterEvents=f"!{NOT_SUPPORTED}")

    assert nvml.listen(handles) == frozenset()
    assert nvml.read(handles[0]).utilization == 0.25


def test_a_failing_wait_for_xid_errors_ends_the_reading_of_them_and_is_told(
    nvml: Nvml, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    handles = find(nvml)
    nvml.listen(handles)
    driver.answer(xids="0:79", nvmlEventSetWait_v2=f"!{GPU_IS_LOST}")

    assert list(nvml.xids(handles)) == []
    assert "nvmlEventSetWait_v2 failed" in caplog.text
