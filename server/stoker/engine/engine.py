"""The engine: finds the model of a request, and gives served models their executors.

Implements `inference.InferenceEngine` for the transports, on the event loop. Knows no transport and
no repository; sessions come from the loader.  Hot path: `submit`.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from stoker.device import DeviceReport
from stoker.engine.admission import Admission, ServerBudget
from stoker.engine.cost_book import CostBook
from stoker.engine.cost_curve import CostCurve
from stoker.engine.execution import Execution
from stoker.engine.executor import Device, Executor, Instance
from stoker.engine.forecast import RunSizes
from stoker.engine.inline import Inline, may_run_inline
from stoker.engine.load_watch import LoadWatch
from stoker.engine.loop_turns import LoopTurns
from stoker.engine.opened_version import OpenedVersion
from stoker.engine.pending import MakePending, Pending, nothing_to_cancel
from stoker.engine.plan import ModelPlan
from stoker.engine.policy import (
    batch_policy,
    needs_own_threads,
    splits_oversized,
    with_sustained_limit,
)
from stoker.engine.registry import ModelRegistry, version_number
from stoker.engine.routing import Route, RoutedExecution, covers_bindings
from stoker.engine.served_model import ServedModel
from stoker.engine.watchdog import HUNG_AFTER_S, Watchdog
from stoker.errors import ModelNotReady, ServingError
from stoker.inference import Cancel, Reply
from stoker.model import (
    PLATFORM,
    ModelConfig,
    ModelMetadata,
    ModelVersion,
    Readiness,
    VersionState,
)
from stoker.request import InferRequest, InferResponse
from stoker.runtime.bucket_dimension import dimension_buckets
from stoker.runtime.buckets import DEPENDENT, EXACT, MOST_BUCKETS, buckets
from stoker.runtime.independence import Independence
from stoker.runtime.session import Placement, Session
from stoker.telemetry.observer import Observer
from stoker.telemetry.server_statistics import ServerStatistics, UnroutedReason
from stoker.telemetry.statistics import ModelStatistics

logger: Final = logging.getLogger(__name__)

LAST_RUN_S: Final = 1.0
"""What a run may still take when the engine closes; its requests have been answered."""


class Engine:
    """Serves all models of the process."""

    def __init__(
        self,
        registry: ModelRegistry,
        loop: asyncio.AbstractEventLoop,
        *,
        max_queued_bytes: int,
        readiness: Callable[[], Readiness],
        statistics: ServerStatistics,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
        runs_inline: bool = True,
        hung_run_s: float = HUNG_AFTER_S,
        load_watch: LoadWatch | None = None,
        observer: Observer | None = None,
    ) -> None:
        """`readiness` answers for the server as a whole. `max_queued_bytes` bounds the tensors
        waiting in all queues together, and those of one model. `runs_inline`: short models may run
        on the loop, see `inline.py`. `cpu_clock`: CPU seconds of the loop's thread. `hung_run_s`:
        see `watchdog.py`. `load_watch`: None watches nothing while models are loaded.
        `observer` is told of batches, see `observed.py`."""
        self._registry = registry
        self._loop = loop
        self._clock = clock
        self._budget = ServerBudget(max_queued_bytes)
        self._readiness = readiness
        self._statistics = statistics
        self._devices: dict[str, Device] = {}
        self._shared: dict[str, Executor] = {}
        self._executors: dict[ServedModel, list[Executor]] = {}
        self._turns = LoopTurns(loop, cpu_clock)
        self._runs_inline = runs_inline
        self._load_watch = load_watch or LoadWatch(loop, limit_s=0)
        self._observer = observer
        self._watchdog = Watchdog(loop, floor_s=hung_run_s, clock=clock)
        self._ending: list[Executor] = []
        """Of retired versions; a last run may still be under way."""

    # --- InferenceEngine ------------------------------------------------------------------------

    def submit(self, request: InferRequest, reply: Reply, pending: MakePending = Pending) -> Cancel:
        """Takes a request without a Task or Future. Never raises: refusals go to `reply`.
        `pending` makes what it is while it waits."""
        kind = request.kind
        served = self._registry.serving(kind.model, kind.version)
        if served is None:
            self._refuse_unrouted(request, reply)
            return nothing_to_cancel
        return served.submit(request, reply, served.turn_began or self._clock(), pending)

    async def infer(self, request: InferRequest) -> InferResponse:
        """`submit`, awaitable. Raises ServingError; cancelling the await cancels the request."""
        future: asyncio.Future[InferResponse | ServingError] = self._loop.create_future()

        def reply(result: InferResponse | ServingError) -> None:
            if not future.done():
                future.set_result(result)
            else:
                _drop(result)

        cancel = self.submit(request, reply)
        try:
            result = await future
        except asyncio.CancelledError:
            cancel()
            if future.done() and not future.cancelled():
                _drop(future.result())  # the answer came in the same turn of the loop
            raise
        if isinstance(result, ServingError):
            raise result.bare()
        return result

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """Raises ModelNotFound, ModelNotReady, InvalidRequest (malformed version)."""
        served = self._registry.resolve(model, version)
        config = served.plan.config
        versions = (served.plan.version,) if version else self._ready_versions(model)
        return ModelMetadata(
            model,
            versions,
            PLATFORM,
            tuple(config.client_spec(each) for each in config.inputs),
            tuple(config.client_spec(each) for each in config.outputs),
            served.devices,
            served.describe_faster(),
        )

    def config(self, model: str, version: str = "") -> ModelConfig:
        """The effective configuration. Raises as `metadata`."""
        return self._registry.resolve(model, version).plan.config

    def statistics(self, model: str = "", version: str = "") -> Sequence[ModelStatistics]:
        """Of one version, of every ready version of a model, or of all. Raises as `metadata`."""
        if not model:
            return [served.statistics for served in self._registry.served()]
        served = self._registry.resolve(model, version)
        if version:
            return [served.statistics]
        return [
            record.served.statistics
            for record in self._registry.records(model)
            if record.state is VersionState.READY and record.served is not None
        ]

    def ready(self, model: str | None = None, version: str = "") -> Readiness:
        """Of the server (model None), a model, or a version. Unknown names are not ready.

        Raises InvalidRequest for a malformed version.
        """
        if model is None:
            return self._readiness()
        version_number(version, model=model)
        try:
            self._registry.resolve(model, version)
        except ServingError as error:
            return Readiness(False, (error.message,))
        return Readiness(True)

    def _refuse_unrouted(self, request: InferRequest, reply: Reply) -> None:
        try:
            self._registry.resolve(request.kind.model, request.kind.version)
        except ServingError as error:
            is_known = isinstance(error, ModelNotReady)
            self._statistics.record_unrouted(
                UnroutedReason.NOT_READY if is_known else UnroutedReason.UNKNOWN_MODEL
            )
            reply(error.bare())

    def served(self, model: str, version: str = "") -> ServedModel:
        """A version that serves: its queue, costs and numbers. Raises as `metadata`."""
        return self._registry.resolve(model, version)

    # --- the loader -----------------------------------------------------------------------------

    def host(self, opened: OpenedVersion) -> ServedModel:
        """Gives an opened version its queue and executors. It serves once it is READY."""
        config = opened.config
        curve = CostCurve(opened.profile.costs)
        policy = batch_policy(config, opened.independence, curve)
        policy = with_sustained_limit(policy, opened, curve)
        plan = ModelPlan(opened.identity, config, dimension_buckets(config, opened.sessions[0][1]))
        plan.splits_oversized = splits_oversized(config, opened.independence)
        statistics = ModelStatistics(
            opened.identity.name, opened.identity.version, tags=config.metric_tags
        )
        statistics.load_seconds = opened.load_seconds
        admission = Admission(
            opened.identity, config.batching, self._budget, max_bytes=self._budget.limit_bytes
        )
        largest = max(policy.max_rows, plan.max_batch_size)
        sizes = RunSizes(policy.max_rows, largest)
        costs = CostBook(curve, sizes, elements=opened.profile.elements)
        served = ServedModel(
            plan,
            policy,
            admission,
            costs,
            statistics,
            self._loop,
            self._clock,
            self._observer,
        )
        if opened.profile.overlap is not None:
            runs = Counter[str]()
            for placement, session in opened.sessions:
                runs[session.device] += placement.instances
            most = max(runs.values())
            served.prior_slowdown = max(1.0, most / opened.profile.overlap)
        edges = 1 if plan.dimension is None else len(plan.dimension.edges)
        instances = sum(placement.instances for placement, _ in opened.sessions)
        for placement, session in opened.sessions:
            if needs_own_threads(curve, policy, session.device):
                own = self._executors.setdefault(served, [])
                executors = self._own_executors(
                    opened.identity, session, placement.instances, first=len(own)
                )
                own.extend(executors)
            else:
                executors = [self._shared_executor(session.device)]
            filled = DEPENDENT
            if opened.independence is not Independence.DEPENDENT:
                filled = buckets(
                    config,
                    largest,
                    on_gpu=session.device != "cpu",
                    seconds=curve.seconds,
                    captures=session.graphs.captures,
                    warmings=instances * edges,
                )
            served.filled[session.device] = filled
            for executor in executors:
                execution = Execution(
                    session,
                    plan,
                    max_rows=max(largest, policy.most_rows),
                    budget=served.failure_budget,
                    clock=self._clock,
                    sizes=filled,
                )
                served.instances.append(Instance(served, execution, executor))
        served.devices = _reports(served)
        threads = max([placement.intra_op_threads for placement, _ in opened.sessions])
        if self._runs_inline and may_run_inline(served, threads):
            served.inline = Inline(served, served.instances[0], self._turns)
        self._watchdog.watch(served)
        return served

    async def prepare(self, served: ServedModel) -> None:
        """Lets what needs a thread of its own be done there, before the version serves: on a GPU
        bindings are warmed and CUDA graphs captured. Raises ServingError: it cannot serve then.
        """
        own = self._executors.get(served, [])
        for instance in served.instances:
            if instance.executor in own and instance.executor.device.name != "cpu":
                await self._prepared(instance, served.plan.identity)
        served.devices = _reports(served)

    async def _prepared(self, instance: Instance, identity: ModelVersion) -> None:
        done: asyncio.Future[None] = self._loop.create_future()

        def tell(error: BaseException | None) -> None:
            if not done.done():
                done.set_result(None) if error is None else done.set_exception(error)

        def work() -> None:
            failure: BaseException | None = None
            device = instance.executor.device.name
            what = "a run of the making of bindings and CUDA graphs"
            try:
                instance.execution.prepare(partial(self._load_watch.step, identity, device, what))
            except Exception as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(tell, failure)

        instance.executor.begin(work)
        await done

    def upgrade(
        self, served: ServedModel, sessions: Sequence[tuple[Placement, Session]], route: Route
    ) -> None:
        """Lets a version's instances run in faster `sessions` what `route` takes, each from its
        next batch on. `sessions` are placed as those that the version was opened with, which it
        keeps. Raises nothing: what is wrong with them shows in their first batch."""
        largest = max(served.policy.max_rows, served.plan.max_batch_size)
        dimension = served.plan.dimension
        faster = [each for placement, each in sessions for _ in range(placement.instances)]
        for instance, session in zip(served.instances, faster, strict=True):
            sizes = served.filled.get(session.device, EXACT)
            if len(sizes.sizes) > MOST_BUCKETS:  # its first batch waits until all are warm
                sizes = buckets(
                    served.plan.config,
                    largest,
                    on_gpu=True,
                    seconds=served.costs.usual.seconds,
                    captures=True,
                    warmings=1 if dimension is None else len(dimension.edges),
                )
            execution = Execution(
                session,
                served.plan,
                max_rows=largest,
                budget=served.failure_budget,
                clock=self._clock,
                sizes=sizes,
                # Bindings run every size when they are made; none may be outside of the route.
                binds=covers_bindings(route.takes, served.plan, sizes, largest),
            )
            instance.execution = RoutedExecution(
                instance.execution,
                execution,
                route,
                served.plan,
                prepares=session.device != "cpu",
                watch=partial(
                    self._load_watch.step,
                    served.plan.identity,
                    session.device,
                    "a run of the making of a faster session's bindings",
                ),
            )

    def retire(self, served: ServedModel) -> None:
        """Ends the threads of a version that has no requests left."""
        served.close()
        self._watchdog.forget(served)
        executors = self._executors.pop(served, [])
        for executor in executors:
            executor.close()
        self._ending = [each for each in self._ending + executors if each.is_alive]

    async def close(self) -> bool:
        """Ends all executors' threads; every request has been answered.

        A run that is under way cannot be stopped: it is given LAST_RUN_S. False if one goes on
        after that; its session must not be closed then.
        """
        self._watchdog.close()
        executors = [
            *self._ending,
            *self._shared.values(),
            *[each for executors in self._executors.values() for each in executors],
        ]
        for executor in executors:
            executor.close()
        end = self._clock() + LAST_RUN_S
        for executor in executors:
            left = max(0.0, end - self._clock())
            await self._loop.run_in_executor(None, executor.join, left)
        return not any(executor.is_alive for executor in executors)

    @contextlib.contextmanager
    def occupied(self, name: str) -> Iterator[None]:
        """Runs beside this are not taken for alone on device `name`. For any thread."""
        device = self._device(name)
        ticket = device.enter()
        try:
            yield
        finally:
            device.leave(ticket)

    def _ready_versions(self, model: str) -> tuple[str, ...]:
        return tuple(
            str(record.identity.version)
            for record in self._registry.records(model)
            if record.state is VersionState.READY
        )

    def _device(self, name: str) -> Device:
        return self._devices.setdefault(name, Device(name))

    def _own_executors(
        self, identity: ModelVersion, session: Session, count: int, *, first: int
    ) -> list[Executor]:
        """`count` executors, whose threads are numbered from `first`."""
        return [
            Executor(
                f"{identity.name}-{identity.version}-{number}",
                self._device(session.device),
                self._loop,
                self._clock,
            )
            for number in range(first, first + count)
        ]

    def _shared_executor(self, device: str) -> Executor:
        executor = self._shared.get(device)
        if executor is None:
            executor = self._shared[device] = Executor(
                f"shared-{device}", self._device(device), self._loop, self._clock
            )
        return executor


def _reports(served: ServedModel) -> tuple[DeviceReport, ...]:
    """Where its sessions run, with what batches are filled up to there."""
    sizes = {each.execution.session: each.execution.sizes for each in served.instances}
    return tuple(
        replace(session.report, batch_buckets=str(filled)) for session, filled in sizes.items()
    )


def _drop(result: InferResponse | ServingError) -> None:
    if isinstance(result, InferResponse) and result.lease is not None:
        result.lease.release()
