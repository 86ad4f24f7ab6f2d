"""Opens one version of a model, off the event loop: the slow half of a load.

Session, completed configuration, warm-up, proof of independence, cost curve; in that order, each
with the model's reason when it fails. A load measures while no other one opens or measures, since
they would time each other. Knows no queue and no event loop.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from stoker.device import CPU, DeviceReport
from stoker.engine.opened_version import FasterWay, OpenedVersion, Profile, RefusedWay
from stoker.errors import DeviceFailed, InvalidRequest, Reach, ServingError
from stoker.lifecycle.faster_way import faster_way, largest_batch
from stoker.lifecycle.measurements import log_profile, measure_costs, prove_rows
from stoker.lifecycle.memory_fit import MemoryFit, log_memory, memory_use
from stoker.lifecycle.quiet import Quiet, Turn
from stoker.lifecycle.watched_session import Watch, WatchedSession, not_watched
from stoker.model import ModelConfig, ModelVersion
from stoker.runtime.assignment import placement_doubt
from stoker.runtime.bucket_dimension import dimension_buckets
from stoker.runtime.buckets import check_buckets
from stoker.runtime.independence import Independence, prove
from stoker.runtime.memory import MemoryUse
from stoker.runtime.session import Placement, Runtime, Session
from stoker.runtime.warmup import warm_up
from stoker.telemetry.log import event

logger: Final = logging.getLogger(__name__)

PROFILE_SECONDS: Final = 10.0
"""Time that measuring one model's cost curve may take. Source: design, section "Batching"."""


class ModelDefinition(Protocol):
    """A model as the repository found it."""

    @property
    def name(self) -> str:
        """Its name in requests."""

    @property
    def folder(self) -> Path:
        """Where its configuration and warm-up data lie."""

    @property
    def draft(self) -> ModelConfig | None:
        """The configuration as the file says it, not completed; None if it cannot be read."""

    @property
    def versions(self) -> Mapping[int, Path]:
        """The versions that the version policy chooses, each with its model file."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps the model from being served, one sentence each."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will not be obeyed, or is doubtful; it is served all the same."""

    @property
    def version_problems(self) -> Mapping[int, str]:
        """Versions that the policy chose and that cannot be opened, with the reason."""

    def complete(
        self,
        opened: Session,
        *,
        placements: Sequence[Placement],
        reports: Sequence[DeviceReport] = (),
        warn: Callable[[str], None],
    ) -> ModelConfig:
        """The effective configuration, which shows `reports` as well; `warn` gets each doubt.
        Raises InvalidRequest with all contradictions between file and model."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """A version as it would be served."""

    config: ModelConfig | None
    """None where a problem keeps it from being served."""
    placements: Sequence[Placement]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]
    independence: Independence = Independence.UNPROVEN
    """Whether its rows can belong to different requests, as the proof found."""
    reports: tuple[DeviceReport, ...] = ()
    """Where each of its sessions really runs."""
    memory: MemoryUse | None = None
    """None where it could not be opened."""


_ANYWHERE: Final = Placement("cpu", 1, 1)

CPU_NODE_WARNING_SHARE: Final = 0.05
"""A GPU's session that computes more than this share of its nodes on the CPU is warned about. Such
a node costs two copies and a wait for the GPU, some 50 us; twenty launches of small kernels cost as
much. An estimate that no measurement has replaced yet."""


class Opener:
    """Opens versions with one runtime. Its methods block; threads may share it."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        profile_seconds: float = PROFILE_SECONDS,
        cpu_node_warning_share: float = CPU_NODE_WARNING_SHARE,
        occupied: Callable[[str], AbstractContextManager[None]] = lambda device: nullcontext(),
        memory: MemoryFit | None = None,
        watch: Watch = not_watched,
    ) -> None:
        """`profile_seconds` 0 leaves the cost curve unmeasured. `cpu_node_warning_share`: see
        `assignment.placement_doubt`. `occupied(device)` tells who runs models there that it is not
        alone. `memory` None: nothing is known of it. `watch` sees runs that do not end."""
        self._runtime = runtime
        self._occupied = occupied
        self._profile_seconds = profile_seconds
        self._cpu_node_warning_share = cpu_node_warning_share
        self._memory = memory or MemoryFit()
        self._watch = watch
        self._quiet = Quiet()
        self._abandoned: list[Session] = []

    def open(self, definition: ModelDefinition, version: int) -> OpenedVersion:
        """Opens and warms a version. Raises ServingError with the reason; then nothing is open."""
        began = time.monotonic()
        identity = ModelVersion(definition.name, version)
        sessions: list[tuple[Placement, Session]] = []
        try:
            draft = _draft(definition)
            placements = self._runtime.place(draft)
            path = definition.versions[version]
            meter = self._memory.meter(placements)
            with self._loading(placements) as turn:
                with meter.opening(turn):
                    self._open_sessions(path, draft, placements, sessions)
                for sentence in self._placement_doubts(sessions):
                    _log_doubt(identity, sentence)
                config = definition.complete(
                    sessions[0][1],
                    placements=placements,
                    reports=[each.report for _, each in sessions],
                    warn=partial(_log_doubt, identity),
                )
                check_buckets(config)
                dimension_buckets(config, sessions[0][1])
                with meter.warming(turn):
                    for _, each in self._watched(identity, sessions, "the warm-up"):
                        with self._occupied(each.device):
                            warm_up(config, each, definition.folder)
                _, session = self._watched(identity, sessions, "the proof of its rows")[0]
                with self._occupied(session.device), meter.warming(turn):
                    independence = prove_rows(identity, session, config, definition.folder)
            with (
                self._measuring() as turn,
                self._occupied(session.device),
                meter.warming(turn),
            ):
                # One step: to enter one a run would cost as much as a small model's run does.
                what = "a run of the measuring of its cost"
                with self._watch(identity, session.device, what) as next_run:
                    profile = measure_costs(
                        sessions,
                        config,
                        independence,
                        definition.folder,
                        budget_s=self._profile_seconds,
                        next_run=next_run,
                    )
                rows = largest_batch(config, independence, profile)
                _, session = self._watched(identity, sessions, "the record for a comparison")[0]
                faster = self._faster(definition, version, config, session, rows)
            memory = memory_use(path, config, len(sessions), meter)
            log_profile(identity, profile)
            log_memory(identity, memory)
        except BaseException as error:
            self.free(sessions, error)
            raise
        return OpenedVersion(
            identity,
            config,
            sessions,
            profile,
            independence,
            time.monotonic() - began,
            memory,
            faster,
        )

    def free(self, sessions: Sequence[tuple[Placement, Session]], error: BaseException) -> None:
        """Closes the sessions of a load that failed; but what lies in a dead context is kept:
        freeing it may hang, and the process ends anyway."""
        if isinstance(error, DeviceFailed) and error.reach is Reach.PROCESS:
            self._abandoned += [each for _, each in sessions]
            return
        for _, each in sessions:
            each.close()

    def inspect(self, definition: ModelDefinition, version: int) -> Inspection:
        """What would be served, warmed and proved but not measured, or every problem of it."""
        draft = _draft(definition)
        problems: list[str] = []
        warnings: list[str] = []
        try:
            placements = self._runtime.place(draft)
        except ServingError as error:
            problems.append(error.message)
            placements = (_ANYWHERE,)  # the file's other problems can be told there
        sessions: list[tuple[Placement, Session]] = []
        config: ModelConfig | None = None
        memory: MemoryUse | None = None
        independence = Independence.UNPROVEN
        path = definition.versions[version]
        meter = self._memory.meter(placements)
        try:
            with self._loading(placements) as turn:
                with meter.opening(turn):
                    self._open_sessions(path, draft, placements, sessions)
                warnings.extend(self._placement_doubts(sessions))
                config = definition.complete(
                    sessions[0][1], placements=placements, warn=warnings.append
                )
                check_buckets(config)
                dimension_buckets(config, sessions[0][1])
                with meter.warming(turn):
                    for _, each in sessions:
                        warm_up(config, each, definition.folder)
            memory = memory_use(path, config, len(sessions), meter)
            verdict = prove(sessions[0][1], config, definition.folder)
            independence = verdict.independence
            if verdict.is_doubt:
                warnings.append(str(verdict))
            rows = largest_batch(config, independence, Profile((), 0))
            way = self._faster(definition, version, config, sessions[0][1], rows)
            if isinstance(way, RefusedWay):
                warnings.append(f"{way.title}: {way.reason}")
        except ServingError as error:
            problems.append(error.message)
        finally:
            for _, each in sessions:
                each.close()
        return Inspection(
            None if problems else config,
            placements,
            tuple(warnings),
            tuple(problems),
            independence,
            tuple(each.report for _, each in sessions),
            memory=memory,
        )

    def _open_sessions(
        self,
        path: Path,
        draft: ModelConfig,
        placements: Sequence[Placement],
        sessions: list[tuple[Placement, Session]],
    ) -> None:
        capped = self._memory.capped(path, draft, placements)
        for placement in placements:
            # Absolute: what ONNX Runtime says of absolute paths is taken out of its texts.
            session = self._runtime.open(path.absolute(), capped[placement.device], placement)
            sessions.append((placement, session))

    def _watched(
        self, identity: ModelVersion, sessions: Sequence[tuple[Placement, Session]], phase: str
    ) -> list[tuple[Placement, Session]]:
        """The sessions for one phase of a load."""
        what = f"a run of {phase}"
        return [
            (placement, WatchedSession(each, partial(self._watch, identity, each.device, what)))
            for placement, each in sessions
        ]

    def _placement_doubts(self, sessions: Sequence[tuple[Placement, Session]]) -> list[str]:
        """What is wrong with where the sessions run; each sentence once."""
        doubts = [
            placement_doubt(session.report, self._cpu_node_warning_share) for _, session in sessions
        ]
        return list(dict.fromkeys(doubt for doubt in doubts if doubt is not None))

    def _loading(self, placements: Sequence[Placement]) -> AbstractContextManager[Turn]:
        """On a GPU one load at a time: what it takes can be told, and no two run out of memory
        that each alone would have had."""
        is_on_cpu = all(placement.device == CPU for placement in placements)
        return self._quiet.work() if is_on_cpu else self._quiet.measurement()

    def _measuring(self) -> AbstractContextManager[Turn]:
        """Alone where time is measured: another load would be timed as well."""
        return self._quiet.measurement() if self._profile_seconds > 0 else self._quiet.work()

    def _faster(
        self,
        definition: ModelDefinition,
        version: int,
        config: ModelConfig,
        session: Session,
        max_rows: int,
    ) -> FasterWay | RefusedWay | None:
        path = definition.versions[version].absolute()
        return faster_way(self._runtime, path, definition.folder, config, session, max_rows)


def _draft(definition: ModelDefinition) -> ModelConfig:
    if definition.draft is None:
        raise InvalidRequest("; ".join(definition.problems))
    return definition.draft


def _log_doubt(identity: ModelVersion, sentence: str) -> None:
    event(
        logger,
        "model_config",
        sentence,
        level=logging.WARNING,
        model=identity.name,
        version=identity.version,
    )
