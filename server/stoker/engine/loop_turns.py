"""The turns of one event loop, as models see them that are run on it (`inline.py`).

A turn begins when the loop looks at its sockets and ends when it has called what was asked for
meanwhile. The loop tells nobody of either, so they are known by what models ask for: a call when
the turn ends, by each that had a request, and one in the next turn, after a run.

  1. All runs of a turn together take TURN_S at most, whichever models they are of.
  2. What has no time in this turn is called in the next ones, in order.
  3. After LONE_TURNS turns with one request each, the next request is run when it comes and not
     when its turn ends: nobody is waited for. Should others come in that turn, they run together at
     its end, and as many lone turns have to pass again: a busy server parts hardly any request from
     those that were read with it.
Used on the loop only; one object for all of its models.  Hot path.
Measured: benchmarks/results/0006-grpc.md, "The lone request".
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_RUN_S: Final = 100e-6
"""A run that is expected to take longer has its thread, and the loop talks to clients meanwhile."""

TURN_S: Final = 200e-6
"""Of one turn of the loop, over all models."""

_LAST_START_S: Final = TURN_S - MAX_RUN_S

LONE_TURNS: Final = 8
"""After so many turns of the loop with one request each, the next is expected to be alone as well:
at most one request in so many is parted from those that were read with it."""

WATCHED_TURNS: Final = 64
"""After a slow run the CPU clock is looked at for so many turns of the loop that have runs."""


class LoopTurns:
    """See the module's docstring."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, cpu_clock: Callable[[], float] = time.thread_time
    ) -> None:
        """`cpu_clock`: CPU seconds of the loop's thread."""
        self._loop = loop
        self._cpu_clock = cpu_clock
        self._cpu_began = 0.0
        """Of `cpu_clock`, when the first run of the turn began."""
        self._watched = 0
        """In so many turns that have runs the CPU clock is still looked at."""
        self._spent = 0.0
        self._waiting: deque[Callable[[], None]] = deque()
        self._next_is_due = False
        self._open = 0
        """Models that had a request in this turn, which has not ended for them."""
        self._is_shared = False
        """This turn has requests for several models."""
        self._is_early = False
        """A request of this turn may be run before its end."""
        self._lone = 0
        """Turns with one request until now, one after the other."""

    def open(self) -> bool:
        """The first request of a model came in this turn. True: so many turns had only one that no
        other is expected, and it may be run at once."""
        self._open += 1
        if self._open > 1:
            self._is_shared = True
        elif self._lone >= LONE_TURNS and not self._spent:
            self._is_early = True
            return True
        return False

    def close(self, requests: int) -> None:
        """The turn ends for a model, which had so many requests in it."""
        self._open -= 1
        is_lone = requests == 1 and not self._is_shared
        self._lone = self._lone + 1 if is_lone else 0
        if self._is_early:
            self._is_early = False
            if not is_lone:
                self._call_next()
            elif not self._next_is_due:
                self._spent = 0.0
        if not self._open:
            self._is_shared = False

    @property
    def is_spent(self) -> bool:
        """Whether a run would not fit into this turn."""
        return self._spent > _LAST_START_S

    def used_cpu(self, seconds: float) -> bool:
        """Whether the loop's thread may have had the CPU for so long since the turn's first run.
        False where nobody has looked: then each turn looks for a while."""
        if not self._watched:
            self._cpu_began = math.inf
        self._watched = WATCHED_TURNS
        return self._cpu_clock() - self._cpu_began >= seconds

    def note_run(self) -> None:
        """A run is about to begin."""
        if self._watched and not self._spent:
            self._watched -= 1
            self._cpu_began = self._cpu_clock() if self._watched else math.inf

    def spend(self, seconds: float) -> None:
        """Counts a run; the next turn begins at 0."""
        self._spent += seconds
        if not self._is_early:
            self._call_next()

    def wait(self, go_on: Callable[[], None]) -> None:
        """Calls back in the next turn that has time, behind those that wait already."""
        self._waiting.append(go_on)
        self._call_next()

    def _call_next(self) -> None:
        if not self._next_is_due:
            self._next_is_due = True
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._spent = 0.0
        self._next_is_due = False
        waiting = self._waiting
        try:
            for _ in range(len(waiting)):
                if self.is_spent:
                    break
                waiting.popleft()()
        finally:  # a model that breaks keeps none from their turn
            if waiting:
                self._call_next()
