"""One model version that serves: who may wait, what becomes of a request, and its numbers.

On the event loop: `submit` (check, admit, inbox), `finish` (statistics, answers), expiry, cancel,
close. On executor threads: `take`, see `waiting.py`.  Hot path.

Invariants.
  1. Every entry in `_live` is answered exactly once; `_live` is empty when the model is closed.
     A request that is run in parts is in it as a whole and with each part.
  2. Admission counts an entry from `submit` until it is known to be started, or is answered.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

from stoker.device import DeviceReport
from stoker.engine.admission import Admission, Refused
from stoker.engine.arrivals import Arrivals
from stoker.engine.batch_limit import BatchLimit
from stoker.engine.cost_book import CostBook
from stoker.engine.device_failures import DeviceFailures
from stoker.engine.execution import Batch, FailureBudget, Outcome
from stoker.engine.executor import Instance
from stoker.engine.expiry import Expiry
from stoker.engine.finishing import Finishing
from stoker.engine.forecast import RunningNow, running_now, slowdown_now
from stoker.engine.inline import Inline
from stoker.engine.observed import ObservedFinishing
from stoker.engine.oversized import OversizedRequest
from stoker.engine.pending import MakePending, Pending, nothing_to_cancel
from stoker.engine.plan import ModelPlan, RequestForm
from stoker.engine.scheduler import BatchPolicy
from stoker.engine.waiting import Waiting
from stoker.engine.watchdog import LongRuns
from stoker.errors import (
    Cancelled,
    DeadlineExceeded,
    DeviceFailed,
    Draining,
    Internal,
    InvalidRequest,
    ModelNotReady,
    Reach,
    ServingError,
)
from stoker.inference import Cancel, Reply
from stoker.request import InferRequest, InferResponse
from stoker.runtime.buckets import Buckets
from stoker.telemetry.observer import Observer
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
        observer: Observer | None = None,
    ) -> None:
        """With an `observer` it is told of every batch; without, nothing asks for one."""
        self.plan = plan
        self.policy = policy
        self.admission = admission
        self.costs = costs
        self.statistics = statistics
        self.failure_budget = FailureBudget()
        self.instances: list[Instance] = []
        self.devices: tuple[DeviceReport, ...] = ()
        """Where each of its sessions really runs."""
        self.filled: dict[str, Buckets] = {}
        """What batches are filled up to where there are fixed bindings, by device."""
        self.describe_faster: Callable[[], str] = lambda: ""
        """What became of a faster way that the model asks for."""
        self.prior_slowdown = 1.0
        """How much longer a run took in warm-up when all instances ran at the same time."""
        self.add_demand: Callable[[float, float], None] | None = None
        """Told of every valid request: its worth in seconds of device time, and when it came."""
        self.inline: Inline | None = None
        """Set where the model may run on the loop."""
        self.on_device_failed: Callable[[DeviceFailed], None] | None = None
        self.device_failures = DeviceFailures()
        self.long_runs = LongRuns()
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
        self.clock = clock
        self.batch_limit = BatchLimit(self)
        self.waiting = Waiting(
            is_plain=admission.is_plain,
            has_delayed=admission.has_delay_policy,
            is_usual=costs.is_usual,
        )
        self._live: set[Pending] = set()
        self._last: Pending | None = None
        self._expiry = Expiry(loop, self._expire, clock)
        self._ring_is_due = False
        self._idle: asyncio.Event | None = None
        self._is_stopped = False
        self.finishing = Finishing(self, keeps_order=self.keeps_order)
        if observer is not None:
            self.finishing = ObservedFinishing(self, observer, keeps_order=self.keeps_order)

    # --- the event loop: in ---------------------------------------------------------------------

    def submit(
        self, request: InferRequest, reply: Reply, now: float, pending: MakePending = Pending
    ) -> Cancel:
        """Checks, admits and queues a request; refusals are replied at once, or when this turn of
        the loop ends. `pending` makes what it is while it waits."""
        try:
            form = self.plan.check(request)
            if self.refusal is not None:  # what came before it was set has been refused as well
                self._refuse(self.refusal, reply)
                return nothing_to_cancel
            if self._is_plain and form.rows <= self.costs.sizes.largest:  # the usual case
                return self._arrivals.add(pending(self, request, form, reply, now), request)
            self._arrivals.gather()
            self.count_demand(form, 1, now, is_retry=request.is_retry)
            if form.rows > self.costs.sizes.largest and self.plan.splits_oversized:
                return OversizedRequest(self, request, form, reply, now, pending).submit(request)
            entry = pending(self, request, form, reply, now)
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
            shells = self.waiting.entries
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
                self.waiting.saw_late(now)
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
        self.waiting.add((entry,))
        if not self._ring_is_due:
            self._ring_is_due = True
            self._loop.call_soon(self.serve)

    def enqueue_all(
        self, entries: Sequence[Pending], rows: int, nbytes: int, *, nearest_deadline: float
    ) -> None:
        """Puts requests of level 0 that found room into the inbox; who calls rings the bell."""
        count = len(entries)
        self.admission.add(level=0, rows=rows, nbytes=nbytes, weight=count, entries=count)
        self.statistics.pending += count
        self.statistics.in_flight += count
        self._live.update(entries)
        self._last = entries[-1]
        self._expiry.watch_all(entries, nearest_deadline)
        self.waiting.add(entries)

    def hold_all(self, entries: Sequence[Pending], taken: float) -> None:
        """Takes requests that were run at `taken`, without having waited, and are not answered."""
        self.statistics.in_flight += len(entries)
        self._live.update(entries)
        for entry in entries:
            entry.started = True
            entry.taken = taken

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

    def slowdown(self) -> float:
        """How much longer a run takes at this moment than alone."""
        return slowdown_now(self.instances, self.costs.usual, self.prior_slowdown)

    def _running(self, now: float) -> RunningNow:
        return running_now(self.instances, self.costs.usual, self.prior_slowdown, now)

    def has_room(self, requests: int, rows: int, nbytes: int) -> bool:
        """Whether so many requests, which are alike, find room in the queue."""
        shells = self.waiting.entries
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

    def count_demand(self, form: RequestForm, count: int, now: float, *, is_retry: bool) -> None:
        """Adds valid requests that arrived to what the autoscaler sees."""
        add = self.add_demand
        if add is None or is_retry:
            return
        seconds = self.costs.worth(form.elements, form.rows)
        if seconds is not None:
            add(seconds * count, now)

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

    def serve(self) -> None:
        """What came is admitted; what waits is run here, or an executor is woken."""
        self._ring_is_due = False
        inline, arrivals = self.inline, self._arrivals
        if inline is None:
            arrivals.gather()
            self._ring()
        elif not arrivals.entries or not inline.runs_arrivals(arrivals):
            arrivals.gather()
            if not inline.runs():
                self._ring()

    def _ring(self) -> None:
        """Wakes one idle executor; if none is idle, all learn of the work for when they finish."""
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
        waiting = self.waiting
        with waiting.lock:
            step = waiting.take(self.policy, now)
            if isinstance(step, Batch):
                taker.is_taken = True
                if len(self.instances) > 1 and waiting.entries:
                    self._wake_another(taker)
            return step

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
        self.finishing.finish(outcome)

    def leave(self, entry: Pending) -> None:
        """An entry that has started is answered; who calls counts it."""
        self._live.discard(entry)

    def settle(self, entry: Pending, result: InferResponse | ServingError) -> None:
        """An entry gets its answer: it waits no more. Called by `Pending.answer` only."""
        if entry not in self._live:
            return  # it came in this turn of the loop and is not admitted
        if entry.counts:
            self._record(result, entry)
        if not entry.started:
            self._leave_queue(entry)
        self._live.discard(entry)
        self.wake_if_idle()

    def wake_if_idle(self) -> None:
        """Tells who waits for the last answer."""
        if self._idle is not None and not self._live:
            self._idle.set()
            self._idle = None

    def _record(self, result: InferResponse | ServingError, entry: Pending) -> None:
        statistics, arrived = self.statistics, entry.arrived
        statistics.in_flight -= 1
        nanoseconds = round((self.clock() - arrived) * 1e9)
        if isinstance(result, InferResponse):
            statistics.record_success(nanoseconds, round((entry.taken - arrived) * 1e9))
        else:
            reason = _FAILURES.get(type(result), FailureReason.BACKEND)
            statistics.record_failure(reason, nanoseconds)

    def fail(self, error: Exception) -> None:
        """An executor broke: every request is answered, and no more are taken."""
        self.stop(
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
        log = self.waiting.started
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
        now = self.clock()
        if entry.started and now < entry.deadline:
            self._expiry.watch(entry, entry.deadline)  # the queue timeout does not bind a run
            return
        self.waiting.saw_late(now)
        waited = now - entry.arrived
        what = "its deadline" if now >= entry.deadline else "its queue timeout"
        where = "while it ran" if entry.started else "in the queue; it was not run"
        entry.answer(
            DeadlineExceeded(
                f"request to {self.plan.identity} passed {what} after {waited * 1e3:.0f} ms {where}"
            )
        )

    @property
    def has_limits(self) -> bool:
        """Whether a request that is here may wait for a limited time only."""
        return not self._expiry.is_empty

    @property
    def device_names(self) -> tuple[str, ...]:
        """`cpu`, `cuda:0` ...: where its sessions are, each device once."""
        return tuple(dict.fromkeys(each.executor.device.name for each in self.instances))

    @property
    def is_on_gpu(self) -> bool:
        """Whether any session of it is on a GPU."""
        return any(device != "cpu" for device in self.device_names)

    def stop(self, refusal: ServingError, cause: DeviceFailed) -> None:
        """The device or an executor broke: everybody is refused from here on.

        After another instance of it failed before, only a failure of the whole process is news.
        """
        if self._is_stopped and cause.reach is not Reach.PROCESS:
            return
        if not self._is_stopped:
            self._is_stopped = True
            self.refusal = refusal
            self.answer_all(refusal)
        if self.on_device_failed is not None:
            self.on_device_failed(cause)
