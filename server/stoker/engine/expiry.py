"""One timer per model: requests that pass their deadline or queue timeout are answered at once.

Runs on the event loop. A heap holds the moments; entries that have ended meanwhile are skipped, and
the heap is cleared of them whenever it has grown to twice what lived at the last clearing. Requests
that came together are one item, by the nearest of their deadlines, until that has passed.
"""

import asyncio
import heapq
import math
import time
from collections.abc import Callable, Sequence
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
        self._heap: list[tuple[float, int, Sequence[Pending]]] = []
        self._number = 0
        self._entries = 0
        """Of all items."""
        self._clear_at = SHELLS
        self._timer: asyncio.TimerHandle | None = None
        self._armed = math.inf

    def watch(self, entry: Pending, moment: float) -> None:
        """Calls `expire(entry)` soon after `moment` (monotonic seconds), unless it has ended."""
        if moment != math.inf:
            self._push(moment, (entry,))

    def watch_all(self, entries: Sequence[Pending], nearest: float) -> None:
        """Calls `expire(entry)` for each soon after its deadline, unless it has ended. `nearest` is
        the first of the deadlines. The entries stay as they are in the sequence."""
        if nearest != math.inf:
            self._push(nearest, entries)

    def _push(self, moment: float, entries: Sequence[Pending]) -> None:
        self._number += 1
        self._entries += len(entries)
        heapq.heappush(self._heap, (moment, self._number, entries))
        if self._entries > self._clear_at:
            self._clear()
        if moment < self._armed:
            self._arm(moment)

    def _clear(self) -> None:
        kept: list[tuple[float, int, Sequence[Pending]]] = []
        for moment, number, entries in self._heap:
            living = [entry for entry in entries if not entry.dead]
            if len(entries) > 1 and living:  # of the others the moment may be a queue timeout
                moment = min([entry.deadline for entry in living])
            if living:
                kept.append((moment, number, living))
        self._heap[:] = kept  # `_fire` holds it
        heapq.heapify(self._heap)
        self._entries = sum([len(entries) for _, _, entries in self._heap])
        self._clear_at = max(SHELLS, 2 * self._entries)

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
        self._entries = 0
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
        while heap and (heap[0][0] <= now or all(entry.dead for entry in heap[0][2])):
            _, _, entries = heapq.heappop(heap)
            self._entries -= len(entries)
            for entry in entries:
                if entry.dead:
                    continue
                if len(entries) == 1 or entry.deadline <= now:
                    self._expire(entry)
                else:
                    self.watch(entry, entry.deadline)
        if heap:
            self._arm(max(heap[0][0], now + TICK))
