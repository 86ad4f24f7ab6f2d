"""Runs of short models on the event loop itself: no hop to a thread and back.

A hop to a thread and back costs more than a small network takes (benchmarks/results/0001), and with
many small models nearly every request pays for one. So at the end of a turn of the loop, when what
came is admitted, the batch may run right there. All of this must hold:

  1. The model runs on the CPU with one thread, its shapes are fixed, one executor serves it, and
     nothing in its file makes requests wait for others.
  2. That executor sleeps and nobody has rung for it, so that it is not inside `take`, nor inside
     the session: the loop takes its place, and the lock of the model is free.
  3. The run of all that waits is expected to take at most MAX_RUN_S.
  4. MOST_SLOW of _LOOK_RUNS runs over SLOW_RUN_S send the model back to its executor for REST_S.

A turn of the loop spends at most TURN_S on runs, over all models. What is left then waits, in
order, for the next turn, which talks to clients first: two turns without a thread are shorter than
one with the hops, and what comes meanwhile joins the batch. What may not run here is rung for.
Hot path.  Measured: benchmarks/results/0006-grpc.md.  Source: design, "The way of a request".
"""

import asyncio
import logging
import math
from collections import deque
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

_LAST_START_S: Final = TURN_S - MAX_RUN_S

SLOW_RUN_S: Final = 1e-3
MOST_SLOW: Final = 3
"""One slow run may be the machine's fault: beside other processes on its core, one of some 200 runs
of 20 us meets the end of a time slice of 4 ms."""
REST_S: Final = 10.0
"""A model that is slow is not tried more often than so."""

_LOOK_RUNS: Final = 64
"""Runs after which the cost curve is asked again."""


class LoopTurns:
    """The turns of one event loop: what the present one has spent on runs, and the models that
    wait for the next. One object for all models of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._spent = 0.0
        self._waiting: deque[Inline] = deque()
        self._next_is_due = False

    @property
    def is_spent(self) -> bool:
        """Whether a run would not fit into this turn."""
        return self._spent > _LAST_START_S

    def spend(self, seconds: float) -> None:
        """Counts a run; the next turn begins at 0."""
        self._spent += seconds
        self._call_next()

    def wait(self, inline: "Inline") -> None:
        """Serves a model in the next turn, behind those that wait already."""
        self._waiting.append(inline)
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
                waiting.popleft().go_on()
        finally:  # a model that breaks keeps none from their turn
            if waiting:
                self._call_next()


class Inline:
    """The place of one model on the loop."""

    def __init__(self, model: "ServedModel", instance: Instance, turns: LoopTurns) -> None:
        """`instance` is the model's only one, which the executor uses when it is awake."""
        self._model = model
        self._instance = instance
        self._turns = turns
        self._waits = False
        self._most_rows = 0
        self._runs = _LOOK_RUNS
        self._slow = 0
        """Of these runs so many were slow."""
        self._rests_until = -math.inf

    def runs(self) -> bool:
        """Runs what waits, in this turn of the loop or the next, if that may be. False: the
        executor is to be rung."""
        model, executor = self._model, self._instance.executor
        if not executor.is_asleep:
            return False
        rows = model.admission.rows
        if not rows and not model.waiting.entries:  # shells are cleared by who takes
            return True
        self._runs += 1
        if self._runs >= _LOOK_RUNS:
            self._look()
        if rows > self._most_rows:
            return False
        now = model.clock()
        if now < self._rests_until:
            return False
        if self._turns.is_spent:
            self._wait()
            return True
        try:
            batch = model.take(self._instance, now)
            if not isinstance(batch, Batch):
                return True
            outcome = executor.perform(self._instance, batch)
        except Exception as error:  # this model's queue cannot be trusted any more
            logger.exception("serving %s failed", model.plan.identity)
            model.fail(error)
            return True
        self._turns.spend(outcome.seconds)
        if outcome.seconds > SLOW_RUN_S:
            model.statistics.slow_loop_runs += 1
            self._slow += 1
            if self._slow >= MOST_SLOW:
                self._rest(now, outcome.seconds)
        model.finish(outcome)
        if model.admission.rows:
            self._wait()
        return True

    def go_on(self) -> None:
        """The turn that the model has waited for."""
        self._waits = False
        self._model.serve()

    def _wait(self) -> None:
        if not self._waits:
            self._waits = True
            self._turns.wait(self)

    def _rest(self, now: float, seconds: float) -> None:
        self._slow = 0
        self._rests_until = now + REST_S
        logger.debug(
            "runs of %s take the loop long, the last one %.1f ms: its executor runs it for a while",
            self._model.plan.identity,
            seconds * 1e3,
        )

    def _look(self) -> None:
        """Works out how many rows may run here."""
        self._runs = self._slow = 0
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
