"""Measures what a load adds to its devices' memory: by opening, then by warm-up and measuring.

A reading is the device's, not the model's, so a step tells something only if no other model was
loaded during it; otherwise its number is unknown, and never a guess. Requests that other models
serve meanwhile count in: their arenas seldom grow. Used by load threads.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stoker.lifecycle.quiet import Turn
from stoker.runtime.memory import ReadMemory


class MemoryMeter:
    """The memory of one load. Bytes over all of its devices."""

    def __init__(self, read: ReadMemory, devices: Sequence[str]) -> None:
        self._read = read
        self._devices = tuple(dict.fromkeys(devices))
        self._steps: list[tuple[Turn, bool, int | None]] = []
        """The turn of each step, whether it opened something, and by how much memory grew."""

    @contextmanager
    def opening(self, turn: Turn) -> Iterator[None]:
        """What is opened in the block is part of `loaded`."""
        yield from self._step(turn, is_opening=True)

    @contextmanager
    def warming(self, turn: Turn) -> Iterator[None]:
        """What is run in the block is part of `workspace`."""
        yield from self._step(turn, is_opening=False)

    def _step(self, turn: Turn, *, is_opening: bool) -> Iterator[None]:
        before = self._used()
        yield
        after = self._used()
        grown = None if before is None or after is None else after - before
        self._steps.append((turn, is_opening, grown))

    @property
    def loaded(self) -> int | None:
        """What opening added; None where that is unknown. Asked when all turns are over."""
        return self._sum(is_opening=True)

    @property
    def workspace(self) -> int | None:
        """What running added, as `loaded`."""
        return self._sum(is_opening=False)

    def _sum(self, *, is_opening: bool) -> int | None:
        total = 0
        for turn, opened, grown in self._steps:
            if opened is is_opening:
                if grown is None or not turn.was_alone:
                    return None
                total += grown
        return total

    def _used(self) -> int | None:
        total = 0
        for device in self._devices:
            reading = self._read(device)
            if reading is None:
                return None
            total += reading.used
        return total
