"""One timer per model: requests that pass their deadline or queue timeout are answered at once.

Runs on the event loop. A heap holds the moments; entries that have ended meanwhile are skipped, and
the heap is cleared of them whenever it has grown to twice what lived at the last clearing.
"""

import asyncio
import heapq
import math
import time
from collections.abc import Callable
from typing import Final

from stoker.engine.pending import Pending

SHELLS: Final = 1024
"""Entries below which the heap is never cleared of ended ones."""

TICK: Final = 0.001
"""uvloop rounds timers to whole milliseconds and may fire early: then look again after one."""


class Expiry:
    """The moments at which queued and running requests of one model end unanswered."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        expire: Callable[[Pending], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`expire(entry)` is called on the loop once the entry's moment has passed, with entries
        that still live; it answers them or leaves them alone."""
        self._loop = loop
        self._expire = expire
        self._clock = clock
        self._heap: list[tuple[float, int, Pending]] = []
        self._number = 0
        self._clear_at = SHELLS
        self._timer: asyncio.TimerHandle | None = None
        self._armed = math.inf

    def watch(self, entry: Pending, moment: float) -> None:
        """Calls `expire(entry)` soon after `moment` (monotonic seconds), unless it has ended."""
        if moment == math.inf:
            return
        self._number += 1
        heapq.heappush(self._heap, (moment, self._number, entry))
        if len(self._heap) > self._clear_at:
            self._heap[:] = [item for item in self._heap if not item[2].dead]  # `_fire` holds it
            heapq.heapify(self._heap)
            self._clear_at = max(SHELLS, 2 * len(self._heap))
        if moment < self._armed:
            self._arm(moment)

    @property
    def is_empty(self) -> bool:
        """Whether nobody has a limit."""
        return not self._heap

    def close(self) -> None:
        """Stops the timer and forgets all entries."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._heap.clear()
        self._armed = math.inf

    def _arm(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = moment
        self._timer = self._loop.call_later(max(0.0, moment - self._clock()), self._fire)

    def _fire(self) -> None:
        now = self._clock()
        heap = self._heap
        self._timer = None
        self._armed = math.inf
        while heap and (heap[0][0] <= now or heap[0][2].dead):
            entry = heapq.heappop(heap)[2]
            if not entry.dead:
                self._expire(entry)
        if heap:
            self._arm(max(heap[0][0], now + TICK))
