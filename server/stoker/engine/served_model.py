"""One model version that serves: its queue, its numbers, and the only two crossings of threads.

On the event loop: `submit` (check, admit, inbox), `finish` (statistics, answers), expiry, cancel,
close. On executor threads: `take`, under the model's lock, which the loop never touches. What the
executors took is told to the loop by the `started` log, read whenever the loop needs the counts.
Hot path.

Invariants.
  1. Every entry in `_live` is answered exactly once; `_live` is empty when the model is closed.
     A request that is run in parts is in it as a whole and with each part.
  2. Admission counts an entry from `submit` until it is known to be started, or is answered.
  3. Entries enter the queue in the order of the inbox; only `take` orders and removes them.
"""

import asyncio
import heapq
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final

from stoker.engine.admission import Admission, Refused
from stoker.engine.arrivals import Arrivals
from stoker.engine.cost_book import CostBook
from stoker.engine.execution import Batch, Entry, FailureBudget, Outcome, Result
from stoker.engine.executor import Instance
from stoker.engine.expiry import Expiry
from stoker.engine.forecast import RunningNow, RunSizes, running_now
from stoker.engine.oversized import OversizedRequest
from stoker.engine.pending import Pending
from stoker.engine.plan import ModelPlan, RequestForm
from stoker.engine.queue import RequestQueue
from stoker.engine.scheduler import BatchPolicy, RunBatch, next_step
from stoker.errors import (
    Cancelled,
    DeadlineExceeded,
    DeviceFailed,
    Draining,
    Internal,
    InvalidRequest,
    ModelNotReady,
    OutOfMemory,
    ServingError,
)
from stoker.inference import Cancel, Reply
from stoker.request import InferRequest, InferResponse
from stoker.telemetry.statistics import FailureReason, ModelStatistics, RefusalReason

logger: Final = logging.getLogger(__name__)


_FAILURES: Final = {
    DeadlineExceeded: FailureReason.REJECTED,
    Cancelled: FailureReason.CANCELED,
    Draining: FailureReason.OTHER,
    ModelNotReady: FailureReason.OTHER,
    Internal: FailureReason.OTHER,
}


MOST_SHADOWS: Final = 1024
"""Refusals remembered at one entry: the sum over them, when it starts, takes some 50 us."""

RETRY_AFTER_S: Final = 1.0
"""What a full queue tells its clients while nothing is measured."""


def nothing_to_cancel() -> None:
    """The Cancel of a request that was answered at once."""


class ServedModel:
    """The engine's part of one version. Built by the loader, owned by the event loop."""

    def __init__(
        self,
        plan: ModelPlan,
        policy: BatchPolicy,
        admission: Admission,
        costs: CostBook,
        statistics: ModelStatistics,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = plan
        self.policy = policy
        self.admission = admission
        self.costs = costs
        self.statistics = statistics
        self.failure_budget = FailureBudget()
        self.lock: AbstractContextManager[object] = threading.Lock()
        """Held by executors while they take a batch; the loop never takes it."""
        self.instances: list[Instance] = []
        self.prior_slowdown = 1.0
        """How much longer a run took in warm-up when all instances ran at the same time."""
        self.add_demand: Callable[[float, float], None] | None = None
        """Told of every valid request: its worth in seconds of device time, and when it came."""
        self.on_device_failed: Callable[[DeviceFailed], None] | None = None
        self.refusal: ServingError | None = None
        """Set: new requests get this answer."""
        batching = plan.config.batching
        self._is_plain = admission.is_plain
        self.turn_began = 0.0
        """When the first request of this turn of the loop came, which counts for all of them: their
        bytes lay in their sockets. 0: none has come."""
        self._arrivals = Arrivals(self, loop)
        self.keeps_order = batching is not None and batching.preserve_ordering
        self._loop = loop
        self._clock = clock
        self._inbox: deque[Pending] = deque()
        self._queue = RequestQueue()
        self._queued = 0
        """Entries that the last `take` left in the queue, shells among them."""
        self._delays = admission.has_delay_policy
        self._started: deque[Batch] = deque()
        self._batches = 0
        self._live: set[Pending] = set()
        self._last: Pending | None = None
        self._expiry = Expiry(loop, self._expire, clock)
        self._ring_is_due = False
        self._idle: asyncio.Event | None = None
        self._is_stopped = False
        self._next_outcome = 1
        self._early: list[tuple[int, Outcome]] = []

    # --- the event loop: in ---------------------------------------------------------------------

    def submit(self, request: InferRequest, reply: Reply, now: float) -> Cancel:
        """Checks, admits and queues a request; refusals are replied at once, or when this turn of
        the loop ends."""
        form = self.plan.known(request.kind)
        if (
            form is not None
            and self._is_plain
            and self.refusal is None
            and form.rows <= self.costs.sizes.largest
        ):  # a request like others before it: the usual case
            entry = Pending(self, request, form, reply, now)
            data = request.data
            if len(data) == 1 and type(data[0]) is bytes:
                entry.nbytes = len(data[0])
            else:
                entry.nbytes = request.nbytes
            self._arrivals.add(entry)
            return entry.cancel
        self._arrivals.gather()
        try:
            form = self.plan.check(request)
            if self.refusal is not None:
                self._refuse(self.refusal, reply)
                return nothing_to_cancel
            self._count_demand(form, 1, now, is_retry=request.is_retry)
            if form.rows > self.costs.sizes.largest and self.plan.splits_oversized:
                return OversizedRequest(self, request, form, reply, now).submit(request)
            entry = Pending(self, request, form, reply, now)
            self.admit(entry, request)
        except InvalidRequest as error:
            self.statistics.record_refusal(RefusalReason.INVALID)
            reply(error.bare())
            return nothing_to_cancel
        except ServingError as error:
            reply(error.bare())
            return nothing_to_cancel
        self.enqueue(entry)
        return entry.cancel

    def admit(self, entry: Pending, request: InferRequest) -> None:
        """Sets the entry's level, size and limits; raises Refused when it must not wait."""
        admission = self.admission
        now = entry.arrived
        self.note_started()
        entry.level = level = admission.level(request.kind.priority)
        entry.nbytes = request.nbytes
        timeout = admission.timeout(level, request.kind.timeout_us)
        if timeout != math.inf:
            entry.delays = admission.policy(level).delays_on_timeout
            entry.expires = min(entry.deadline, now + timeout)
        try:
            shells = len(self._inbox) + self._queued
            admission.admit(level=level, rows=entry.rows, nbytes=entry.nbytes, shells=shells)
            if admission.rows and entry.expires != math.inf:
                admission.refuse_if_late(
                    level=level,
                    rows=entry.rows,
                    queue_timeout=math.inf if entry.delays else timeout,
                    time_left=entry.deadline - now,
                    curve=self.costs.curve(entry.form.elements),
                    sizes=self.costs.sizes,
                    running=self._running(now),
                )
        except Refused as error:
            self.statistics.record_refusal(error.reason)
            if error.reason is RefusalReason.PREDICTED_LATE:
                self._watch_refusal(entry)
            if error.retry_after is None:
                error.retry_after = self.predicted_wait(now) or RETRY_AFTER_S
            raise

    def enqueue(self, entry: Pending) -> None:
        """Puts an admitted entry into the inbox; the bell rings once per loop turn."""
        self.admission.add(
            level=entry.level, rows=entry.rows, nbytes=entry.nbytes, weight=entry.weight
        )
        self.statistics.pending += entry.weight
        self.statistics.in_flight += entry.counts
        self._live.add(entry)
        self._last = entry
        self._expiry.watch(entry, entry.deadline if entry.delays else entry.expires)
        self._inbox.append(entry)
        if not self._ring_is_due:
            self._ring_is_due = True
            self._loop.call_soon(self.ring)

    def enqueue_all(
        self, entries: Sequence[Pending], rows: int, nbytes: int, *, has_deadlines: bool
    ) -> None:
        """Puts requests of level 0 that found room into the inbox; who calls rings the bell."""
        count = len(entries)
        self.admission.add(level=0, rows=rows, nbytes=nbytes, weight=count, entries=count)
        self.statistics.pending += count
        self.statistics.in_flight += count
        self._live.update(entries)
        self._last = entries[-1]
        if has_deadlines:
            for entry in entries:
                self._expiry.watch(entry, entry.deadline)
        self._inbox.extend(entries)

    def hold(self, entry: Pending) -> None:
        """Takes an admitted request that does not wait itself: its parts do."""
        entry.started = True
        self.statistics.in_flight += entry.counts
        self._live.add(entry)

    def predicted_wait(self, now: float) -> float | None:
        """Seconds that a request of the default level would wait; None before a measurement."""
        self._arrivals.gather()
        self.note_started()
        return self.admission.predicted_wait(
            level=self.admission.level(0),
            curve=self.costs.usual,
            sizes=self.costs.sizes,
            running=self._running(now),
        )

    def _running(self, now: float) -> RunningNow:
        return running_now(self.instances, self.costs.usual, self.prior_slowdown, now)

    def has_room(self, requests: int, rows: int, nbytes: int) -> bool:
        """Whether so many requests, which are alike, find room in the queue."""
        shells = len(self._inbox) + self._queued
        return self.admission.has_room(requests=requests, rows=rows, nbytes=nbytes, shells=shells)

    def meets(self, deadline: float, entries: Sequence[Pending]) -> bool:
        """Whether all of these are predicted to meet the nearest of their deadlines, each behind
        all others. False where they are not of one form: nothing is said of those."""
        first = entries[0]
        form, now = first.form, first.arrived
        for entry in entries:
            if entry.form is not form:
                return False
        return self.admission.meets(
            deadline - now,
            requests=len(entries),
            rows=form.rows,
            curve=self.costs.curve(form.elements),
            sizes=self.costs.sizes,
            running=self._running(now),
        )

    def count_demand(self, entries: Sequence[Pending]) -> None:
        """Adds requests that arrived to what the autoscaler sees."""
        if self.add_demand is None:
            return
        first = entries[0].form
        retries = 0
        for entry in entries:
            request = entry.request
            if entry.form is not first:
                for each in entries:
                    if each.request is not None:
                        self._count_demand(
                            each.form, 1, each.arrived, is_retry=each.request.is_retry
                        )
                return
            if request is not None and request.is_retry:
                retries += 1
        self._count_demand(first, len(entries) - retries, entries[0].arrived, is_retry=False)

    def _count_demand(self, form: RequestForm, count: int, now: float, *, is_retry: bool) -> None:
        if self.add_demand is None or is_retry:
            return
        seconds = self.costs.worth(form.elements, form.rows)
        if seconds is not None:
            self.add_demand(seconds * count, now)

    def _watch_refusal(self, refused: Pending) -> None:
        """Remembers a refused request at the one that it would have followed, to judge later."""
        last = self._last
        own = self.costs.sizes.lone(self.costs.curve(refused.form.elements), refused.rows) or 0.0
        latest_start = min(refused.deadline - own, refused.expires)
        if last is None or last.dead:
            return
        if last.shadows is None:
            last.shadows = []
        if len(last.shadows) < MOST_SHADOWS:
            last.shadows.append(latest_start)

    def _refuse(self, refusal: ServingError, reply: Reply) -> None:
        # Replied and never raised: an error that is raised again and again collects a traceback
        # whose frames keep every refused request alive.
        is_draining = isinstance(refusal, Draining)
        self.statistics.record_refusal(
            RefusalReason.DRAINING if is_draining else RefusalReason.NOT_READY
        )
        reply(refusal)

    def ring(self) -> None:
        """Wakes one idle executor; if none is idle, all learn of the work for when they finish."""
        self._ring_is_due = False
        for instance in self.instances:
            if instance.executor.doorbell.is_idle:
                instance.executor.ring(instance)
                return
        for instance in self.instances:
            instance.executor.ring(instance)

    # --- executor threads -----------------------------------------------------------------------

    def take(self, taker: Instance, now: float) -> Batch | float:
        """A batch to run now, or the moment (monotonic seconds) before which there is none.

        Called by executors' threads. Infinity means that the queue is empty: a signal will come.
        """
        with self.lock:
            inbox, queue = self._inbox, self._queue
            queue.take_from(inbox)
            if self._delays:
                queue.delay_expired(now)
            wait = math.inf
            policy = self.policy
            for group in queue.by_urgency():
                step = next_step(group.entries, policy, now)
                while isinstance(step, RunBatch):
                    entries = [
                        (entry, request)
                        for entry in group.drop(step.count)
                        if (request := entry.request) is not None
                        and (entry.deadline if entry.delays else entry.expires) > now
                    ]  # the loop's timer answers the expired ones
                    if entries:
                        self._batches += 1
                        rows = sum([entry.rows for entry, _ in entries])
                        batch = Batch(entries, rows, step.end, now, self._batches)
                        self._started.append(batch)
                        self._queued = len(queue)
                        if len(self.instances) > 1 and (self._queued or inbox):
                            self._wake_another(taker)
                        return batch
                    step = next_step(group.entries, policy, now)
                wait = min(wait, step.time)
            self._queued = len(queue)
            return wait

    def _wake_another(self, taker: Instance) -> None:
        """There is more to take: an executor that sleeps takes it; if none does, all others look
        again before they do, since one may be on its way to sleep."""
        others = [instance for instance in self.instances if instance is not taker]
        for instance in others:
            if instance.executor.doorbell.is_idle:
                instance.executor.ring(instance)
                return
        for instance in others:
            instance.executor.ring(instance)

    # --- the event loop: out --------------------------------------------------------------------

    def finish(self, outcome: Outcome) -> None:
        """Takes a batch's outcome: counts it and answers its requests."""
        if self.keeps_order:
            heapq.heappush(self._early, (outcome.batch.number, outcome))
            while self._early and self._early[0][0] == self._next_outcome:
                self._next_outcome += 1
                self._finish(heapq.heappop(self._early)[1])
        else:
            self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        self.note_started()
        batch = outcome.batch
        now = self._clock()
        self._count(outcome)
        self._answer(batch.entries, outcome.results, now)
        if outcome.device_failed is not None:
            self._stop(outcome.device_failed, outcome.device_failed)

    def _answer(self, entries: Sequence[Entry], results: Sequence[Result], now: float) -> None:
        """Answers the requests of a batch. Those that came together are counted together."""
        statistics = self.statistics
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
                    self._succeeded(counted, came, taken, now)
                counted, came, taken = 0, entry.arrived, entry.taken
            counted += 1
            self._live.discard(entry)
            entry.end(result)
        if counted:
            self._succeeded(counted, came, taken, now)
        self._wake_if_idle()

    def _succeeded(self, count: int, came: float, taken: float, now: float) -> None:
        self.statistics.in_flight -= count
        self.statistics.record_success(
            round((now - came) * 1e9), round((taken - came) * 1e9), count=count
        )

    def _count(self, outcome: Outcome) -> None:
        batch = outcome.batch
        now_ms = time.time_ns() // 1_000_000
        for run in outcome.runs:
            self.statistics.record_run(
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
            self.costs.observe(elements, run.rows, seconds, alone=outcome.alone)
        self.statistics.bisections += outcome.bisections
        if outcome.out_of_memory_rows and not all(
            isinstance(result, OutOfMemory) for result in outcome.results
        ):  # what does not fit alone says nothing about batches
            self._lower_limit(outcome.out_of_memory_rows)
        if outcome.bug is not None:
            logger.error(
                "a batch of %s failed for a reason that is a bug",
                self.plan.identity,
                exc_info=outcome.bug,
            )
            outcome.bug = None  # its traceback holds the outcome

    def settle(self, entry: Pending, result: InferResponse | ServingError) -> None:
        """An entry gets its answer: it waits no more. Called by `Pending.answer` only."""
        if entry not in self._live:
            return  # it came in this turn of the loop and is not admitted
        if entry.counts:
            self._record(result, entry)
        if not entry.started:
            self._leave_queue(entry)
        self._live.discard(entry)
        self._wake_if_idle()

    def _wake_if_idle(self) -> None:
        if self._idle is not None and not self._live:
            self._idle.set()
            self._idle = None

    def _record(self, result: InferResponse | ServingError, entry: Pending) -> None:
        statistics, arrived = self.statistics, entry.arrived
        statistics.in_flight -= 1
        nanoseconds = round((self._clock() - arrived) * 1e9)
        if isinstance(result, InferResponse):
            statistics.record_success(nanoseconds, round((entry.taken - arrived) * 1e9))
        else:
            reason = _FAILURES.get(type(result), FailureReason.BACKEND)
            statistics.record_failure(reason, nanoseconds)

    def fail(self, error: Exception) -> None:
        """An executor broke: every request is answered, and no more are taken."""
        self._stop(
            Internal(f"{self.plan.identity} stopped serving after an internal error"),
            DeviceFailed(f"internal error: {error}"),
        )

    def answer_all(self, error: ServingError) -> None:
        """Ends every request that has no answer yet."""
        self._arrivals.refuse_all(error)
        for entry in list(self._live):
            entry.answer(error)

    async def drained(self) -> None:
        """Returns when no request is queued or running."""
        self._arrivals.gather()
        while self._live:
            if self._idle is None:
                self._idle = asyncio.Event()
            await self._idle.wait()

    def close(self) -> None:
        """Stops the timer. All requests have been answered."""
        self._expiry.close()

    def note_started(self) -> None:
        """Reads the executors' log: what they took waits no more."""
        log = self._started
        while log:
            batch = log.popleft()
            taken = batch.taken
            level = rows = nbytes = weight = count = 0
            for entry, _ in batch.entries:
                if entry.dead:
                    continue
                entry.started = True
                entry.taken = taken if taken > entry.arrived else entry.arrived  # after the look
                if entry.level != level:
                    self._leave_queue(entry)
                    continue
                count += 1
                rows += entry.rows
                nbytes += entry.nbytes
                weight += entry.weight
            if count:
                self.admission.remove(
                    level=level, rows=rows, nbytes=nbytes, weight=weight, entries=count
                )
                self.statistics.pending -= weight

    def _leave_queue(self, entry: Pending) -> None:
        self.admission.remove(
            level=entry.level, rows=entry.rows, nbytes=entry.nbytes, weight=entry.weight
        )
        self.statistics.pending -= entry.weight

    def _expire(self, entry: Pending) -> None:
        self.note_started()
        now = self._clock()
        if entry.started and now < entry.deadline:
            self._expiry.watch(entry, entry.deadline)  # the queue timeout does not bind a run
            return
        waited = now - entry.arrived
        what = "its deadline" if now >= entry.deadline else "its queue timeout"
        where = "while it ran" if entry.started else "in the queue; it was not run"
        entry.answer(
            DeadlineExceeded(
                f"request to {self.plan.identity} passed {what} after {waited * 1e3:.0f} ms {where}"
            )
        )

    def _lower_limit(self, rows: int) -> None:
        limit = max(1, min(self.policy.max_rows, rows) // 2)
        if limit < self.policy.max_rows:
            logger.warning(
                "%s ran out of memory at %d rows: batches are limited to %d rows",
                self.plan.identity,
                rows,
                limit,
            )
            self.policy = replace(
                self.policy,
                max_rows=limit,
                preferred_rows=tuple(n for n in self.policy.preferred_rows if n <= limit),
            )
            self.costs.resize(RunSizes(limit, limit))

    def _stop(self, refusal: ServingError, cause: DeviceFailed) -> None:
        if self._is_stopped:
            return  # another instance of it failed before
        self._is_stopped = True
        self.refusal = refusal
        self.answer_all(refusal)
        if self.on_device_failed is not None:
            self.on_device_failed(cause)
