"""Two ways to run a model's batches: the sure one, and a faster one for what that covers.

A route is put before the executions of a version's instances when a candidate (`runtime/candidate`)
is ready; the assignment of `Instance.execution` is the whole swap: a run under way ends where it
began, the next batch is routed. Which way a batch goes is decided from its shapes alone, so the
faster session never meets a shape that it would have to be built for.
  1. A request fails only if the sure way fails it as well.
     What its device failed is run the sure way as well, unless the whole process lost the device.
  2. The faster way is given up for good when it fails a request that the sure way answers, or
     when it cannot be prepared on the instance's thread, which its first batch waits for.
Hot path.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Final

from stoker.engine.execution import Batch, Outcome, Result, Runner
from stoker.engine.lone import LoneRun
from stoker.engine.plan import ModelPlan, RequestForm
from stoker.errors import (
    DeadlineExceeded,
    DeviceFailed,
    ExecutionFailed,
    Internal,
    OutOfMemory,
    Reach,
    ServingError,
)
from stoker.runtime.buckets import Buckets
from stoker.runtime.candidate import Covers, Shapes
from stoker.runtime.fixed import WatchRun
from stoker.runtime.session import Session

logger: Final = logging.getLogger(__name__)

_OWN_FAILURES: Final = (ExecutionFailed, OutOfMemory, Internal, DeviceFailed)
"""What a request's own run ended in. That it was not run again beside a failing neighbour says
nothing of the session."""


class Route:
    """Whether the faster way is open. One for all instances of a version; any thread asks it."""

    def __init__(self, covers: Covers, on_closed: Callable[[str], None] | None = None) -> None:
        """`on_closed` is told why, once, on the thread of the run that showed it."""
        self._covers = covers
        self._on_closed = on_closed
        self._is_open = True
        self._closing = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether it takes anything at all."""
        return self._is_open

    def takes(self, shapes: Shapes) -> bool:
        """Whether a batch of these shapes goes the faster way."""
        return self._is_open and self._covers(shapes)

    def close(self, reason: str) -> None:
        """From here on every batch goes the sure way."""
        with self._closing:  # two instances may find out at the same time
            was_open, self._is_open = self._is_open, False
        if was_open and self._on_closed is not None:
            self._on_closed(reason)


class RoutedExecution:
    """An instance's two executions. Used by one thread at a time."""

    def __init__(
        self,
        sure: Runner,
        faster: Runner,
        route: Route,
        plan: ModelPlan,
        *,
        prepares: bool = False,
        watch: WatchRun = nullcontext,
    ) -> None:
        """`prepares`: the faster one wants to be prepared on the thread that runs it, each run of
        that inside of a `watch()`."""
        self._sure = sure
        self._faster = faster
        self._route = route
        self._plan = plan
        self._is_prepared = not prepares
        self._watch = watch
        self.is_preparing = False
        """Implements `Runner`. Read by the watchdog, on the event loop."""

    @property
    def session(self) -> Session:
        """Implements `Runner`."""
        return self._sure.session

    @property
    def sizes(self) -> Buckets:
        """Implements `Runner`."""
        return self._sure.sizes

    def prepare(self, watch: WatchRun = nullcontext) -> None:
        """Implements `Runner`."""
        self._sure.prepare(watch)

    def execute(self, batch: Batch) -> Outcome:
        """Implements `Runner`."""
        route = self._route
        if not route.is_open or not route.takes(batch_shapes(batch, self._plan)):
            return self._sure.execute(batch)
        if not self._is_prepared and not self._prepared():
            return self._sure.execute(batch)
        outcome = self._faster.execute(batch)
        broken = outcome.device_failed
        if broken is not None and broken.reach is Reach.PROCESS:  # the sure way is dead as well
            return outcome
        if not _failed(outcome.results):
            return outcome
        return self._again(outcome)

    def lone(self, form: RequestForm) -> LoneRun | None:
        """Implements `Runner`: which way a request goes is asked of each batch."""
        return None

    def _prepared(self) -> bool:
        """Prepares the faster way, once. False: it had to be closed."""
        self._is_prepared = self.is_preparing = True
        try:
            self._faster.prepare(self._watch)
        except ServingError as error:
            self._route.close(f"it could not be prepared: {error.message}")
            return False
        finally:
            self.is_preparing = False
        return True

    def _again(self, outcome: Outcome) -> Outcome:
        """Runs what failed the sure way; what that answers shows that the faster way is broken."""
        batch = outcome.batch
        places = _failed(outcome.results)
        entries = [batch.entries[place] for place in places]
        rows = sum(entry.rows for entry, _ in entries)
        part = Batch(entries, rows, batch.end, batch.taken, batch.number)
        again = self._sure.execute(part)
        for place, result in zip(places, again.results, strict=True):
            failure = outcome.results[place]
            if isinstance(failure, _OWN_FAILURES) and not isinstance(result, ServingError):
                self._route.close(_reason(outcome, failure))
                break
        results = list(outcome.results)
        for place, result in zip(places, again.results, strict=True):
            results[place] = result
        return replace(
            outcome,
            results=results,
            runs=outcome.runs + again.runs,
            failed_seconds=outcome.failed_seconds + again.failed_seconds,
            bisections=outcome.bisections + again.bisections,
            out_of_memory_rows=again.out_of_memory_rows,
            device_retries=outcome.device_retries + again.device_retries,
            device_failed=again.device_failed,
            bug=again.bug,
        )


def batch_shapes(batch: Batch, plan: ModelPlan) -> Shapes:
    """The shape of each input that a batch feeds the model. All its requests have one signature."""
    signature = batch.entries[0][0].form.signature
    rows = batch.rows
    shapes = {}
    for planned, item in zip(plan.inputs, signature, strict=True):
        if item is not None:
            own = planned.model_item(item)
            shapes[planned.name] = (rows, *own) if plan.batches else own
    return shapes


def covers_bindings(covers: Covers, plan: ModelPlan, sizes: Buckets, max_rows: int) -> bool:
    """Whether fixed bindings of these batch sizes, and of all edges of a bucketed dimension, lie
    within what is covered. `sizes` that fill nothing stand for any up to `max_rows`."""
    rows = (sizes.sizes or (1, max_rows)) if plan.batches else (1,)
    dimension = plan.dimension
    for edge in (None,) if dimension is None else dimension.edges:
        items = {
            planned.name: planned.model_dims
            if dimension is None or edge is None
            else dimension.resized(planned.name, planned.model_dims, edge)
            for planned in plan.inputs
        }
        for count in rows:
            lead = (count,) if plan.batches else ()
            if not covers({name: (*lead, *item) for name, item in items.items()}):
                return False
    return True


def _failed(results: Sequence[Result]) -> list[int]:
    """Places of the requests that may yet be answered: not of those whose time is over."""
    return [
        place
        for place, each in enumerate(results)
        if isinstance(each, ServingError) and not isinstance(each, DeadlineExceeded)
    ]


def _reason(outcome: Outcome, failure: ServingError) -> str:
    if outcome.bug is not None:
        logger.error("a faster session failed for a reason that is a bug", exc_info=outcome.bug)
    return f"a run failed that succeeds without it: {failure.message}"
