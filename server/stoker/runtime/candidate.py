"""The boundary to a faster way to run a model that takes minutes to prepare: a candidate.

The model serves from the sessions that it was opened with while a thread prepares the candidate's
(`lifecycle/upgrades.py`); what of a batch the candidate may run, `covers` decides. TensorRT is the
one candidate there is (`tensorrt.py`); nothing behind this file knows its name.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from stoker.errors import InvalidRequest
from stoker.runtime.session import Placement, Session

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each input of one run, the model's own, rows first where it batches."""

Covers = Callable[[Shapes], bool]


@dataclass(slots=True)
class Preparation:
    """What preparing took, written by the thread that prepares and read by scrapes."""

    hits: int = 0
    """Sessions that were opened from what was prepared before."""
    misses: int = 0
    """Sessions that had to be prepared."""
    seconds: float = 0.0
    """Time of that, over all misses."""
    nbytes: int = 0
    """Bytes of what is prepared, on disk."""
    device_bytes: int | None = None
    """Of device memory that its sessions took; None where that cannot be read."""
    crashes: int = 0
    """Earlier attempts at it that ended with the process that made them."""
    doing: str = ""
    """What it is at, in words, where that is not preparing: it waits for somebody else's."""


@dataclass(slots=True)
class Stop:
    """Tells a preparation that nobody waits for it any more; any thread may."""

    _is_set: threading.Event = field(default_factory=threading.Event)
    _actions: list[Callable[[], None]] = field(default_factory=list)

    @property
    def is_set(self) -> bool:
        """Whether it was told."""
        return self._is_set.is_set()

    def set(self) -> None:
        """Tells it, and whoever must be woken up."""
        self._is_set.set()
        for action in list(self._actions):
            action()

    def on_set(self, action: Callable[[], None]) -> None:
        """Calls `action` when it is told; at once where it has been."""
        self._actions.append(action)
        if self.is_set:
            action()

    def proceeds(self, seconds: float) -> bool:
        """Waits (blocking) so long; False, and at once, where it is told."""
        return not self._is_set.wait(seconds)


class CandidateRefused(InvalidRequest):
    """A model asks for a candidate that it cannot have; it is served without it."""

    def __init__(self, title: str, reason: str) -> None:
        super().__init__(reason)
        self.title = title


class Candidate(Protocol):
    """One way to run one model version faster. Methods block and are called by one thread."""

    @property
    def title(self) -> str:
        """What users call it: `TensorRT`."""

    def tolerance(self, rounding: float) -> float:
        """The greatest difference from the present sessions' outputs, as a part of the greatest
        value of an output, with which it may serve. `rounding` is what the model's own datatypes
        lose anyhow."""

    @property
    def preparation(self) -> Preparation:
        """What preparing took so far."""

    def least_bytes(self) -> int:
        """Device memory that one of its sessions takes at the very least. May read the file."""

    def corners(self) -> Sequence[Shapes]:
        """Shapes at the ends of what it covers; its outputs are compared there."""

    def covers(self, shapes: Shapes) -> bool:
        """Whether it may run a batch of these shapes. Pure; on the way of a request."""

    def open(self, placement: Placement, stop: Stop) -> Session:
        """Prepares and opens a session, which may take minutes. Raises ServingError with the
        reason, InterruptedError when told to stop."""

    def keep(self) -> None:
        """The sessions were proved right: what was prepared is kept for the next process."""

    def discard(self) -> None:
        """Removes what was prepared and not kept. Harmless after `keep`, and when repeated."""

    def blame(self) -> None:
        """What it did ends this process: the next one shall know. Comes before `discard`."""
