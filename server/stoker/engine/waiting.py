"""What waits of one model version: the loop adds to an inbox, executors order it and take batches.

The first crossing of threads. `add` is the event loop's and takes no lock; `take` is for executors,
who hold `lock` meanwhile: the loop tries it where it runs a batch itself (`inline.py`), and never
waits for it. What was taken is told to the loop by the log `started`, which it reads whenever it
needs the counts. Knows no costs but `run_time`, and answers nobody.  Hot path.

Invariant: entries enter the queue in the order of the inbox; only `take` orders and removes them.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

from stoker.engine.backlog import REST_S
from stoker.engine.execution import Batch, Entry
from stoker.engine.pending import Pending
from stoker.engine.queue import RequestQueue, RunTime, ShapeGroup
from stoker.engine.scheduler import BatchPolicy, RunBatch, next_step
from stoker.telemetry.statistics import BatchEnd


class Mutex(Protocol):
    """A lock, as `threading.Lock` is one."""

    def acquire(self, blocking: bool = ...) -> bool:
        """Takes the lock; False: `blocking` is false, and somebody has it."""

    def release(self) -> None:
        """Gives it back."""

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Waiting:
    """The inbox and the queue of one model version."""

    def __init__(
        self, *, is_plain: bool, has_delayed: bool, is_usual: Callable[[int], bool]
    ) -> None:
        """`is_plain`: neither priorities nor queue timeouts; `has_delayed`: some that expire move
        back instead; `is_usual`: whether `run_time` holds for rows of so many elements."""
        self.lock: Mutex = threading.Lock()
        self.started: deque[Batch] = deque()
        self.run_time: RunTime | None = None
        """While requests with deadlines are here: what executors need to know of them."""
        self._rests_until = -math.inf
        """Until then no backlog is taken to last."""
        self._is_plain = is_plain
        self._has_delayed = has_delayed
        self._is_usual = is_usual
        self._inbox: deque[Pending] = deque()
        self._queue = RequestQueue()
        self._queued = 0
        """Entries that the last `take` left in the queue, shells among them."""
        self._batches = 0

    def add(self, entries: Sequence[Pending]) -> None:
        """Puts entries into the inbox."""
        self._inbox.extend(entries)

    def saw_late(self, now: float) -> None:
        """Somebody was refused as late, or was late: batches stay short for a while."""
        self._rests_until = now + REST_S

    def saw_failure(self, now: float) -> None:
        """A run failed: batches stay short for a while, in which who fails has few neighbours."""
        self._rests_until = now + REST_S

    @property
    def entries(self) -> int:
        """Entries that wait to be taken or cleared: those that have ended are among them."""
        return len(self._inbox) + self._queued

    def take(self, policy: BatchPolicy, now: float) -> Batch | float:
        """A batch to run now, or the moment (monotonic seconds) before which there is none.

        Infinity means that the queue is empty: a signal will come.
        """
        inbox, queue = self._inbox, self._queue
        if self._is_plain and policy.is_immediate:
            taken = queue.take_all(inbox, policy.max_rows)
            if taken is not None:  # the usual case
                if self._all_in_time(taken, now):
                    live = [
                        (entry, request)
                        for entry in taken
                        if (request := entry.request) is not None and entry.expires > now
                    ]
                    return self._begun(live, None, policy, now) if live else math.inf
                queue.take_from(deque(taken))
        queue.take_from(inbox)
        if self._has_delayed:
            queue.delay_expired(now)
        wait = math.inf
        run = self.run_time
        for group in queue.by_urgency():
            rows = self._sustained_rows(group, policy, now) if policy.sustained_rows else 0
            if rows:
                step = next_step(group.entries, policy, now, sustained_rows=rows)
            else:
                if run is not None and self._is_usual(group.entries[0].form.elements):
                    group.drop_hopeless(now, run)
                step = next_step(group.entries, policy, now)
            while isinstance(step, RunBatch):
                entries = [
                    (entry, request)
                    for entry in group.drop(step.count)
                    if (request := entry.request) is not None
                    and (entry.deadline if entry.delays else entry.expires) > now
                ]  # the loop's timer answers the expired ones
                if entries:
                    return self._begun(entries, step.end, policy, now)
                step = next_step(group.entries, policy, now)
            wait = min(wait, step.time)
        self._queued = len(queue)
        return wait

    def _sustained_rows(self, group: ShapeGroup, policy: BatchPolicy, now: float) -> int:
        """How many rows a backlog that lasts gives the next batch of this group; 0: none does. What
        was measured says nothing of unusual rows."""
        if now < self._rests_until or not self._is_usual(group.entries[0].form.elements):
            group.backlog.clear()
            return 0
        run = self.run_time
        return group.backlog.rows(
            group.entries,
            policy,
            arrived=group.arrived,
            answered=math.inf if run is None else now + run.sustained_seconds(),
        )

    def _all_in_time(self, entries: Sequence[Pending], now: float) -> bool:
        """Whether a run of all of these that begins now answers each before its deadline, as far as
        is known: then no order matters."""
        run = self.run_time
        if run is None or not self._is_usual(entries[0].form.elements):
            return True
        latest = now + run.seconds(sum([entry.rows for entry in entries]))
        return min([entry.deadline for entry in entries]) >= latest

    def _begun(
        self, entries: list[Entry], end: BatchEnd | None, policy: BatchPolicy, now: float
    ) -> Batch:
        """The batch of these entries, noted in the log. `end` is None where it is all that
        waited."""
        self._batches += 1
        rows = sum([entry.rows for entry, _ in entries])
        if end is None:
            end = BatchEnd.FULL if rows >= policy.max_rows else BatchEnd.IDLE
        batch = Batch(entries, rows, end, now, self._batches)
        self.started.append(batch)
        self._queued = len(self._queue)
        return batch
