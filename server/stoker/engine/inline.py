"""Runs of short models on the event loop itself: no hop to a thread and back.

A hop to a thread and back costs more than a small network takes (benchmarks/results/0001). So at
the end of a turn of the loop, when what came is admitted, the batch may run right there. All of
this must hold:

  1. The model runs on the CPU with one thread, its shapes are fixed, one executor serves it, and
     nothing in its file makes requests wait for others.
  2. That executor sleeps, so that it is not inside `take`, nor inside the session: the loop takes
     its place, and the lock of the model is free.
  3. The run is expected to take at most MAX_RUN_S, and the turn has so much left of TURN_S.
  4. A run that takes over SLOW_RUN_S sends the model back to its executor for REST_S.

What is not run here is rung for as before.  Hot path.
Measured: benchmarks/results/0006-grpc.md.  Source: design, section "The way of a request".
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from stoker.engine.execution import Batch
from stoker.engine.executor import Instance

if TYPE_CHECKING:
    from stoker.engine.served_model import ServedModel

logger: Final = logging.getLogger(__name__)

MAX_RUN_S: Final = 100e-6
"""A run that is expected to take longer has its thread, and the loop talks to clients meanwhile."""

TURN_S: Final = 200e-6
"""Of one turn of the loop, over all models."""

SLOW_RUN_S: Final = 1e-3
REST_S: Final = 10.0
"""One long run may be the machine's fault; a model that is slow is not tried more often than so."""

_LOOK_RUNS: Final = 64
"""Runs after which the cost curve is asked again."""


class TurnBudget:
    """What this turn of the loop has spent on runs. One object for all models of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.spent = 0.0

    def spend(self, seconds: float) -> None:
        """Counts a run; the next turn begins at 0."""
        if not self.spent:
            self._loop.call_soon(self._reset)
        self.spent += seconds

    def _reset(self) -> None:
        self.spent = 0.0


class Inline:
    """The place of one model on the loop."""

    def __init__(
        self,
        model: "ServedModel",
        instance: Instance,
        budget: TurnBudget,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`instance` is the model's only one, which the executor uses when it is awake."""
        self._model = model
        self._instance = instance
        self._budget = budget
        self._clock = clock
        self._most_rows = 0
        self._runs = _LOOK_RUNS
        self._rests_until = -math.inf

    def runs(self) -> bool:
        """Runs what waits, if it may. False: the executor is to be rung."""
        instance = self._instance
        executor = instance.executor
        if not executor.is_asleep:
            return False
        model = self._model
        self._runs += 1
        if self._runs >= _LOOK_RUNS:
            self._look()
        if not 0 < model.admission.rows <= self._most_rows:
            return False
        budget = self._budget
        if budget.spent > TURN_S - MAX_RUN_S:
            return False
        began = self._clock()
        if began < self._rests_until:
            return False
        batch = model.take(instance, began)
        if not isinstance(batch, Batch):
            return False
        outcome = executor.perform(instance, batch)
        seconds = self._clock() - began
        budget.spend(seconds)
        if seconds > SLOW_RUN_S:
            self._rests_until = began + REST_S
            logger.debug(
                "a run of %s took the loop %.1f ms: its executor runs it for a while",
                model.plan.identity,
                seconds * 1e3,
            )
        model.finish(outcome)
        return not model.admission.rows

    def _look(self) -> None:
        """Works out how many rows may run here."""
        self._runs = 0
        costs, rows = self._model.costs, self._model.policy.max_rows
        while rows and (costs.seconds(rows) or math.inf) > MAX_RUN_S:
            rows //= 2
        self._most_rows = rows


def may_run_inline(model: "ServedModel", intra_op_threads: int) -> bool:
    """Whether rule 1 holds."""
    if len(model.instances) != 1 or intra_op_threads != 1 or not model.policy.is_immediate:
        return False
    plan = model.plan
    if model.instances[0].executor.device.name != "cpu" or model.keeps_order:
        return False
    dims = [each.dims for each in plan.inputs] + [each.dims for each in plan.outputs]
    return not any(-1 in each for each in dims)
