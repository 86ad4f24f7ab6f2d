"""Who may wait: bounded queues and the predicted wait.

Second half of `submit`, on the event loop, before a request enters the inbox. Counts what waits,
in requests per level, rows and bytes, and refuses early what cannot be served in time. Pure but
for its counters: times and costs come as arguments.  Hot path.
Source: design, section "Batching", "Admission".
"""

import math
from collections.abc import Mapping
from typing import Final

from stoker.engine.cost_curve import CostCurve
from stoker.engine.forecast import RunningNow, RunSizes
from stoker.errors import Overloaded
from stoker.model import DynamicBatching, ModelVersion, QueuePolicy
from stoker.telemetry.statistics import RefusalReason

MISS: Final = 1.2
"""A prediction must miss the deadline by 20 % before it refuses anybody."""

MAX_QUEUED_ROWS: Final = 1 << 16
"""Rows that may wait for one model when its file sets no max_queue_size, and entries that its queue
may hold with the shells of those that ended: a shell takes about a kilobyte, so clients that come
and go behind a run that does not end cost some 64 MiB."""


class Refused(Overloaded):
    """An Overloaded with the reason that metrics count it under."""

    def __init__(self, message: str, reason: RefusalReason, retry_after: float | None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.reason = reason


class ServerBudget:
    """Bytes of tensors waiting in all queues of the server."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.queued_bytes = 0


class Admission:
    """The waiting requests of one model version, counted by the event loop."""

    def __init__(
        self,
        identity: ModelVersion,
        batching: DynamicBatching | None,
        budget: ServerBudget,
        *,
        max_bytes: int,
    ) -> None:
        batching = batching if batching is not None else DynamicBatching()
        self._identity = identity
        self._levels = batching.priority_levels
        self._default_level = batching.default_priority_level
        self._default_policy = batching.default_queue_policy
        self._policies: Mapping[int, QueuePolicy] = batching.priority_queue_policies
        self._budget = budget
        self._max_bytes = max_bytes
        self.most_requests = batching.default_queue_policy.max_queue_size or math.inf
        """That may wait where all are alike."""
        policies = (self._default_policy, *self._policies.values())
        self.is_plain = self._levels == 0 and not any(
            policy.default_timeout_us or policy.allow_timeout_override for policy in policies
        )
        """Neither priorities nor queue timeouts: all requests are alike but for their deadlines."""
        self.requests_by_level: dict[int, int] = {}
        self.rows_by_level: dict[int, int] = {}
        self.entries_by_level: dict[int, int] = {}
        self.rows = 0
        self.bytes = 0

    def level(self, priority: int) -> int:
        """The level a request's priority means: 0, absent or too high is the default level."""
        if self._levels == 0:
            return 0
        return priority if 0 < priority <= self._levels else self._default_level

    def policy(self, level: int) -> QueuePolicy:
        """The queue policy of a level."""
        return self._policies.get(level, self._default_policy)

    @property
    def has_delay_policy(self) -> bool:
        """Whether some level delays expired requests instead of failing them."""
        policies = (self._default_policy, *self._policies.values())
        return any(policy.delays_on_timeout for policy in policies)

    def timeout(self, level: int, requested_us: int) -> float:
        """Seconds that a request may wait in the queue; infinity when nothing bounds it.

        A request's own timeout counts only where the policy allows it, and only if it is shorter
        than the default or there is no default.
        """
        policy = self.policy(level)
        timeout_us = policy.default_timeout_us
        if (
            policy.allow_timeout_override
            and requested_us > 0
            and (timeout_us == 0 or requested_us < timeout_us)
        ):
            timeout_us = requested_us
        return timeout_us / 1e6 if timeout_us else math.inf

    def has_room(self, *, requests: int, rows: int, nbytes: int, shells: int) -> bool:
        """Whether `admit` would take all of these, one after another, at level 0."""
        budget = self._budget
        return (
            self.requests_by_level.get(0, 0) + requests <= self.most_requests
            and self.rows + rows <= MAX_QUEUED_ROWS
            and shells + requests <= MAX_QUEUED_ROWS
            and self.bytes + nbytes <= self._max_bytes
            and budget.queued_bytes + nbytes <= budget.limit_bytes
        )

    def admit(self, *, level: int, rows: int, nbytes: int, shells: int = 0) -> None:
        """Raises Refused when the queue of the level, the model or the server is full.

        `shells` counts all entries that the queue holds, those among them that have ended too.
        """
        policy = self.policy(level)
        waiting = self.requests_by_level.get(level, 0)
        if policy.max_queue_size and waiting >= policy.max_queue_size:
            raise Refused(
                f"the queue of {self._identity} is full: {waiting} requests wait, "
                f"max_queue_size is {policy.max_queue_size}",
                RefusalReason.QUEUE_FULL,
                None,
            )
        if self.rows and self.rows + rows > MAX_QUEUED_ROWS:
            raise Refused(
                f"the queue of {self._identity} is full: {self.rows} rows wait, "
                f"the limit is {MAX_QUEUED_ROWS}, the request has {rows}",
                RefusalReason.QUEUE_FULL,
                None,
            )
        if shells >= MAX_QUEUED_ROWS:
            raise Refused(
                f"the queue of {self._identity} is full: {shells} entries wait to be taken or "
                f"cleared, the limit is {MAX_QUEUED_ROWS}",
                RefusalReason.QUEUE_FULL,
                None,
            )
        if self.bytes and self.bytes + nbytes > self._max_bytes:
            raise Refused(
                f"the queue of {self._identity} is full: {self.bytes} bytes wait, "
                f"the limit is {self._max_bytes}, the request has {nbytes}",
                RefusalReason.QUEUE_BYTES,
                None,
            )
        budget = self._budget
        if budget.queued_bytes and budget.queued_bytes + nbytes > budget.limit_bytes:
            raise Refused(
                f"the server's queues are full: {budget.queued_bytes} bytes wait, "
                f"the limit is {budget.limit_bytes}, the request has {nbytes}",
                RefusalReason.QUEUE_BYTES,
                None,
            )

    def refuse_if_late(
        self,
        *,
        level: int,
        rows: int,
        queue_timeout: float,
        time_left: float,
        curve: CostCurve,
        sizes: RunSizes,
        running: RunningNow,
    ) -> None:
        """Raises Refused when the predicted wait misses the request's limit by 20 %.

        `queue_timeout` bounds the wait, `time_left` (to the deadline) the wait and the run; both in
        seconds. Only with a limit that is still ahead, a measured cost, and work queued ahead.
        """
        limit = min(queue_timeout, time_left)
        if limit == math.inf or limit <= 0:  # what is past its deadline has expired
            return
        if not self.rows:
            return
        wait = self.predicted_wait(level=level, curve=curve, sizes=sizes, running=running)
        own = sizes.lone(curve, rows)
        if wait is None or own is None:
            return
        whole = wait + running.run(own, sizes.parts(rows))
        if wait <= MISS * queue_timeout and whole <= MISS * time_left:
            return
        raise Refused(
            f"{self._identity} is overloaded: predicted wait {wait * 1e3:.0f} ms, "
            f"the request allows {limit * 1e3:.0f} ms",
            RefusalReason.PREDICTED_LATE,
            max(0.05, whole - limit),
        )

    def meets(
        self,
        time_left: float,
        *,
        requests: int,
        rows: int,
        curve: CostCurve,
        sizes: RunSizes,
        running: RunningNow,
    ) -> bool:
        """Whether none of these requests of level 0, of so many rows each, would be refused as late
        with so many seconds to its deadline, all others being ahead of it."""
        ahead = requests - 1
        if not self.rows and not ahead:
            return True
        wait = self.predicted_wait(
            level=0,
            curve=curve,
            sizes=sizes,
            running=running,
            more_rows=ahead * rows,
            more_entries=ahead,
        )
        own = sizes.lone(curve, rows)
        if wait is None or own is None:
            return True
        return wait + running.run(own, sizes.parts(rows)) <= MISS * time_left

    def predicted_wait(
        self,
        *,
        level: int,
        curve: CostCurve,
        sizes: RunSizes,
        running: RunningNow,
        more_rows: int = 0,
        more_entries: int = 0,
    ) -> float | None:
        """Seconds until a request of `level` that arrives now would start, with so many more ahead
        of it than wait; None if unmeasured.

        The rest of the earliest-free run, and the runs that come ahead at this priority.
        """
        if self._levels:
            rows = sum(count for each, count in self.rows_by_level.items() if each <= level)
            entries = sum(count for each, count in self.entries_by_level.items() if each <= level)
        else:
            rows, entries = self.rows, self.entries_by_level.get(0, 0)
        work = sizes.waiting(curve, rows=rows + more_rows, entries=entries + more_entries)
        return None if work is None else running.wait(work)

    def add(self, *, level: int, rows: int, nbytes: int, weight: int, entries: int = 1) -> None:
        """An entry joins the queue, or several that weigh so much together."""
        self.requests_by_level[level] = self.requests_by_level.get(level, 0) + weight
        self.entries_by_level[level] = self.entries_by_level.get(level, 0) + entries
        self.rows_by_level[level] = self.rows_by_level.get(level, 0) + rows
        self.rows += rows
        self.bytes += nbytes
        self._budget.queued_bytes += nbytes

    def remove(self, *, level: int, rows: int, nbytes: int, weight: int, entries: int = 1) -> None:
        """An entry, or several, left the queue: an executor took it, or it was answered in it."""
        self.requests_by_level[level] -= weight
        self.entries_by_level[level] -= entries
        self.rows_by_level[level] -= rows
        self.rows -= rows
        self.bytes -= nbytes
        self._budget.queued_bytes -= nbytes
