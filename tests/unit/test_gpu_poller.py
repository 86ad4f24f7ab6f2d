"""The thread that reads the GPUs: real `pynvml`, against a driver that answers as told."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from stoker.telemetry import gpu_table as table
from stoker.telemetry.gpu import LEAST_INTERVAL_S, GpuPoller

from tests.calls import wait_until
from tests.driver_stubs import NVML, build, pynvml_of
from tests.hand_loop import HandLoop

UUID = "GPU-1b4e28ba-2fa1-11d2-883f-0016d3cca427"
LABELS = (UUID,)
GPUS = f"gpus={UUID}"
LONG_S = 3600.0


@pytest.fixture(scope="module")
def pynvml(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The real binding, on the stand-in for the driver."""
    return pynvml_of(build(tmp_path_factory.mktemp("driver"), NVML))


@pytest.fixture
def clock() -> HandLoop:
    return HandLoop()


@pytest.fixture
def poller(pynvml: ModuleType, clock: HandLoop) -> Iterator[GpuPoller]:
    made = GpuPoller(lambda: [UUID], LONG_S, binding=lambda: pynvml, clock=clock.clock)
    yield made
    made.close(timeout_s=60.0)


def ended(poller: GpuPoller) -> bool:
    return not poller.is_polling


def test_the_series_come_with_the_first_reading(
    poller: GpuPoller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVML_STUB", f"{GPUS};utilization=75;xids=0:79")
    assert poller.series(table.GPU_UTILIZATION) == {}

    poller.start()
    wait_until(lambda: bool(poller.series(table.GPU_UTILIZATION)), "a reading")

    assert poller.series(table.GPU_UTILIZATION) == {LABELS: 0.75}
    assert poller.series(table.GPU_ENERGY) == {LABELS: 0.0}
    assert poller.series(table.GPU_LAST_XID) == {LABELS: 79}


def test_a_closed_poller_has_no_thread_and_no_series(
    poller: GpuPoller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVML_STUB", GPUS)
    poller.start()
    wait_until(lambda: bool(poller.series(table.GPU_POWER)), "a reading")

    assert poller.close(timeout_s=60.0)

    assert "gpu metrics" not in {thread.name for thread in threading.enumerate()}
    assert poller.series(table.GPU_POWER) == {}


def test_without_a_gpu_the_thread_ends_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    poller = GpuPoller(list, LONG_S)
    poller.start()

    wait_until(lambda: ended(poller), "the end of the thread")

    assert poller.series(table.GPU_INFO) == {}
    assert caplog.text == ""


def test_without_nvml_the_thread_ends_in_silence(
    poller: GpuPoller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NVML_STUB", raising=False)
    poller.start()

    wait_until(lambda: ended(poller), "the end of the thread")

    assert poller.series(table.GPU_INFO) == {}
    assert caplog.text == ""


def test_without_the_binding_the_thread_ends_and_says_what_to_install(
    caplog: pytest.LogCaptureFixture,
) -> None:
    poller = GpuPoller(lambda: [UUID], LONG_S, binding=lambda: None)
    poller.start()

    wait_until(lambda: ended(poller), "the end of the thread")

    assert "nvidia-ml-py is not installed" in caplog.text
    assert poller.series(table.GPU_INFO) == {}


def test_a_bug_ends_the_readings_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> list[str]:
        raise ValueError("no such thing")

    poller = GpuPoller(broken, LONG_S)
    poller.start()

    wait_until(lambda: ended(poller), "the end of the thread")

    assert [record.getMessage() for record in caplog.records] == [
        "reading the GPUs failed; their metrics are absent from here on"
    ]


@pytest.mark.slow  # readings are at least a second apart
def test_a_reading_that_fails_is_told_once_and_others_follow(
    pynvml: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("NVML_STUB", GPUS)
    failures = [ValueError("not of NVML"), ValueError("nor this")]
    power = pynvml.nvmlDeviceGetPowerUsage

    def failing(device: object) -> object:
        if failures:
            raise failures.pop()
        return power(device)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", failing)
    poller = GpuPoller(lambda: [UUID], LEAST_INTERVAL_S, binding=lambda: pynvml)
    poller.start()

    wait_until(lambda: bool(poller.series(table.GPU_POWER)), "a reading after two that failed")

    assert poller.close(timeout_s=60.0)
    told = [record.getMessage() for record in caplog.records]
    assert told == ["a reading of the GPUs failed; others follow"]


def test_readings_of_a_driver_that_hangs_grow_old_and_vanish(
    poller: GpuPoller, clock: HandLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVML_STUB", GPUS)
    poller.start()
    wait_until(lambda: bool(poller.series(table.GPU_POWER)), "a reading")

    clock.advance(4 * LONG_S)
    assert poller.series(table.GPU_POWER) == {LABELS: 250.5}
    clock.advance(2 * LONG_S)
    assert poller.series(table.GPU_POWER) == {}


def test_a_driver_that_hangs_does_not_hold_up_the_end(
    poller: GpuPoller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = tmp_path / "driver"
    os.mkfifo(fifo)
    monkeypatch.setenv("NVML_STUB", f"{GPUS};wait={fifo}")
    poller.start()
    with fifo.open("wb", buffering=0) as driver:  # opens once the driver's call reads
        assert not poller.close(timeout_s=0.0)
        assert poller.series(table.GPU_POWER) == {}
        driver.write(b".")
    assert poller.close(timeout_s=60.0)


@pytest.mark.parametrize(("asked", "kept"), [(0.001, LEAST_INTERVAL_S), (5.0, 5.0)])
def test_readings_are_at_least_a_second_apart(asked: float, kept: float) -> None:
    assert GpuPoller(list, asked).interval_s == kept
