"""How the event loop wakes an executor's thread without ever taking a lock that it holds.

Theory. The loop puts entries into a model's inbox (a deque) and then rings: it adds the model's
instance to the bell's signals and looks at the idle mark. The executor, before it sleeps, sets the
mark and looks at the signals once more. Python's deque, dict and attribute operations are atomic,
so in every interleaving one of the two sees the other:

  1. the loop adds before it reads the mark; the executor sets the mark before it reads signals;
  2. so if the executor saw no signal, the loop sees the mark, and releases the bell;
  3. a bell released although the executor did not sleep makes its next sleep end at once: it looks
     around once for nothing, and nothing is lost;
  4. a signal that is already there is not added again, so a long run leaves one signal and not
     thousands: who takes it away looks into the inbox afterwards.

The bell is one `threading.Lock` used as a binary semaphore: 9 us a hop where a Condition takes 12
(design, section "Decisions"). `tests/unit/test_inbox.py` walks the interleavings step by step.
Hot path.
"""

import math
from threading import Lock
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Bell(Protocol):
    """A binary semaphore, as `threading.Lock` is one."""

    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool:
        """Takes the bell, waiting at most `timeout` seconds (-1: for ever)."""

    def release(self) -> None:
        """Raises RuntimeError when the bell is not taken."""


class Doorbell(Generic[T]):
    """One executor's bell. `ring` may be called from any thread, the rest by the executor.

    Signals are hashable by identity.
    """

    def __init__(self, bell: Bell | None = None) -> None:
        self._bell: Bell = bell if bell is not None else Lock()
        self._bell.acquire()
        self._signals: dict[T, None] = {}
        self.is_idle = False
        """The mark: the executor sleeps or is about to."""

    def ring(self, signal: T) -> None:
        """Leaves a signal and wakes the executor if it sleeps."""
        self._signals[signal] = None
        if self.is_idle:
            self.is_idle = False
            try:
                self._bell.release()
            except RuntimeError:
                pass  # it rings already

    def collect(self) -> list[T]:
        """The signals left since the last call, each once."""
        signals = self._signals
        collected: list[T] = []
        while signals:
            collected.append(signals.popitem()[0])
        return collected

    def sleep(self, seconds: float = math.inf) -> None:
        """Returns when a signal waits, at the latest after `seconds`; sometimes for nothing."""
        self.is_idle = True
        if not self._signals:
            self._bell.acquire(timeout=seconds if seconds < 1e6 else -1)
        self.is_idle = False
