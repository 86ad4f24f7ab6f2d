"""TensorRT as a candidate: engines from the cache or newly built, one session for each placement.

Put together from what is decided elsewhere: options (`tensorrt_options`), shapes
(`tensorrt_profile`), the folder that an engine lies in (`tensorrt_cache`) and the library
(`tensorrt_library`). Sessions are opened by whoever makes the candidate, with these options before
the CUDA provider's: what TensorRT does not take runs there.
  1. An engine is built while its session is opened, by the thread that prepares, never in a run:
     every variable dimension has a range, and only shapes within reach the session.
  2. An engine is kept for other processes after its outputs were compared, not before.
  3. Until then an attempt stands (`tensorrt_attempts`): should opening, building or comparing end
     the process, the next one knows.
"""

import logging
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from stoker.errors import InvalidRequest, ServingError
from stoker.model import ModelConfig
from stoker.runtime.bucket_dimension import dimension_buckets
from stoker.runtime.candidate import CandidateRefused, Preparation, Shapes, Stop
from stoker.runtime.gpu_facts import Gpu
from stoker.runtime.model_files import digest, file_digest
from stoker.runtime.session import Placement, Session
from stoker.runtime.tensorrt_attempts import Attempt, TooManyAttempts
from stoker.runtime.tensorrt_cache import Building, EngineCache, EngineIdentity, folder_bytes
from stoker.runtime.tensorrt_library import TensorRtLibrary
from stoker.runtime.tensorrt_options import (
    DimensionRange,
    TensorRtRequest,
    tensorrt_request,
)
from stoker.runtime.tensorrt_profile import Profile, profile_of

log = logging.getLogger(__name__)

TITLE: Final = "TensorRT"

_NO_SHAPES: Final = re.compile(r"no associated shape profiles provided:\s*([^\n]*)")
"""ONNX Runtime 1.31, where TensorRT takes parts of the graph: names of tensors between them."""


class TensorRtRuntime(Protocol):
    """What TensorRT sessions need of ONNX Runtime and the machine."""

    @property
    def version(self) -> str:
        """ONNX Runtime's own version."""

    def gpu(self, device: str) -> Gpu:
        """The GPU of `cuda:N`."""

    def open_tensorrt(
        self,
        path: Path,
        config: ModelConfig,
        placement: Placement,
        options: Mapping[str, str],
        stop: Stop,
    ) -> Session:
        """Opens a session with the TensorRT provider before CUDA's. Raises ServingError, also
        where TensorRT took no node."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The model that an engine is built from."""

    path: Path
    """The `.onnx` file."""
    folder: Path
    """The model's own, where its configuration lies."""
    config: ModelConfig
    """Complete."""


@dataclass(frozen=True, slots=True)
class TensorRtPlaces:
    """Where the operator lets engines and plug-ins lie."""

    cache: Path | None = None
    """The root of the cache; None: engines are built for this process only."""
    plugins: tuple[Path, ...] = ()


NOWHERE: Final = TensorRtPlaces()
"""Nothing is kept, and no plug-in is allowed."""


def tensorrt_candidate(
    source: ModelSource,
    session: Session,
    runtime: TensorRtRuntime,
    find_library: Callable[[], TensorRtLibrary],
    places: TensorRtPlaces,
    *,
    buckets: Sequence[int],
) -> "TensorRtCandidate | None":
    """The candidate of a model that is open as `session` on a GPU; None where it asks for none.

    `buckets` are the batch sizes that are run. Raises CandidateRefused where it asks for one that
    it cannot have.
    """
    request = tensorrt_request(source.config)
    if request is None:
        return None
    library = find_library()
    if library.problem:
        raise CandidateRefused(TITLE, library.problem)
    try:
        profile = profile_of(
            source.config.name,
            session.inputs,
            session.dimension_names,
            request,
            buckets=buckets if source.config.batches else None,
            implied=_bucketed(source.config, session),
        )
    except InvalidRequest as error:
        raise CandidateRefused(TITLE, error.message) from error
    return TensorRtCandidate(
        source, request, profile, runtime=runtime, library=library, places=places
    )


def _bucketed(config: ModelConfig, session: Session) -> dict[str, DimensionRange]:
    """The range of a dimension that has buckets: shorter requests are filled up to an edge."""
    dimension = dimension_buckets(config, session)
    if dimension is None:
        return {}
    first, last = dimension.edges[0], dimension.edges[-1]
    return {dimension.symbol: DimensionRange(first, last, last)}


class TensorRtCandidate:
    """Implements `Candidate`."""

    def __init__(
        self,
        source: ModelSource,
        request: TensorRtRequest,
        profile: Profile,
        *,
        runtime: TensorRtRuntime,
        library: TensorRtLibrary,
        places: TensorRtPlaces,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises CandidateRefused where a file that it needs is missing."""
        self._source = source
        self._request = request
        self._profile = profile
        self._runtime = runtime
        self._library = library
        self._root = places.cache
        # Without a root nothing is looked for and nothing kept, so that none is needed.
        self._cache = EngineCache(places.cache or Path())
        self._is_cached = request.is_cached and places.cache is not None
        self._plugins = places.plugins
        self._clock = clock
        self._model_digest = ""
        self._buildings: dict[str, Building] = {}
        """By the engine's key: those that this process has just built."""
        self._attempts: dict[str, Attempt] = {}
        """This process's, by the engine's key, until the engine is kept or given up."""
        self.preparation = Preparation()
        self._table = self._calibration_table()
        for plugin in self._plugins:
            if not plugin.is_file():
                raise CandidateRefused(
                    TITLE, f"--trt-plugin-libraries names '{plugin.name}', which is not a file"
                )

    @property
    def title(self) -> str:
        """Implements `Candidate`."""
        return TITLE

    def tolerance(self, rounding: float) -> float:
        """Implements `Candidate`. What the model's configuration says holds as it is."""
        allowed = self._request.allowed_difference
        return allowed if self._request.tolerance is not None else max(allowed, rounding)

    def corners(self) -> Sequence[Shapes]:
        """Implements `Candidate`."""
        return self._profile.corners()

    def covers(self, shapes: Shapes) -> bool:
        """Implements `Candidate`."""
        return self._profile.covers(shapes)

    def open(self, placement: Placement, stop: Stop) -> Session:
        """Implements `Candidate`."""

        def proceed() -> bool:
            return not stop.is_set

        identity = self._identity(placement.device, proceed)
        building = self._buildings.get(identity.key)
        if building is not None:
            return self._open_in(building.path, placement, stop)
        while True:
            session = self._open_known(identity, placement, stop) if self._is_cached else None
            if session is not None:
                return session
            if self._begin(identity, stop):
                return self._build(identity, placement, stop)

    def _begin(self, identity: EngineIdentity, stop: Stop) -> bool:
        """Begins an attempt; False where another process has built the engine meanwhile. Raises
        CandidateRefused where too many have taken their processes along."""
        if self._root is None:
            return True  # there is no folder to remember anything in
        attempts = self._cache.attempts(identity, is_shared=self._is_cached)

        def wait(seconds: float) -> bool:
            self.preparation.doing = "another process builds it, which is waited for"
            return stop.proceeds(seconds)

        try:
            attempt = attempts.begin(wait, lambda: self._is_cached and self._cache.has(identity))
        except TooManyAttempts as error:
            self.preparation.crashes = attempts.crashed
            raise CandidateRefused(TITLE, _given_up(attempts.crashed, error)) from error
        finally:
            self.preparation.doing = ""
        if attempt is None:
            return False
        self.preparation.crashes = attempts.crashed
        self._attempts[identity.key] = attempt
        stop.on_set(lambda: attempt.end(was_stopped=True))
        return True

    def _build(self, identity: EngineIdentity, placement: Placement, stop: Stop) -> Session:
        began = self._clock()
        building = self._cache.build(identity, keep=self._is_cached)
        self._buildings[identity.key] = building
        if self._table is not None:
            shutil.copyfile(self._table, building.path / self._table.name)
        self.preparation.misses += 1
        session = self._open_in(building.path, placement, stop)
        self.preparation.seconds += self._clock() - began
        self.preparation.nbytes = building.nbytes
        return session

    def keep(self) -> None:
        """Implements `Candidate`."""
        for building in self._buildings.values():
            if building.publish() is None:
                building.discard()  # ONNX Runtime has read it; another process's is there to stay
        self._buildings.clear()
        self._end_attempts()

    def discard(self) -> None:
        """Implements `Candidate`."""
        for building in list(self._buildings.values()):
            building.discard()
        self._buildings.clear()
        self._end_attempts()

    def blame(self) -> None:
        """Implements `Candidate`."""
        for attempt in self._attempts.values():
            attempt.blame()

    def _end_attempts(self) -> None:
        for attempt in list(self._attempts.values()):
            attempt.end()
        self._attempts.clear()

    def _open_known(
        self, identity: EngineIdentity, placement: Placement, stop: Stop
    ) -> Session | None:
        """A session of an engine in the cache; None where there is none that can be loaded."""
        found = self._cache.find(identity, lambda: not stop.is_set)
        if found is None:
            return None
        try:
            session = self._open_in(found, placement, stop)
        except InvalidRequest as error:  # no memory, or a broken device, says nothing of the engine
            if stop.is_set:
                raise
            log.warning("an engine of the cache is built anew: %s", error.message)
            self._cache.remove(found)
            return None
        self.preparation.hits += 1
        self.preparation.nbytes = folder_bytes(found)
        return session

    def _open_in(self, folder: Path, placement: Placement, stop: Stop) -> Session:
        options = {
            **self._request.options,
            **self._profile.options(),
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_path": str(folder),
        }
        if self._plugins:
            options["trt_extra_plugin_lib_paths"] = ";".join(map(str, self._plugins))
        source = self._source
        try:
            session = self._runtime.open_tensorrt(
                source.path, source.config, placement, options, stop
            )
        except ServingError as error:
            raise _explained(error) from error
        if stop.is_set:
            session.close()
            raise InterruptedError
        return session

    def _identity(self, device: str, proceed: Callable[[], bool]) -> EngineIdentity:
        if not self._model_digest:
            self._model_digest = digest(self._source.path, proceed=proceed)
        gpu = self._runtime.gpu(device)
        read = {}
        try:
            for each in self._plugins:
                read[f"plugin {each.name}"] = file_digest(each).hex()
            if self._table is not None:
                read["calibration table"] = file_digest(self._table).hex()
        except OSError as error:
            raise InvalidRequest(
                f"a file that the engine needs cannot be read: {error.strerror}"
            ) from error
        level = str(self._source.config.optimization.graph_level)
        return EngineIdentity(
            model_digest=self._model_digest,
            onnxruntime=self._runtime.version,
            tensorrt=self._library.version,
            compute_capability=gpu.capability_text,
            gpu_name=gpu.name,
            options={**self._request.options, **self._profile.options(), "graph level": level},
            files=read,
        )

    def _calibration_table(self) -> Path | None:
        name = self._request.calibration_table
        if not name:
            return None
        folder = self._source.folder.resolve()
        table = (folder / name).resolve()
        if not table.is_relative_to(folder) or not table.is_file():
            raise CandidateRefused(
                TITLE, f"the calibration table '{name}' is not a file of the model's folder"
            )
        return table


def _given_up(crashed: int, error: TooManyAttempts) -> str:
    last = error.last
    when = f", the last time on {last.host}, where it began {last.began}" if last else ""
    return (
        f"{crashed} builds of its engine ended with the process that built{when}: it is not tried "
        "again. The server's last log and the node's kernel log say of what; another "
        "precision_mode, trt_builder_optimization_level or max_workspace_size_bytes makes another "
        f"engine, and without the files {error.files} in the folder of --trt-cache-dir this one is "
        "tried again"
    )


def _explained(error: ServingError) -> ServingError:
    """The error, with what to do where TensorRT takes only parts of the graph."""
    missing = _NO_SHAPES.search(str(error.__cause__ or error.message))
    if missing is None:
        return error
    names = ", ".join(name for name in re.split(r"[\s,]+", missing[1]) if name)
    return InvalidRequest(
        "TensorRT takes parts of the graph only, and must be told the shapes of tensors between "
        f"them: {names}; write trt_profile_min_shapes, trt_profile_opt_shapes and "
        "trt_profile_max_shapes for these, or keep operators out by trt_op_types_to_exclude"
    )
