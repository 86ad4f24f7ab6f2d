"""Brings versions to life: opens them in threads, hosts them in the engine, moves their states.

Runs on the event loop; only opening is done elsewhere. At start all versions load at the same time,
a few at once; a failing one becomes UNAVAILABLE with its reason and disturbs no other.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from stoker.control import IndexEntry
from stoker.device import CPU, DeviceReport
from stoker.engine.engine import Engine
from stoker.engine.opened_version import OpenedVersion
from stoker.engine.registry import ModelRegistry
from stoker.engine.served_model import ServedModel
from stoker.errors import DeviceFailed, Reach, ServingError
from stoker.lifecycle.device_fault import DeviceFault
from stoker.lifecycle.opening import ModelDefinition, Opener
from stoker.lifecycle.upgrades import Upgrades
from stoker.model import ModelVersion, VersionState
from stoker.telemetry.log import event

logger: Final = logging.getLogger(__name__)

LOAD_THREADS: Final = 4
"""Versions opened at once at start, as Triton's default."""


class Loader:
    """Loads and unloads versions. Implements `control.ModelControl`."""

    def __init__(
        self,
        opener: Opener,
        engine: Engine,
        registry: ModelRegistry,
        upgrades: Upgrades,
        *,
        on_change: Callable[[], None],
        on_ready: Callable[[ServedModel, OpenedVersion], None],
        on_gone: Callable[[ServedModel], None],
        on_device_fault: Callable[[DeviceFault], None],
    ) -> None:
        """`on_change` is called after every change of a state, `on_ready` and `on_gone` when a
        version begins and ends to serve, `on_device_fault` when a device broke for the whole
        process; all on the loop."""
        self._opener = opener
        self._engine = engine
        self._registry = registry
        self._upgrades = upgrades
        self._on_change = on_change
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._on_device_fault = on_device_fault
        self._threads = ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="load")
        self._sessions: dict[ModelVersion, OpenedVersion] = {}

    def index(self, ready_only: bool = False) -> list[IndexEntry]:
        """Every model of the repositories with the state of each of its versions."""
        return self._registry.index(ready_only=ready_only)

    async def load_all(self, definitions: Iterable[ModelDefinition]) -> None:
        """Loads every version of every model. Returns when all have ended, well or not."""
        async with asyncio.TaskGroup() as tasks:
            for definition in definitions:
                self._registry.declare(definition.name, reason="; ".join(definition.problems))
                if definition.problems:
                    for problem in definition.problems:
                        event(
                            logger,
                            "model_failed",
                            f"failed to load '{definition.name}': {problem}",
                            level=logging.ERROR,
                            model=definition.name,
                        )
                    self._on_change()
                    continue
                for sentence in definition.warnings:
                    event(
                        logger,
                        "model_config",
                        sentence,
                        level=logging.WARNING,
                        model=definition.name,
                    )
                for version, problem in definition.version_problems.items():
                    identity = ModelVersion(definition.name, version)
                    self._registry.set_state(identity, VersionState.LOADING)
                    self._failed(identity, problem)
                for version in definition.versions:
                    identity = ModelVersion(definition.name, version)
                    self._registry.set_state(identity, VersionState.LOADING)
                    tasks.create_task(self._load(definition, version), name=f"load {identity}")
        self._upgrades.begin()

    async def _load(self, definition: ModelDefinition, version: int) -> None:
        identity = ModelVersion(definition.name, version)
        loop = asyncio.get_running_loop()
        opened: OpenedVersion | None = None
        try:
            opened = await loop.run_in_executor(
                self._threads, self._opener.open, definition, version
            )
            served = await self._host(opened)
        except ServingError as error:
            self._free(opened, error)
            self._failed(identity, error.message)
            if isinstance(error, DeviceFailed) and error.reach is Reach.PROCESS:
                self._on_device_fault(DeviceFault(error, identity, ()))
            return
        except Exception as error:
            logger.exception("loading %s failed for a reason that is a bug", identity)
            self._free(opened, error)
            self._failed(identity, "internal error; the server's log has the details")
            return
        self._sessions[identity] = opened
        served.on_device_failed = lambda error: self._broke(served, error)
        event(  # first: the last required model makes the server say that it is ready
            logger,
            "model_ready",
            f"model {identity} is ready",
            model=identity.name,
            version=version,
            load_s=round(opened.load_seconds, 3),
            max_batch_size=opened.config.max_batch_size,
            batch_limit_rows=served.policy.max_rows,
            sustained_batch_limit_rows=served.policy.most_rows,
            independence=opened.independence.value,
            devices=tuple(session.device for _, session in opened.sessions),
            cuda_graphs=tuple(str(session.graphs) for _, session in opened.sessions),
            batch_buckets=tuple(report.batch_buckets for report in served.devices),
            providers=tuple(session.report.provider for _, session in opened.sessions),
        )
        for _, session in opened.sessions:
            if session.report.requested != CPU:
                _log_device(identity, session.report)
        self._registry.set_state(identity, VersionState.READY, served=served)
        self._on_ready(served, opened)
        self._on_change()
        self._upgrades.add(served, opened)

    async def _host(self, opened: OpenedVersion) -> ServedModel:
        """The version in the engine, prepared to serve. Where it raises, nothing of it is there."""
        served: ServedModel | None = None
        try:
            served = self._engine.host(opened)
            await self._engine.prepare(served)
        except BaseException:
            if served is not None:
                self._engine.retire(served)
            raise
        return served

    async def unload_all(self) -> bool:
        """Frees every version. All requests have been answered. False if a run, or the preparation
        of a faster session, goes on."""
        self._upgrades.stop_all()
        for served in list(self._registry.served()):
            identity = served.plan.identity
            self._registry.set_state(identity, VersionState.UNLOADING)
            await served.drained()
            self._engine.retire(served)
            self._on_gone(served)
            self._registry.set_state(identity, VersionState.UNAVAILABLE, reason="unloaded")
        has_ended = await self._engine.close()
        has_prepared = await self._upgrades.close(runs_have_ended=has_ended)
        if has_ended:
            for opened in self._sessions.values():
                for _, session in opened.sessions:
                    session.close()
        self._sessions.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
        return has_ended and has_prepared

    def _free(self, opened: OpenedVersion | None, error: Exception) -> None:
        """Frees what a load has opened that failed after it; what fails before frees itself."""
        if opened is not None:
            self._opener.free(opened.sessions, error)

    def _failed(self, identity: ModelVersion, reason: str) -> None:
        text = (
            f"failed to load '{identity.name}': load failed for model '{identity.name}' "
            f"version {identity.version}: {reason}"
        )
        event(
            logger,
            "model_failed",
            text,
            level=logging.ERROR,
            model=identity.name,
            version=identity.version,
        )
        self._registry.set_state(identity, VersionState.UNAVAILABLE, reason=text)
        self._on_change()

    def _broke(self, served: ServedModel, error: DeviceFailed) -> None:
        identity = served.plan.identity
        self._upgrades.broke(identity)
        if self._registry.state(identity) is VersionState.READY:  # else it broke before
            event(
                logger,
                "model_broke",
                f"{identity} cannot serve any more: {error.message}",
                level=logging.ERROR,
                model=identity.name,
                version=identity.version,
            )
            self._registry.set_state(identity, VersionState.UNAVAILABLE, reason=error.message)
            self._on_change()
        if error.reach is Reach.PROCESS:
            self._on_device_fault(
                DeviceFault(
                    error,
                    identity,
                    served.device_names,
                    served.device_failures.failed_batch,
                    served.statistics.last_inference_ms,
                )
            )


def _log_device(identity: ModelVersion, report: DeviceReport) -> None:
    """The truth about one session on a GPU."""
    event(
        logger,
        "model_device",
        f"{identity} runs on {report}",
        model=identity.name,
        version=identity.version,
        requested=report.requested,
        device=report.device,
        provider=report.provider,
        nodes=_pairs(report.nodes),
        computing_on_cpu=report.operators_on_cpu,
        copies=report.memcpy_nodes,
        device_name=report.device_name,
        compute_capability=report.compute_capability,
        memory_bytes=report.memory_bytes,
        options=_pairs(report.options),
    )


def _pairs(values: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in sorted(values.items()))
