"""Runs one batch and says what became of each of its requests.

Fifth step of a request: assemble, run, split, all timed. A batch that fails is run again in halves,
so that only the guilty request fails and its neighbours get their answers; never after a device
fault. Out of memory is treated alike and lowers the model's batch limit. A device fault that
reaches no further than its run is tried once more. Knows no queue and no event loop.  Hot path.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from stoker.engine.batch import InputSlabs, assemble, split, wanted_outputs
from stoker.engine.fixed_batch import FixedBatches, fixed_batches
from stoker.engine.lone import LoneRun
from stoker.engine.outputs import BatchLease, OutputPool, fresh_bytes
from stoker.engine.padding import is_padded, split_cut
from stoker.engine.pending import Pending
from stoker.engine.plan import ModelPlan, RequestForm
from stoker.errors import (
    DeadlineExceeded,
    DeviceFailed,
    ExecutionFailed,
    Internal,
    ModelNotReady,
    OutOfMemory,
    Reach,
    ServingError,
)
from stoker.request import InferRequest, InferResponse
from stoker.runtime.buckets import EXACT, UNBOUND, Buckets
from stoker.runtime.fixed import WatchRun
from stoker.runtime.session import OutputMismatch, Session
from stoker.telemetry.statistics import BatchEnd
from stoker.tensor import Array

Result: TypeAlias = InferResponse | ServingError
Entry: TypeAlias = tuple[Pending, InferRequest]

FAILING_SHARE: Final = 0.1
"""Of each second of device time. Source: design, section "Batching", "A failing batch"."""


@dataclass(slots=True)
class Batch:
    """Requests taken from the queue together. All have the same shape signature. Nobody changes
    one; a frozen dataclass would take twice as long to make."""

    entries: list[Entry]
    rows: int
    end: BatchEnd
    taken: float
    """Monotonic seconds."""
    number: int
    """Counts the batches of a model in the order they were taken."""


@dataclass(slots=True)
class Run:
    """One successful run. Nobody changes one, as `Batch`."""

    rows: int
    requests: int
    """A request that is run in parts counts with its first part only."""
    input_ns: int
    infer_ns: int
    output_ns: int
    began: float
    """Monotonic seconds."""


@dataclass(slots=True)
class Outcome:
    """What became of a batch."""

    batch: Batch
    results: list[Result] = field(default_factory=list)
    """One per entry, in order."""
    runs: list[Run] = field(default_factory=list)
    failed_seconds: float = 0.0
    """Device time spent in runs that failed."""
    most_failed_seconds: float = FAILING_SHARE
    """What this batch may spend on that before the rest of it fails whole."""
    bisections: int = 0
    out_of_memory_rows: int = 0
    """The smallest batch of several requests that did not fit; 0 when memory sufficed."""
    out_of_memory_runs: int = 0
    device_failed: DeviceFailed | None = None
    device_retries: int = 0
    """Runs that were tried again after a device fault of one run: one a batch and session."""
    bug: Exception | None = None
    """An exception that nobody foresaw; its requests got Internal."""
    alone: bool = True
    """Nothing else ran on the device meanwhile."""
    seconds: float = 0.0
    """Of the executor's time, failed runs among them."""

    @property
    def has_failed_enough(self) -> bool:
        """Whether what is left of the batch fails whole."""
        return self.failed_seconds > self.most_failed_seconds


class Runner(Protocol):
    """What an instance runs its batches with."""

    @property
    def session(self) -> Session:
        """What it runs; of two, the one that runs everything."""

    @property
    def sizes(self) -> Buckets:
        """What batches are filled up to there."""

    @property
    def is_preparing(self) -> bool:
        """Whether a batch waits for another session to be prepared, which sees to its own runs."""

    def prepare(self, watch: WatchRun = nullcontext) -> None:
        """What a device wants to be done on the thread that runs batches, before the first one,
        each run inside of a `watch()`. Raises ServingError."""

    def execute(self, batch: Batch) -> Outcome:
        """Runs the batch. Never raises: every entry has a result."""

    def lone(self, form: RequestForm) -> LoneRun | None:
        """What runs one request of this form by itself; None where only `execute` does. May raise
        where it cannot be made: `execute` says why."""


class FailureBudget:
    """Device time that a model's failing batches may take: 10 % of a second.

    While it is spent, failing batches fail whole, so that one client's bad data cannot keep the
    device busy with repetitions. One batch may spend it all, or as much as it takes to find one
    guilty request in it where that is more; what is left of it then fails whole as well.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # all instances of the model share the budget
        self._spent: deque[tuple[float, float]] = deque()

    def allows(self, now: float) -> bool:
        """Whether a batch that fails now may be run again in halves."""
        with self._lock:
            spent = self._spent
            while spent and spent[0][0] < now - 1.0:
                spent.popleft()
            return sum(seconds for _, seconds in spent) <= FAILING_SHARE

    def spend(self, seconds: float, now: float) -> None:
        """Takes note of device time spent in failed runs."""
        with self._lock:
            self._spent.append((now, seconds))


class Execution:
    """One session with its buffers, used by one thread at a time."""

    def __init__(
        self,
        session: Session,
        plan: ModelPlan,
        *,
        max_rows: int,
        budget: "FailureBudget",
        clock: Callable[[], float] = time.monotonic,
        sizes: Buckets = EXACT,
        binds: bool = True,
    ) -> None:
        """`sizes`: what batches are filled up to where the model has fixed bindings. `binds`: it
        may have some, which run every size when they are made."""
        self._session = session
        self._plan = plan
        self._slabs = InputSlabs(max_rows)
        memory = session.memory
        self._pool = OutputPool(
            plan.outputs,
            batches=plan.batches,
            max_rows=max_rows,
            allocate=fresh_bytes if memory is None else lambda nbytes: memory.slab(nbytes).array,
        )
        self._fixed = (
            fixed_batches(session, plan, self._pool, max_rows=max_rows, sizes=sizes)
            if binds
            else ()
        )
        self._sizes = sizes
        self._budget = budget
        self._clock = clock

    @property
    def session(self) -> Session:
        """What it runs."""
        return self._session

    @property
    def sizes(self) -> Buckets:
        """What batches are filled up to."""
        return self._sizes if self._fixed else UNBOUND

    @property
    def is_preparing(self) -> bool:
        """Implements `Runner`: it is prepared before there are batches."""
        return False

    def prepare(self, watch: WatchRun = nullcontext) -> None:
        """What a device wants to be done on the thread that runs batches, before the first one.
        Raises ServingError with the reason why the model cannot serve there."""
        session = self._session
        problem = None if self._fixed else "the model has no fixed bindings"
        for fixed in self._fixed:
            problem = fixed.prepare(session, watch) or problem
        if not session.graphs.captures:
            return
        ids = max(1, len(self._sizes.sizes))  # one more than MOST_BUCKETS where they are written
        for place, fixed in enumerate(self._fixed):
            if problem is None:
                problem = fixed.capture(1 + place * ids, watch)
        if problem is not None:
            session.give_up_graphs(problem)
            for fixed in self._fixed:
                fixed.forget()

    def execute(self, batch: Batch) -> Outcome:
        """Runs the batch. Never raises: every entry has a result."""
        outcome = Outcome(batch)
        outcome.results = self._attempt(batch.entries, outcome)
        if outcome.failed_seconds:
            self._budget.spend(outcome.failed_seconds, self._clock())
        return outcome

    def lone(self, form: RequestForm) -> LoneRun | None:
        """Implements `Runner`."""
        for fixed in self._fixed:
            found = fixed.lone(form)
            if found is not None:
                return found
        return None

    def _attempt(self, entries: Sequence[Entry], outcome: Outcome) -> list[Result]:
        began = self._clock()
        try:
            return self._run(entries, outcome)
        except DeviceFailed as error:
            if error.reach is Reach.RUN and not outcome.device_retries:
                outcome.device_retries = 1
                outcome.failed_seconds += self._clock() - began
                return self._again(entries, outcome)
            outcome.device_failed = error.bare()
            return [error] * len(entries)
        except (ExecutionFailed, OutOfMemory) as error:
            error.bare()
            seconds = self._clock() - began
            if not outcome.failed_seconds:
                outcome.most_failed_seconds = max(
                    FAILING_SHARE, seconds * len(entries).bit_length()
                )
            outcome.failed_seconds += seconds
            is_memory = isinstance(error, OutOfMemory)
            outcome.out_of_memory_runs += is_memory
            if len(entries) == 1:
                return [error]
            if is_memory:
                rows = sum(entry.rows for entry, _ in entries)
                outcome.out_of_memory_rows = min(rows, outcome.out_of_memory_rows or rows)
            if outcome.has_failed_enough or not self._budget.allows(self._clock()):
                return [_neighbours_failed(self._plan)] * len(entries)
            outcome.bisections += 1
            return self._halves(entries, outcome)
        except ServingError as error:
            return [error.bare()] * len(entries)
        except Exception as error:
            outcome.bug = error
            return [Internal("internal error; the server's log has the details")] * len(entries)

    def _halves(self, entries: Sequence[Entry], outcome: Outcome) -> list[Result]:
        middle = len(entries) // 2
        results: list[Result] = []
        for half in (entries[:middle], entries[middle:]):
            if outcome.device_failed is not None:
                results += [outcome.device_failed] * len(half)
                continue
            if outcome.has_failed_enough:
                results += [_neighbours_failed(self._plan)] * len(half)
                continue
            results += self._again(half, outcome)
        return results

    def _again(self, entries: Sequence[Entry], outcome: Outcome) -> list[Result]:
        """Runs entries once more, without those that have ended or whose deadline has passed."""
        now = self._clock()
        is_past = [entry.dead or entry.deadline <= now for entry, _ in entries]
        live = [pair for pair, past in zip(entries, is_past, strict=True) if not past]
        answered = iter(self._attempt(live, outcome) if live else [])
        late = _late(self._plan)
        return [late if past else next(answered) for past in is_past]

    def _run(self, entries: Sequence[Entry], outcome: Outcome) -> list[Result]:
        plan = self._plan
        forms: list[RequestForm] = []
        requests: list[InferRequest] = []
        rows = weight = 0
        for entry, request in entries:
            forms.append(entry.form)
            requests.append(request)
            rows += entry.rows
            weight += entry.weight
        clock = self._clock
        began = clock()
        wanted = wanted_outputs(forms)
        made = None
        # After a run that found no memory: only a plain run shrinks the arena first.
        fixed = None if outcome.out_of_memory_runs else self._level1(forms[0])
        if fixed is not None and fixed.takes(forms, wanted, rows):
            lone = fixed.gather(requests, forms, rows)
            assembled = clock()
            try:
                made = fixed.run(wanted, rows, len(entries), lone)
            except OutputMismatch:
                fixed.close("the model makes an output of another shape than before")
                self._pool.close()
        if made is None:
            feeds = assemble(requests, forms, plan, self._slabs)
            names = plan.names(wanted)
            lent = None if self._pool.is_empty else self._pool.lend(names, rows, len(entries))
            assembled = clock()
            if lent is None:
                made = None, self._session.run(feeds, names)
            else:
                made = self._run_into(feeds, names, *lent)
        lease, produced = made
        ran = clock()
        if not self._pool.is_empty:
            self._pool.observe(plan.names(wanted), produced)
        if fixed is not None:
            fixed.observe(wanted, produced)
        try:
            results: list[Result] = []
            if plan.dimension is not None and is_padded(forms):
                results += split_cut(wanted, produced, requests, forms, plan, plan.dimension)
                if lease is not None:
                    lease.release_all()
            else:
                results += split(wanted, produced, requests, forms, plan, lease)
        except BaseException:
            if lease is not None:
                lease.release_all()
            raise
        outcome.runs.append(
            Run(
                rows,
                weight,
                round((assembled - began) * 1e9),
                round((ran - assembled) * 1e9),
                round((clock() - ran) * 1e9),
                began,
            )
        )
        return results

    def _level1(self, form: RequestForm) -> FixedBatches | None:
        for fixed in self._fixed:
            if fixed.fits(form):
                return fixed
        return None

    def _run_into(
        self,
        feeds: dict[str, Array],
        names: Sequence[str],
        into: dict[str, Array],
        lease: BatchLease,
    ) -> tuple[BatchLease | None, list[Array]]:
        """Runs with slabs for outputs. Gives the lease back where they did not serve."""
        try:
            return lease, self._session.run(feeds, names, into)
        except BaseException as error:
            lease.release_all()
            if not isinstance(error, ExecutionFailed):
                raise
            produced = self._session.run(feeds, names)  # raises again where the data is at fault
            self._pool.close()  # else the memory was: the model made another shape this time
            return None, produced


def _late(plan: ModelPlan) -> ServingError:
    return DeadlineExceeded(
        f"request to {plan.identity} passed its deadline while its batch, which failed, was run "
        "again"
    )


def _neighbours_failed(plan: ModelPlan) -> ServingError:
    return ModelNotReady(
        f"a batch of {plan.identity} failed and was not run again for each of its requests; "
        "this request may succeed when it is sent again",
        retry_after=1.0,
    )
