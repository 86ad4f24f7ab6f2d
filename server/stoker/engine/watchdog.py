"""Finds runs that will not end: on a GPU the whole process is ended, on the CPU it is told.

A run is hung after max(floor, HUNG_FACTOR x what such runs take), where that is the larger of what
the cost curve says and the 99th percentile of the runs of its size. Nothing can stop a run, so on
a GPU, where it holds up every other, a hung run is a sticky device fault; on the CPU it is logged
and counted once, and its requests end by their own deadlines.

  1. One timer for all models; nothing is done per run but to remember those over LONG_RUN_S.
  2. Time counts only while the watchdog sees it pass: a process that was stopped (a frozen
     control group, a migrated machine) accuses no run of the time it slept through.

A run on the event loop (`inline.py`) that hangs holds the timer too: the liveness probe finds that.
Runs on the event loop.  Source: design, section "Operating it".
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from stoker.engine.executor import Instance
from stoker.errors import DeviceFailed, Reach
from stoker.telemetry.log import event

if TYPE_CHECKING:
    from stoker.engine.served_model import ServedModel

logger: Final = logging.getLogger(__name__)

HUNG_AFTER_S: Final = 60.0
"""The floor by default."""
HUNG_FACTOR: Final = 50.0
"""A device that is shared, throttled or warming up makes runs some ten times longer, not fifty."""
LONG_RUN_S: Final = HUNG_AFTER_S / HUNG_FACTOR
"""1.2 s: shorter runs never lift a limit above this floor, so they need not be remembered. Under a
lower floor only the cost curve speaks for them."""
LOOK_S: Final = 5.0
REMEMBERED: Final = 256
"""Long runs of one size."""


class LongRuns:
    """The runs over LONG_RUN_S of one model, by the power of two of their rows."""

    def __init__(self) -> None:
        self._last: dict[int, deque[float]] = {}
        self._counts: dict[int, int] = {}

    def observe(self, rows: int, seconds: float) -> None:
        """Takes note of a run over LONG_RUN_S."""
        size = size_of(rows)
        self._last.setdefault(size, deque(maxlen=REMEMBERED)).append(seconds)
        self._counts[size] = self._counts.get(size, 0) + 1

    def p99(self, rows: int, runs: int) -> float:
        """Seconds that 99 of 100 runs of this size stay within; 0: within LONG_RUN_S.

        `runs` counts all runs of this size, the short ones among them.
        """
        size = size_of(rows)
        long = self._counts.get(size, 0)
        if long <= runs / 100:
            return 0.0
        beyond = runs / 100 / long  # the share of the long runs that are the longest hundredth
        ranked = sorted(self._last[size])
        return ranked[min(len(ranked), math.ceil(len(ranked) * (1 - beyond))) - 1]


def size_of(rows: int) -> int:
    """The power of two that `rows` is rounded up to."""
    return 1 << max(0, rows - 1).bit_length()


def hung_after(model: "ServedModel", rows: int, floor_s: float) -> float:
    """Seconds after which a run of so many rows is hung."""
    size = size_of(rows)
    batches = model.statistics.batches
    runs = sum(batch.count for at, batch in batches.items() if size_of(at) == size)
    expected = max(model.costs.seconds(rows) or 0.0, model.long_runs.p99(rows, runs))
    return max(floor_s, HUNG_FACTOR * expected)


class Watchdog:
    """Watches the instances of all models of an engine."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        floor_s: float = HUNG_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`floor_s` 0 turns it off."""
        self._loop = loop
        self._floor = floor_s
        self._clock = clock
        self._period = min(LOOK_S, floor_s / 4)
        self._models: dict[ServedModel, None] = {}
        self._seen: dict[Instance, tuple[float, float]] = {}
        """Of the runs under way at the last look: when each began, and how long it was seen."""
        self._looked = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, model: "ServedModel") -> None:
        """Watches a model from here on."""
        self._models[model] = None
        if self._timer is None and self._floor > 0:
            self._looked = self._clock()
            self._timer = self._loop.call_later(self._period, self._tick)

    def forget(self, model: "ServedModel") -> None:
        """The model is gone."""
        self._models.pop(model, None)

    def close(self) -> None:
        """Ends the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._period, self._tick)
        self.look()

    def look(self) -> None:
        """Looks at every run under way. The timer calls it."""
        now = self._clock()
        passed = min(now - self._looked, 2 * self._period)
        self._looked = now
        before, self._seen = self._seen, {}
        for model in list(self._models):
            for instance in model.instances:
                began = instance.busy_since
                if began is None:
                    continue
                known = before.get(instance)
                if known is not None and known[0] == began:
                    seen = known[1] + passed
                else:
                    seen = min(now - began, passed)
                if instance.execution.is_preparing:  # many runs, each watched while it is made
                    seen = 0.0
                self._seen[instance] = (began, seen)
                if seen >= self._floor:
                    self._judge(model, instance, began, seen)

    def _judge(self, model: "ServedModel", instance: Instance, began: float, seen: float) -> None:
        rows, device = instance.busy_rows, instance.executor.device.name
        limit = hung_after(model, rows, self._floor)
        if seen < limit:
            return
        self._seen[instance] = (began, -math.inf)  # it is told once
        model.statistics.hung_runs += 1
        identity = model.plan.identity
        sentence = (
            f"a run of {rows} row(s) of {identity} on {device} has not ended after {seen:.0f} s; "
            f"such runs end within {limit:.0f} s"
        )
        event(
            logger,
            "hung_run",
            sentence,
            level=logging.ERROR,
            model=identity.name,
            version=identity.version,
            device=device,
            rows=rows,
            seconds=round(seen, 1),
            limit_s=round(limit, 1),
        )
        if device != "cpu":
            error = DeviceFailed(sentence, reach=Reach.PROCESS)
            model.stop(error, error)
