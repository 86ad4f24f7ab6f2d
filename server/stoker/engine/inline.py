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
     The first slow run only lets the CPU clock, a system call, be looked at in what follows.
  5. While the executor computes for others, runs here take no more than a quantum for each of its
     batches; what comes beyond that takes its turn there. Threads yield to the loop, and on one
     core they would starve.

Requests that find nothing waiting before them do not join the queue: they are run as they came
(`runs_arrivals`), and what admission, inbox and queue would note of them is noted by nobody. One
that is alone is run without a batch (`lone.py`). A run that fails is handed to `finish` like any
other.

A turn of the loop spends at most TURN_S on runs, over all models (`loop_turns.py`). What is left
then waits, in order, for the next turn, which talks to clients first: two turns without a thread
are shorter than one with the hops, and what comes meanwhile joins the batch. What may not run here
is rung for.  A request that is likely to be the only one of its turn does not wait for the end.
Hot path.  Measured: benchmarks/results/0006-grpc.md.  Source: design, "The way of a request".
"""

import logging
import math
from typing import TYPE_CHECKING, Final

from stoker.engine.arrivals import Arrivals
from stoker.engine.execution import Batch, Outcome
from stoker.engine.executor import Instance
from stoker.engine.lone import LoneOutcome
from stoker.engine.loop_turns import MAX_RUN_S, LoopTurns
from stoker.engine.pending import Pending
from stoker.telemetry.statistics import BatchEnd

if TYPE_CHECKING:
    from stoker.engine.served_model import ServedModel

logger: Final = logging.getLogger(__name__)

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


class Inline:
    """The place of one model on the loop."""

    def __init__(self, model: "ServedModel", instance: Instance, turns: LoopTurns) -> None:
        """`instance` is the model's only one, which the executor uses when it was rung for."""
        self._model = model
        self._instance = instance
        self._turns = turns
        self._waits = False
        self._is_early = False
        """The run under way is one before the end of the turn."""
        self._ran_early = False
        self._uncounted: LoneOutcome | None = None
        self._most_rows = 0
        self._runs = _LOOK_RUNS
        self._slow = 0
        """Of these runs so many were slow."""
        self._rests_until = -math.inf

    def begin_turn(self, arrivals: Arrivals) -> None:
        """The first request came in this turn of the loop: it is run at once if it is likely to be
        the only one. It is counted when the turn ends: its answer does not wait for that."""
        if self._turns.open():
            self._is_early = True
            try:
                self._ran_early = self.runs_arrivals(arrivals)
            finally:
                self._is_early = False

    def end_turn(self, requests: int) -> None:
        """So many requests of this turn have not been run."""
        self._turns.close(requests + self._ran_early)
        self._ran_early = False
        if self._uncounted is not None:
            lone, self._uncounted = self._uncounted, None
            self._model.finishing.count_lone(lone)

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
        lock, instance = model.waiting.lock, self._instance
        try:
            if not lock.acquire(False):
                return False
            try:
                if instance.is_taken:
                    return False
                lone = self._run_lone(entries[0], end, now) if len(entries) == 1 else None
                if lone is None:
                    pairs = [
                        (entry, entry.request) for entry in entries if entry.request is not None
                    ]
                    outcome = self._perform(Batch(pairs, rows, end, now, 0))
            finally:
                lock.release()
        except Exception as error:
            self._fail(error)
            return True
        arrivals.clear()
        if lone is not None:
            model.finishing.answer_lone(lone)
            if self._is_early:
                self._uncounted = lone
            else:
                model.finishing.count_lone(lone)
            return True
        arrivals.count_demand(entries)
        if len(outcome.runs) == 1 and not outcome.failed_seconds:  # all have their answer
            model.finishing.finish_arrivals(outcome)
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
        self._spend(outcome.seconds, batch.taken)
        return outcome

    def _run_lone(self, entry: Pending, end: BatchEnd, now: float) -> LoneOutcome | None:
        """Runs one request without a batch. None: it is to be run with one, and if it has failed,
        that fails as well and says why."""
        instance, request, clock = self._instance, entry.request, self._model.clock
        try:
            lone = instance.execution.lone(entry.form)
        except Exception:  # memory that is not to be had is this request's failure, not the model's
            return None
        if lone is None or request is None:
            return None
        device = instance.executor.device
        self._turns.note_run()
        ticket = device.enter()
        alone = False
        try:
            began = clock()
            if not lone.lay(request.data):
                return None
            laid = clock()
            lone.run()
            ran = clock()
            response = lone.answer(request)
        except Exception:
            return None
        finally:
            alone = device.leave(ticket)
        ended = clock()
        self._spend(ended - now, now)
        return LoneOutcome(entry, request, response, end, alone, now, began, laid, ran, ended)

    def _spend(self, seconds: float, began: float) -> None:
        """Takes note of a run."""
        self._turns.spend(seconds)
        self._instance.executor.loop_ran(seconds)
        if seconds > SLOW_RUN_S:
            self._model.statistics.slow_loop_runs += 1
            self._slow += self._turns.used_cpu(SLOW_RUN_S)
            if self._slow >= MOST_SLOW:
                self._rest(began, seconds)

    def _fail(self, error: Exception) -> None:
        """This model's queue cannot be trusted any more."""
        logger.exception("serving %s failed", self._model.plan.identity)
        self._model.fail(error)

    def _wait(self) -> None:
        if not self._waits:
            self._waits = True
            self._turns.wait(self.go_on)

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
