"""Decides when a batch starts and how many requests it takes. Pure: times come as arguments.

Third step of a request: it waits in its shape group until an executor asks `next_step` and obeys.
Without a delay or preferred sizes in the model's file an executor takes what is there, at once:
batches form from what came while it was busy. With them, Triton's procedure holds: docs/models.md,
"Batching".  Hot path.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from stoker.telemetry.statistics import BatchEnd


class Waiting(Protocol):
    """What the decision reads of a queued request."""

    rows: int
    enqueued: float
    expires: float
    dead: bool


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How rows become batches."""

    max_rows: int = 1
    preferred_rows: tuple[int, ...] = ()
    """As written in the file; empty: none."""
    max_delay: float = 0.0
    """Seconds that the oldest request may be held for more rows."""
    sustained_rows: int = 0
    """Most rows of a batch, more than `max_rows`, while a backlog lasts (`backlog.py`); 0: never
    more. For policies without preferred rows and delay only."""
    instances: int = 1
    """That take from the queue."""

    is_immediate: bool = field(init=False)
    """Whether an executor never waits while there is work."""

    @property
    def most_rows(self) -> int:
        """Rows of the largest batch, whatever waits."""
        return max(self.max_rows, self.sustained_rows)

    def __post_init__(self) -> None:
        is_immediate = not self.preferred_rows and self.max_delay <= 0
        object.__setattr__(self, "is_immediate", is_immediate)  # frozen; asked for each batch


@dataclass(slots=True)
class RunBatch:
    """Take the first `count` entries of the group (dead ones among them are dropped)."""

    count: int
    end: BatchEnd


@dataclass(slots=True)
class WaitUntil:
    """Nothing to run before `time` (monotonic seconds), unless a request arrives."""

    time: float


def next_step(
    group: Sequence[Waiting], policy: BatchPolicy, now: float, *, sustained_rows: int = 0
) -> RunBatch | WaitUntil:
    """The next step for a group of requests of one shape, in the order they should run.

    Returns RunBatch with the entries to take, or WaitUntil: infinity when all entries are dead.
    An entry of more rows than `max_rows` runs alone. `sustained_rows`: the limit while a backlog
    lasts; 0: none does.
    """
    if policy.is_immediate:
        return _take_what_fits(group, sustained_rows or policy.max_rows)
    return _take_as_configured(group, policy, now)


def _take_what_fits(group: Sequence[Waiting], max_rows: int) -> RunBatch | WaitUntil:
    rows = count = 0
    for entry in group:
        if not entry.dead:
            if rows and rows + entry.rows > max_rows:
                return RunBatch(count, BatchEnd.FULL)
            rows += entry.rows
        count += 1
    if not rows:
        return WaitUntil(math.inf)
    return RunBatch(count, BatchEnd.FULL if rows >= max_rows else BatchEnd.IDLE)


def _take_as_configured(
    group: Sequence[Waiting], policy: BatchPolicy, now: float
) -> RunBatch | WaitUntil:
    """Triton's procedure (dynamic batcher with preferred sizes P, delay D and maximum M).

    Entries are taken in order while they fit into M. The mark is the largest point so far at which
    the taken rows were a preferred size, or where they outgrew the largest one.
    """
    largest = max(policy.preferred_rows, default=policy.max_rows)
    rows = count = mark = 0
    oldest = nearest_expiry = math.inf
    must_send = False
    for entry in group:
        if entry.dead:
            count += 1
            continue
        if rows:
            if rows + entry.rows > largest and not mark:
                mark = count
            if rows + entry.rows > policy.max_rows:
                must_send = True
                break
        rows += entry.rows
        count += 1
        oldest = min(oldest, entry.enqueued)
        nearest_expiry = min(nearest_expiry, entry.expires)
        if rows in policy.preferred_rows:
            mark = count
    if not rows:
        return WaitUntil(math.inf)
    send_at = oldest + policy.max_delay
    is_late = policy.max_delay > 0 and now >= send_at
    if mark and not is_late:
        return RunBatch(mark, BatchEnd.PREFERRED)
    if must_send or rows >= policy.max_rows:
        return RunBatch(count, BatchEnd.FULL)
    if is_late or policy.max_delay <= 0:
        return RunBatch(count, BatchEnd.DELAY if is_late else BatchEnd.IDLE)
    if rows >= largest:
        return RunBatch(count, BatchEnd.FULL)
    return WaitUntil(min(send_at, nearest_expiry) if nearest_expiry > now else send_at)
