"""What a load adds to its devices' memory, and when that is not known."""

from stoker.lifecycle.memory_meter import MemoryMeter
from stoker.lifecycle.quiet import Quiet
from stoker.runtime.memory import MemoryReading


class Devices:
    """Memory that a test fills."""

    def __init__(self) -> None:
        self.used: dict[str, int | None] = {"cpu": 100, "cuda:0": 50}

    def __call__(self, device: str) -> MemoryReading | None:
        used = self.used[device]
        return None if used is None else MemoryReading(1000, used)

    def add(self, device: str, nbytes: int) -> None:
        self.used[device] = (self.used[device] or 0) + nbytes


def test_opening_and_warming_up_are_told_apart_over_all_devices() -> None:
    devices, quiet = Devices(), Quiet()
    meter = MemoryMeter(devices, ("cpu", "cuda:0", "cuda:0"))
    with quiet.work() as turn:
        with meter.opening(turn):
            devices.add("cpu", 10)
            devices.add("cuda:0", 20)
        devices.add("cpu", 500)  # outside of both
        with meter.warming(turn):
            devices.add("cuda:0", 5)
    with quiet.measurement() as turn, meter.warming(turn):
        devices.add("cuda:0", 2)
    assert (meter.loaded, meter.workspace) == (30, 7)


def test_a_step_beside_another_load_is_unknown() -> None:
    devices, quiet = Devices(), Quiet()
    meter = MemoryMeter(devices, ("cpu",))
    with quiet.work() as turn, meter.opening(turn):
        with quiet.work() as other:
            pass
        assert not other.was_alone
    with quiet.measurement() as turn, meter.warming(turn):
        devices.add("cpu", 3)
    assert (meter.loaded, meter.workspace) == (None, 3)


def test_a_load_that_came_later_makes_the_earlier_one_unknown_too() -> None:
    quiet = Quiet()
    with quiet.work() as first:
        assert first.was_alone
        with quiet.work() as second:
            pass
    with quiet.work() as third:
        pass
    assert [turn.was_alone for turn in (first, second, third)] == [False, False, True]


def test_a_device_that_cannot_be_read_makes_the_step_unknown() -> None:
    devices = Devices()
    meter = MemoryMeter(devices, ("cpu", "cuda:0"))
    with Quiet().work() as turn:
        with meter.opening(turn):
            devices.used["cuda:0"] = None
        with meter.warming(turn):
            pass
    assert (meter.loaded, meter.workspace) == (None, None)
