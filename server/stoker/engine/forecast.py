"""How long a request will wait and run, from what waits ahead, what runs now, and what runs cost.

Admission asks on the event loop before a request with a limit may wait. Two things can make a run
take longer than it does alone, and both are looked at only where they apply: other runs on the
device at the same time (`slowdown`, measured from runs that had company), and other models that
take turns on the same thread (`share`). Pure but for `running_now` and `slowdown_now`, which read
the executors.  Hot path.  Source: design, section "Batching", "Admission".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stoker.engine.cost_curve import CostCurve

if TYPE_CHECKING:
    from stoker.engine.executor import Instance


@dataclass(frozen=True, slots=True)
class RunSizes:
    """How many rows the runs of a model have."""

    max_rows: int
    """Rows of a full batch; 1: every request runs alone, with all its rows."""
    largest: int
    """Rows of the largest run. A request of more is run in parts of this size."""

    def waiting(self, curve: CostCurve, *, rows: int, entries: int) -> float | None:
        """Device seconds of what waits: `rows` rows in `entries` entries. None if unmeasured."""
        if self.max_rows > 1:
            return _in_parts(curve, rows, self.max_rows)
        if not entries:
            return 0.0
        seconds = curve.seconds(max(1, round(rows / entries)))
        return None if seconds is None else entries * seconds

    def lone(self, curve: CostCurve, rows: int) -> float | None:
        """Device seconds of one request that shares no batch. None if unmeasured."""
        return _in_parts(curve, rows, self.largest)

    def parts(self, rows: int) -> int:
        """Runs that one request of `rows` rows takes."""
        return -(-rows // self.largest)


def _in_parts(curve: CostCurve, rows: int, size: int) -> float | None:
    full = curve.seconds(size)
    if full is None:
        return None
    count, rest = divmod(rows, size)
    return count * full + ((curve.seconds(rest) or 0.0) if rest else 0.0)


@dataclass(frozen=True, slots=True)
class RunningNow:
    """What the executors of a model do at this moment."""

    earliest_free: float
    """Seconds until the first executor can take a batch; 0 when one is idle."""
    executors: int
    share: float = 1.0
    """Part of its executors' turns that this model gets, 1 when it has them to itself."""
    slowdown: float = 1.0
    """How much longer a run takes beside those that will run with it, 1 when nothing does."""

    def wait(self, work: float) -> float:
        """Seconds until device work of `work` seconds that waits ahead has begun and ended."""
        return self.earliest_free + work * self.slowdown / self.executors / self.share

    def run(self, seconds: float, parts: int) -> float:
        """Seconds that a request's own runs take, `seconds` of device work in `parts` runs."""
        return seconds * self.slowdown / min(self.executors, parts)


def slowdown_now(instances: "Sequence[Instance]", curve: CostCurve, prior_slowdown: float) -> float:
    """How much longer a run of `instances` takes at this moment than alone, 1 without company.

    `prior_slowdown` is what warm-up saw when all instances ran together; it counts until runs
    while serving tell better.
    """
    seen = curve.slowdown()
    slowdown = prior_slowdown if seen is None else seen
    if slowdown == 1.0:  # the usual case
        return slowdown
    executors = {instance.executor for instance in instances}
    has_company = len(executors) > 1
    for executor in executors:
        has_company = has_company or executor.device.running > executor.is_running
    return slowdown if has_company else 1.0


def running_now(
    instances: "Sequence[Instance]", curve: CostCurve, prior_slowdown: float, now: float
) -> RunningNow:
    """What the executors of `instances`, all of one model, do at `now` (monotonic seconds).
    `prior_slowdown` as in `slowdown_now`."""
    executors = 1  # nearly every model has one instance
    if len(instances) > 1:
        executors = len({instance.executor for instance in instances})
    slowdown = slowdown_now(instances, curve, prior_slowdown)
    earliest = math.inf
    contenders = 1
    for instance in instances:
        waiting = instance.executor.waiting or [instance]
        contenders = max(contenders, len(waiting))
        rest = 0.0
        for other in waiting:
            since = other.busy_since
            if since is not None:
                cost = other.model.costs.seconds(other.busy_rows) or 0.0
                rest = max(rest, since + cost * slowdown - now)
        earliest = min(earliest, rest)
    return RunningNow(
        0.0 if earliest == math.inf else earliest,
        executors,
        1 / contenders,
        slowdown,
    )
