"""The composition root: builds every part, starts them in order, stops them in reverse.

Start: health, engine, transports (ports open at once), then models. Stop: the steps of
`lifecycle/drain.py`, then models, executors, ports. The only module that imports both planes.
`process.py` runs a `Server` for as long as the process lives.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import stoker
from stoker.address import joined
from stoker.checking import CheckReport
from stoker.config import open_telemetry
from stoker.engine.engine import Engine
from stoker.engine.load_watch import LoadWatch
from stoker.engine.observed import ObservedEngine
from stoker.engine.opened_version import OpenedVersion
from stoker.engine.registry import ModelRegistry
from stoker.engine.served_model import ServedModel
from stoker.errors import Internal
from stoker.inference import InferenceEngine
from stoker.lifecycle.check import check_models
from stoker.lifecycle.device_fault import (
    FINISH_S,
    DeviceFault,
    DeviceFaults,
    KnownOfDevice,
)
from stoker.lifecycle.device_metrics import device_facts
from stoker.lifecycle.drain import DrainingTransport, drain
from stoker.lifecycle.health import ServerHealth, ServerState
from stoker.lifecycle.loader import Loader
from stoker.lifecycle.memory_fit import MemoryFit
from stoker.lifecycle.opening import PROFILE_SECONDS, Opener
from stoker.lifecycle.readiness_log import ReadinessLog
from stoker.lifecycle.upgrade_metrics import show_upgrades
from stoker.lifecycle.upgrades import Upgrades
from stoker.memory_limit import memory_limit_bytes
from stoker.model import Readiness, VersionState
from stoker.observing import Observing
from stoker.repository.local import Repository, scan
from stoker.repository.model_config import to_pbtxt
from stoker.runtime.assignment import placement_doubt
from stoker.runtime.gpu_facts import read_gpu_facts
from stoker.runtime.installation import BrokenInstallation
from stoker.runtime.memory import memory_reader
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.session import Runtime
from stoker.runtime.tensorrt import TensorRtPlaces
from stoker.settings import Settings
from stoker.telemetry import log
from stoker.telemetry import metric_table as table
from stoker.telemetry.demand import SHORT_WINDOW_S, SHORTEST_WINDOW_S, DemandMeter, LateDemand
from stoker.telemetry.gpu import GpuPoller, show_gpus
from stoker.telemetry.load_metrics import show_load
from stoker.telemetry.loop_lag import LoopLag
from stoker.telemetry.metric import Metric
from stoker.telemetry.metrics import MetricsRegistry
from stoker.telemetry.server_statistics import ServerStatistics
from stoker.transport.data_ports import DataPorts, Observed
from stoker.transport.grpc.call import Method
from stoker.transport.grpc.health import HealthBoard
from stoker.transport.grpc.infer_stream import InferStreams
from stoker.transport.grpc.methods import EXTENSIONS, SERVER_NAME, method_table
from stoker.transport.management.endpoints import GiveMetrics, management_handler
from stoker.transport.rest.descriptions import ServerInfo
from stoker.transport.rest.service import RestService
from stoker.transport.wire.limits import MANAGEMENT_CONNECTIONS, BufferBudget, HttpLimits
from stoker.transport.wire.server import HttpServer

logger: Final = logging.getLogger(__name__)

DEMO: Final = Path(__file__).parent / "demo" / "models"


@dataclass(frozen=True, slots=True)
class Addresses:
    """The ports that the server listens on."""

    http: int
    grpc: int
    metrics: int


class Server:
    """One whole server on the running event loop: `start`, `load`, `drain`, `close`."""

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime,
        repository: Repository,
        *,
        profile_seconds: float = PROFILE_SECONDS,
        tls: ssl.SSLContext | None = None,
        memory: MemoryFit | None = None,
        on_device_fault: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        access_log: int | None = None,
    ) -> None:
        """With `tls` clients of the data ports must speak TLS; see `transport/tls.py`.

        `on_device_fault` is called once when this process cannot use its GPUs any more: it is to
        call `abandon` and to end. `clock` is the engine's. `access_log` is the descriptor that its
        lines go to; None: standard output. Raises ValueError where tracing is on and the variables
        of OpenTelemetry make no exporter.
        """
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._repository = repository
        self._registry = ModelRegistry()
        self.health = ServerHealth(self._registry, is_strict=settings.strict_readiness)
        self.health.require(
            settings.required_models or tuple(repository.models), problems=repository.problems
        )
        self.health.watch(self._show_health)
        self.health.watch(ReadinessLog(self.health).look)
        statistics = ServerStatistics()
        self._observing = Observing(settings, open_telemetry(settings), access_log)
        observer = self._observing.observer
        self._memory = memory or MemoryFit()
        self.device_faults = DeviceFaults(
            self.health,
            self._registry.served,
            on_device_fault,
            lambda device: _known(runtime, self._memory, device),
        )
        self._load_watch = LoadWatch(
            loop,
            lambda identity, device, fault: self.device_faults.strike(
                DeviceFault(fault, identity, (device,))
            ),
            limit_s=settings.hung_load_timeout_s,
        )
        self.engine = Engine(
            self._registry,
            loop,
            max_queued_bytes=settings.max_buffered_bytes,
            readiness=self.health.readiness,
            statistics=statistics,
            clock=clock,
            # grpc.aio hands calls over one by one: each would be run alone, where a thread lets
            # batches form meanwhile (benchmarks/results/0006-grpc.md).
            runs_inline=settings.grpc_transport == "native",
            hung_run_s=settings.hung_run_timeout_s,
            load_watch=self._load_watch,
            observer=observer,
        )
        watched: InferenceEngine = self.engine
        if observer is not None:
            watched = ObservedEngine(self.engine, observer)
        self._upgrades = Upgrades(
            self.engine, loop, memory=self._memory, watch=self._load_watch.step
        )
        self._loader = Loader(
            Opener(
                runtime,
                profile_seconds=profile_seconds,
                cpu_node_warning_share=settings.cpu_node_warning_share,
                occupied=self.engine.occupied,
                memory=self._memory,
                watch=self._load_watch.step,
            ),
            self.engine,
            self._registry,
            self._upgrades,
            on_change=self.health.changed,
            on_ready=self._version_ready,
            on_gone=self._version_gone,
            on_device_fault=self.device_faults.strike,
        )
        self._board = HealthBoard()
        self._demand = DemandMeter()
        self._overlaps: dict[str, float] = {}
        self._lag = LoopLag(loop)
        self._metrics = MetricsRegistry(server=statistics)
        self._ready: Mapping[tuple[str, ...], float] = {}
        self._ready_of = -1
        """The count of the registry's changes at which `_ready` was read."""
        self._scrapes: set[asyncio.Task[None]] = set()
        self._gpus = GpuPoller(_visible_gpus, settings.gpu_metrics_interval_s)
        age_s = settings.max_connection_age_s or float("inf")
        budget = BufferBudget(settings.max_buffered_bytes)
        self._streams = InferStreams(watched, statistics, budget)
        limits = HttpLimits(
            max_json_bytes=settings.max_json_bytes,
            max_message_bytes=settings.max_message_bytes,
            max_connections=settings.max_connections,
            max_connection_age_s=age_s,
            header_timeout_s=settings.header_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
        )
        info = ServerInfo(SERVER_NAME, stoker.__version__, EXTENSIONS)
        self._rest = RestService(
            self.engine, self._loader, info, limits, budget, statistics=statistics
        )

        def methods(engine: InferenceEngine) -> dict[str, Method]:
            return method_table(engine, self._loader, self._board, statistics, self._streams)

        self._data = DataPorts(
            self._rest,
            methods(self.engine),
            limits,
            budget,
            statistics,
            grpcio=settings.grpc_transport == "grpcio",
            tls=tls,
            observed=None
            if observer is None
            else Observed(observer, self._rest.over(watched), methods(watched)),
        )
        management = management_handler(
            live=lambda: Readiness(True),
            ready=lambda: replace(self.health.readiness(), details=self._details()),
            started=self.health.startup,
            metrics=self._scrape,
        )
        self._management = HttpServer(
            management, replace(limits, max_connections=MANAGEMENT_CONNECTIONS), budget
        )
        self._show_server(runtime)

    def _details(self) -> tuple[str, ...]:
        """What an operator should know of models that serve: where they do not wholly run on their
        GPU, and how far their faster sessions are."""
        share = self._settings.cpu_node_warning_share
        doubts = {
            f"model {served.plan.identity} {doubt}": None
            for served in self._registry.served()
            for report in served.devices
            if (doubt := placement_doubt(report, share)) is not None
        }
        return (*doubts, *self._upgrades.sentences())

    async def start(self) -> Addresses:
        """Opens all ports: live at once, ready when the models are. Raises OSError."""
        host, settings = self._settings.host, self._settings
        for name in self._repository.models:  # known to whoever asks before its load begins
            self._registry.declare(name, reason="its load has not begun")
        self.health.changed()
        self._lag.start()
        self._observing.start()
        if settings.device != "cpu" and settings.gpu_metrics_interval_s:
            self._gpus.start()
        metrics = await self._management.start(host, settings.metrics_port)
        http, grpc = await self._data.start(host, settings.http_port, settings.grpc_port)
        log.event(
            logger,
            "listening",
            f"stoker {stoker.__version__} listens, and loads its models",
            stoker_version=stoker.__version__,
            http=joined(host, http),
            grpc=joined(host, grpc),
            metrics=joined(host, metrics),
        )
        return Addresses(http, grpc, metrics)

    def say(self, line: str) -> None:
        """Writes a line to standard output, where the access log is as well."""
        self._observing.say(line)

    async def load(self) -> None:
        """Loads every model. Returns when all loads have ended, well or not."""
        for sentence in self._repository.warnings:
            log.event(logger, "repository", sentence, level=logging.WARNING)
        for sentence in self._repository.problems:
            log.event(logger, "repository", sentence, level=logging.ERROR)
        await self._loader.load_all(self._repository.models.values())
        if self.health.state is ServerState.STARTING:
            self.health.become(ServerState.STARTED)

    async def drain(self) -> int:
        """Empties the server, see `lifecycle/drain.py`. Gives how many requests got DRAINING."""
        self._board.drain()
        self._upgrades.stop_all()  # what they build takes time from the requests that are left
        return await drain(
            self.health,
            self._draining(),
            self._registry.served,
            delay=self._settings.drain_delay_s,
            grace=self._settings.drain_timeout_s,
        )

    async def abandon(self) -> None:
        """Lets the answers leave and closes the data ports, after a device fault: nothing that a
        GPU holds is freed. Takes up to FINISH_S and LAST_ANSWERS of `lifecycle/`."""
        self._board.drain()
        await drain(self.health, self._draining(), self._registry.served, delay=0.0, grace=FINISH_S)

    def _draining(self) -> tuple[DrainingTransport, ...]:
        return (_DrainingStreams(self._streams), *self._data.draining())

    async def close(self) -> bool:
        """Ends everything that is left: connections, executors, ports. False if a model's run goes
        on, which nothing can stop."""
        await self._data.close()
        self._rest.close()
        has_ended = await self._loader.unload_all()
        await self._management.close()
        self._load_watch.close()
        self._lag.stop()
        if self._gpus.is_polling:
            await asyncio.to_thread(self._gpus.close)
        if self._scrapes:
            await asyncio.wait(self._scrapes)
        await self._observing.close()
        return has_ended

    def _version_ready(self, served: ServedModel, opened: OpenedVersion) -> None:
        gauges: dict[Metric, Callable[[], float | None]] = {
            table.MODEL_BATCH_LIMIT: lambda: served.policy.max_rows,
            table.MODEL_SUSTAINED_BATCH_LIMIT: lambda: served.policy.most_rows,
            table.MODEL_ROW_SECONDS: lambda: served.costs.usual_seconds_per_row(),
        }
        devices = list(dict.fromkeys(session.device for _, session in opened.sessions))
        for device in devices if len(served.instances) > 1 else ():
            overlap = max(opened.profile.overlap or 1.0, self._overlaps.get(device, 1.0))
            self._overlaps[device] = overlap
            self._demand.set_overlap(device, overlap)
        is_measured = bool(opened.profile.costs)
        demand = (
            self._demand.add_model(devices) if is_measured else LateDemand(self._demand, devices)
        )
        served.add_demand = demand.add
        gauges[table.MODEL_DEMAND] = lambda: demand.ratio(time.monotonic())
        gauges[table.MODEL_DEMAND_5S] = lambda: demand.ratio(time.monotonic(), SHORT_WINDOW_S)
        gauges[table.MODEL_DEMAND_1S] = lambda: demand.ratio(time.monotonic(), SHORTEST_WINDOW_S)
        self._metrics.add_model(
            served.statistics,
            gauges,
            facts=device_facts(served.devices, opened.memory),
            bring_up_to_date=served.note_started,
        )

    def _version_gone(self, served: ServedModel) -> None:
        self._metrics.remove_model(served.statistics)

    def _show_health(self) -> None:
        """Tells gRPC health of every change."""
        ready = self.health.readiness().ready
        if ready:
            self._demand.begin(time.monotonic())
        models = {
            name: any(each.state is VersionState.READY for each in self._registry.records(name))
            for name in self._registry.names()
        }
        self._board.show(ready, models)

    def _show_server(self, runtime: Runtime) -> None:
        metrics = self._metrics
        show_load(metrics, self._demand, self._lag)
        show_upgrades(metrics, self._upgrades)
        metrics.register_labelled(
            table.HUNG_LOADS,
            lambda: {
                (identity.name, str(identity.version)): count
                for identity, count in self._load_watch.hung.items()
            },
        )
        show_gpus(metrics, self._gpus.series)
        self._observing.show(metrics)
        metrics.register(table.READY, lambda: float(self.health.readiness().ready))
        metrics.register_labelled(table.MODEL_READY, self._models_ready)
        metrics.register_labelled(
            table.CONNECTIONS,
            lambda: {
                **self._data.connections(),
                ("management",): self._management.open_connections,
            },
        )
        most = self._settings.max_connections
        metrics.register(table.CONNECTION_LIMIT, lambda: most)
        metrics.register_info(
            table.BUILD,
            {
                "version": stoker.__version__,
                "onnxruntime_version": runtime.version,
                "device": self._settings.device,
            },
        )

    def _models_ready(self) -> Mapping[tuple[str, ...], float]:
        if self._ready_of != self._registry.changes:
            self._ready_of = self._registry.changes
            self._ready = {
                (name, str(record.identity.version)): float(record.state is VersionState.READY)
                for name in self._registry.names()
                for record in self._registry.records(name)
            }
        return self._ready

    def _scrape(self, accept: str, give: GiveMetrics) -> None:
        async def render() -> None:
            try:
                give(await self._metrics.render(accept))
            except Exception:
                logger.exception("rendering the metrics failed")
                give(Internal("the metrics cannot be rendered; the server's log has the reason"))

        task = asyncio.create_task(render(), name="render metrics")
        self._scrapes.add(task)
        task.add_done_callback(self._scrapes.discard)


@dataclass(frozen=True, slots=True)
class _DrainingStreams:
    """Inference streams, which end by themselves when they may read no more: a transport's wait for
    its open calls is then the wait for their last answers."""

    streams: InferStreams

    def announce_drain(self, delay: float) -> None:
        pass

    async def finish(self, grace: float) -> None:
        self.streams.stop()


def _visible_gpus() -> list[str]:
    """The UUIDs of the GPUs that CUDA sees in this process, in its order."""
    return [gpu.uuid for gpu in read_gpu_facts().gpus]


def _known(runtime: Runtime, memory: MemoryFit, device: str) -> KnownOfDevice:
    """What was read of a device when models were loaded: it is asked for when it is broken."""
    reading = memory.last.get(device)
    if reading is None:
        return KnownOfDevice(runtime.driver)
    return KnownOfDevice(runtime.driver, reading.used, reading.total)


def memory_fit(settings: Settings, runtime: Runtime) -> MemoryFit:
    """The memory of this machine's devices, as the settings share it out."""
    gpus = (lambda: runtime.gpus.gpus) if isinstance(runtime, OnnxRuntime) else tuple
    read = memory_reader(gpus, memory_limit_bytes())
    return MemoryFit(read, gpu_memory_share=settings.gpu_memory_share)


def open_repository(settings: Settings) -> Repository:
    """What the settings' sources hold; the demo models when there are none."""
    return scan(
        [Path(source) for source in settings.sources] or [DEMO],
        model_name=settings.model_name,
        default_max_batch_size=settings.default_max_batch_size,
    )


def open_runtime(settings: Settings) -> OnnxRuntime:
    """ONNX Runtime as the settings want it. Raises BrokenInstallation."""
    return OnnxRuntime(
        settings.device,
        gpu_placement=settings.gpu_placement,
        cuda_graphs=settings.cuda_graphs,
        memory_bytes=memory_limit_bytes(),
        tensorrt=TensorRtPlaces(
            Path(settings.trt_cache_dir).absolute() if settings.trt_cache_dir else None,
            tuple(Path(each).absolute() for each in settings.trt_plugin_libraries),
        ),
    )


def check(settings: Settings) -> CheckReport:
    """What would be served, and every problem: `stoker check`."""
    log.set_up(settings.log_format, "error")
    repository = open_repository(settings)
    try:
        runtime = open_runtime(settings)
    except BrokenInstallation as error:
        return CheckReport((), (str(error),))
    opener = Opener(
        runtime,
        cpu_node_warning_share=settings.cpu_node_warning_share,
        memory=memory_fit(settings, runtime),
    )
    models = check_models(repository.models.values(), opener, to_pbtxt)
    return CheckReport(models, repository.problems)
