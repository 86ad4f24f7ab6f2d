"""Runs of short models on the event loop itself: no hop to a thread and back.

A hop to a thread and back costs more than a small network takes (benchmarks/results/0001), and with
many small models nearly every request pays for one. So at the end of a turn of the loop the batch
may run right there. All of this must hold:

  1. The model runs on the CPU with one thread, its shapes are fixed, one executor serves it, and
     nothing in its file makes requests wait for others.
  2. The loop gets the lock of the model's queue at the first try and keeps it until the run is
     over, and the executor has no batch of this model: one run of an instance at a time. What else
     the executor does, for other models, does not matter.
  3. The run of all that waits is expected to take at most MAX_RUN_S.
  4. MOST_SLOW of _LOOK_RUNS runs over SLOW_RUN_S send the model back to its executor for REST_S,
     if the loop's thread had the CPU for so long: a pause that the machine made is not the model's.
  5. While the executor computes for others, runs here take no more than a quantum for each of its
     batches; what comes beyond that takes its turn there. Threads yield to the loop, and on one
     core they would starve.

Requests that find nothing waiting before them do not join the queue: they are run as they came
(`runs_arrivals`), and what admission, inbox and queue would note of them is noted by nobody. A run
that fails is handed to `finish` like any other.

A turn of the loop spends at most TURN_S on runs, over all models. What is left then waits, in
order, for the next turn, which talks to clients first: two turns without a thread are shorter than
one with the hops, and what comes meanwhile joins the batch. What may not run here is rung for.
Hot path.  Measured: benchmarks/results/0006-grpc.md.  Source: design, "The way of a request".
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from stoker.engine.arrivals import Arrivals
from stoker.engine.execution import Batch, Outcome
from stoker.engine.executor import Instance
from stoker.telemetry.statistics import BatchEnd

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
"""One slow run may be the machine's fault even so: the first of a model, or one that met another's
memory traffic."""
REST_S: Final = 10.0
"""A model that is slow is not tried more often than so."""

_NEAR_S: Final = 0.01
"""A request whose deadline is nearer goes through the queue, which leaves out who would be late."""

_LOOK_RUNS: Final = 64
"""Runs after which the cost curve is asked again."""


class LoopTurns:
    """The turns of one event loop: what the present one has spent on runs, and the models that
    wait for the next. One object for all models of a loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, cpu_clock: Callable[[], float] = time.thread_time
    ) -> None:
        """`cpu_clock`: CPU seconds of the loop's thread."""
        self._loop = loop
        self._cpu_clock = cpu_clock
        self._cpu_began = 0.0
        """Of `cpu_clock`, when the first run of the turn began."""
        self._spent = 0.0
        self._waiting: deque[Inline] = deque()
        self._next_is_due = False

    @property
    def is_spent(self) -> bool:
        """Whether a run would not fit into this turn."""
        return self._spent > _LAST_START_S

    def used_cpu(self, seconds: float) -> bool:
        """Whether the loop's thread may have had the CPU for so long since the turn's first run."""
        return self._cpu_clock() - self._cpu_began >= seconds

    def note_run(self) -> None:
        """A run is about to begin."""
        if not self._spent:
            self._cpu_began = self._cpu_clock()

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
        """`instance` is the model's only one, which the executor uses when it was rung for."""
        self._model = model
        self._instance = instance
        self._turns = turns
        self._waits = False
        self._most_rows = 0
        self._runs = _LOOK_RUNS
        self._slow = 0
        """Of these runs so many were slow."""
        self._rests_until = -math.inf

    def runs_arrivals(self, arrivals: Arrivals) -> bool:
        """Runs what came, in this turn of the loop or the next, without the way through the queue.
        False: that is not for here, and nothing has happened."""
        model, entries = self._model, arrivals.entries
        now = model.clock()
        form, rows = entries[0].form, 0
        for entry in entries:
            if entry.form is not form or entry.dead or entry.deadline - now < _NEAR_S:
                return False
            rows += entry.rows
        if (
            not self._may_run(rows, now)
            or model.waiting.entries
            or len(entries) > model.admission.most_requests
        ):
            return False
        if self._turns.is_spent:
            self._wait()
            return True
        end = BatchEnd.FULL if rows >= model.policy.max_rows else BatchEnd.IDLE
        pairs = [(entry, entry.request) for entry in entries if entry.request is not None]
        lock, instance = model.waiting.lock, self._instance
        try:
            if not lock.acquire(False):
                return False
            try:
                if instance.is_taken:
                    return False
                outcome = self._perform(Batch(pairs, rows, end, now, 0))
            finally:
                lock.release()
        except Exception as error:
            self._fail(error)
            return True
        arrivals.clear()
        arrivals.count_demand(entries)
        if len(outcome.runs) == 1 and not outcome.failed_seconds:  # all have their answer
            model.finish_arrivals(outcome)
        else:
            model.hold_all(entries, now)
            model.finish(outcome)
        return True

    def runs(self) -> bool:
        """Runs what waits, in this turn of the loop or the next, if that may be. False: the
        executor is to be rung."""
        model = self._model
        rows = model.admission.rows
        if not rows and not model.waiting.entries:  # shells are cleared by who takes
            return True
        now = model.clock()
        if not self._may_run(rows, now):
            return False
        if self._turns.is_spent:
            self._wait()
            return True
        lock, instance = model.waiting.lock, self._instance
        try:
            if not lock.acquire(False):
                return False
            try:
                if instance.is_taken:
                    return False
                batch = model.waiting.take(model.policy, now)
                if not isinstance(batch, Batch):
                    return True
                outcome = self._perform(batch)
            finally:
                lock.release()
        except Exception as error:
            self._fail(error)
            return True
        model.finish(outcome)
        if model.admission.rows:
            self._wait()
        return True

    def go_on(self) -> None:
        """The turn that the model has waited for."""
        self._waits = False
        self._model.serve()

    def _may_run(self, rows: int, now: float) -> bool:
        """Whether rules 3 to 5 let a run of so many rows begin, as far as is known."""
        self._runs += 1
        if self._runs >= _LOOK_RUNS:
            self._look()
        return (
            rows <= self._most_rows
            and rows <= self._model.policy.max_rows  # which may have been lowered
            and now >= self._rests_until
            and self._instance.executor.lets_loop_run()
        )

    def _perform(self, batch: Batch) -> Outcome:
        instance = self._instance
        device = instance.executor.device
        self._turns.note_run()
        ticket = device.enter()
        try:
            outcome = instance.execution.execute(batch)
        finally:
            alone = device.leave(ticket)
        outcome.alone = alone
        outcome.seconds = self._model.clock() - batch.taken
        self._turns.spend(outcome.seconds)
        instance.executor.loop_ran(outcome.seconds)
        if outcome.seconds > SLOW_RUN_S:
            self._model.statistics.slow_loop_runs += 1
            self._slow += self._turns.used_cpu(SLOW_RUN_S)
            if self._slow >= MOST_SLOW:
                self._rest(batch.taken, outcome.seconds)
        return outcome

    def _fail(self, error: Exception) -> None:
        """This model's queue cannot be trusted any more."""
        logger.exception("serving %s failed", self._model.plan.identity)
        self._model.fail(error)

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
