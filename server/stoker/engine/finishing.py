"""What becomes of a batch's outcome, on the event loop: it is counted and its requests answered.

Sixth step of a request, behind the second hop. Requests that came together and were taken together
are counted together.  Hot path.
"""

import heapq
import logging
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from stoker.engine.execution import Batch, Entry, Outcome, Result
from stoker.engine.lone import LoneOutcome
from stoker.engine.queue import RunTime
from stoker.engine.watchdog import LONG_RUN_S
from stoker.errors import DeviceFailed, OutOfMemory, ServingError
from stoker.telemetry.log import event
from stoker.telemetry.statistics import FailureReason, ModelStatistics

if TYPE_CHECKING:
    from stoker.engine.served_model import ServedModel

logger: Final = logging.getLogger(__name__)


class Finishing:
    """The outcomes of one model version's batches."""

    def __init__(self, model: "ServedModel", *, keeps_order: bool) -> None:
        """`keeps_order`: batches are answered in the order in which they were taken."""
        self._model = model
        self._keeps_order = keeps_order
        self._next_outcome = 1
        self._early: list[tuple[int, Outcome]] = []

    def finish(self, outcome: Outcome) -> None:
        """Takes a batch's outcome: counts it and answers its requests."""
        if self._keeps_order:
            heapq.heappush(self._early, (outcome.batch.number, outcome))
            while self._early and self._early[0][0] == self._next_outcome:
                self._next_outcome += 1
                self._finish(heapq.heappop(self._early)[1])
        else:
            self._finish(outcome)

    def finish_arrivals(self, outcome: Outcome) -> None:
        """Takes the outcome of one good run of requests that nothing has noted: they were run as
        they came (`inline.py`)."""
        statistics = self._model.statistics
        batch = outcome.batch
        taken, now = batch.taken, batch.taken + outcome.seconds
        self._count(outcome)
        if self._model.device_failures.in_a_row:
            self._model.device_failures.ran_well()
        counted, came = 0, 0.0
        for (entry, _), result in zip(batch.entries, outcome.results, strict=True):
            if entry.dead:  # cancelled by who heard of another's answer
                entry.answer(result)
                statistics.record_failure(FailureReason.CANCELED, 0)
                continue
            if entry.arrived != came:
                if counted:
                    _succeeded(statistics, counted, came, taken, now)
                counted, came = 0, entry.arrived
            counted += 1
            entry.end(result)
        if counted:
            _succeeded(statistics, counted, came, taken, now)

    def answer_lone(self, outcome: LoneOutcome) -> None:
        """Answers the request of a good run of its own that nothing has noted, as those of
        `finish_arrivals`. `count_lone` is to follow, perhaps when the answer is under way."""
        outcome.entry.end(outcome.response)

    def count_lone(self, outcome: LoneOutcome) -> None:
        """Counts what `answer_lone` answered."""
        entry, request, _, end, alone, taken, began, laid, ran, ended = outcome
        model, form = self._model, entry.form
        arrived = entry.arrived
        model.statistics.record_lone(
            form.rows,
            round((laid - began) * 1e9),
            round((ran - laid) * 1e9),
            round((ended - ran) * 1e9),
            end,
            time.time_ns() // 1_000_000,
            round((ended - arrived) * 1e9),
            round((taken - arrived) * 1e9),
        )
        model.count_demand(form, 1, arrived, is_retry=request.is_retry)
        self._note_run(form.elements, form.rows, ended - began, alone=alone)
        if model.device_failures.in_a_row:
            model.device_failures.ran_well()

    def _finish(self, outcome: Outcome) -> None:
        model = self._model
        model.note_started()
        batch = outcome.batch
        now = model.clock()
        self._count(outcome)
        self._answer(batch.entries, outcome.results, now)
        model.waiting.run_time = _run_time(model) if model.has_limits else None
        if outcome.failed_seconds:
            model.waiting.saw_failure(now)
        if outcome.device_failed is not None:
            self._device_failed(outcome.device_failed, batch)
        elif model.device_failures.in_a_row and outcome.runs:
            model.device_failures.ran_well()

    def _device_failed(self, cause: DeviceFailed, batch: Batch) -> None:
        model = self._model
        end = model.device_failures.judge(cause, batch, batches=model.plan.batches)
        if end is None:
            identity = model.plan.identity
            event(
                logger,
                "batch_failed",
                f"{identity}: a batch failed twice: {cause.message}",
                level=logging.WARNING,
                model=identity.name,
                version=identity.version,
            )
        else:
            model.stop(end, end)

    def _answer(self, entries: Sequence[Entry], results: Sequence[Result], now: float) -> None:
        """Answers the requests of a batch. Those that came together are counted together."""
        model = self._model
        statistics = model.statistics
        counted, came, taken = 0, 0.0, 0.0
        for (entry, _), result in zip(entries, results, strict=True):
            if entry.shadows is not None:
                statistics.wrong_refusals += sum(now <= latest for latest in entry.shadows)
                entry.shadows = None
            if entry.dead or not entry.counts or isinstance(result, ServingError):
                entry.answer(result)
                continue
            if entry.arrived != came or entry.taken != taken:
                if counted:
                    statistics.in_flight -= counted
                    _succeeded(statistics, counted, came, taken, now)
                counted, came, taken = 0, entry.arrived, entry.taken
            counted += 1
            model.leave(entry)
            entry.end(result)
        if counted:
            statistics.in_flight -= counted
            _succeeded(statistics, counted, came, taken, now)
        model.wake_if_idle()

    def _count(self, outcome: Outcome) -> None:
        batch, model = outcome.batch, self._model
        now_ms = time.time_ns() // 1_000_000
        for run in outcome.runs:
            model.statistics.record_run(
                rows=run.rows,
                requests=run.requests,
                input_ns=run.input_ns,
                infer_ns=run.infer_ns,
                output_ns=run.output_ns,
                end=batch.end,
                now_ms=now_ms,
            )
            seconds = (run.input_ns + run.infer_ns + run.output_ns) / 1e9
            elements = batch.entries[0][0].form.elements
            self._note_run(elements, run.rows, seconds, alone=outcome.alone)
        model.statistics.bisections += outcome.bisections
        model.statistics.out_of_memory += outcome.out_of_memory_runs
        model.statistics.device_retries += outcome.device_retries
        if outcome.out_of_memory_runs:
            self._lower_limit(outcome)
        if outcome.bug is not None:
            logger.error(
                "a batch of %s failed for a reason that is a bug",
                model.plan.identity,
                exc_info=outcome.bug,
            )
            outcome.bug = None  # its traceback holds the outcome

    def _note_run(self, elements: int, rows: int, seconds: float, *, alone: bool) -> None:
        """What a good run says of later ones."""
        model = self._model
        model.costs.observe(elements, rows, seconds, alone=alone)
        if seconds > LONG_RUN_S:
            model.long_runs.observe(rows, seconds)
        if model.batch_limit.is_lowered:
            model.batch_limit.fitted(rows)

    def _lower_limit(self, outcome: Outcome) -> None:
        """Makes later batches smaller, where that helps."""
        model, rows = self._model, outcome.out_of_memory_rows
        if rows and not all(isinstance(result, OutOfMemory) for result in outcome.results):
            model.batch_limit.ran_out(rows)
        alone = [
            entry.rows
            for (entry, _), result in zip(outcome.batch.entries, outcome.results, strict=True)
            if isinstance(result, OutOfMemory) and model.costs.is_usual(entry.form.elements)
        ]
        # A request that did not fit alone is run in parts when it comes again, if its rows are
        # independent. Larger items than usual say nothing about batches of usual ones.
        if alone and min(alone) > 1 and model.plan.splits_oversized:
            model.batch_limit.ran_out(min(alone))


def _succeeded(
    statistics: ModelStatistics, count: int, came: float, taken: float, now: float
) -> None:
    statistics.record_success(round((now - came) * 1e9), round((taken - came) * 1e9), count=count)


def _run_time(model: "ServedModel") -> RunTime | None:
    """What runs take from here on; None before a measurement."""
    costs, rows = model.costs, model.policy.max_rows
    one, full = costs.seconds(1), costs.seconds(rows)
    if one is None or full is None:
        return None
    slowdown = model.slowdown()
    longest = model.policy.sustained_rows
    sustained = (costs.seconds(longest) if longest else None) or math.inf
    return RunTime(one * slowdown, full * slowdown, rows, sustained * slowdown)
