"""TensorRT as a candidate: engines from the cache or newly built, one session for each placement.

Put together from what is decided elsewhere: options (`tensorrt_options`), shapes
(`tensorrt_profile`), where an engine comes from (`tensorrt_engines`) and the library
(`tensorrt_library`). Sessions are opened by whoever makes the candidate, with these options before
the CUDA provider's: what TensorRT does not take runs there.
  1. An engine is built while its session is opened, by the thread that prepares, never in a run:
     every variable dimension has a range, and only shapes within reach the session.
  2. An engine is kept for other processes after its outputs were compared, not before.
"""

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
from stoker.runtime.tensorrt_cache import EngineIdentity
from stoker.runtime.tensorrt_engines import TITLE, Engines
from stoker.runtime.tensorrt_library import TensorRtLibrary
from stoker.runtime.tensorrt_options import (
    WEIGHT_SHARE,
    DimensionRange,
    TensorRtRequest,
    default_workspace,
    tensorrt_request,
)
from stoker.runtime.tensorrt_parameters import WORKSPACE
from stoker.runtime.tensorrt_profile import Profile, profile_of
from stoker.runtime.weights import weights

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
        self._plugins = places.plugins
        self._model_digest = ""
        self.preparation = Preparation()
        self._engines = Engines(
            places.cache, self.preparation, is_cached=request.is_cached, clock=clock
        )
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

    def least_bytes(self) -> int:
        """Implements `Candidate`: its weights, in the coarsest arithmetic that it may use."""
        return int(weights(self._source.path).total * WEIGHT_SHARE[self._request.precision])

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

        return self._engines.open(
            self._identity(placement.device, proceed),
            stop,
            self._lay_table,
            lambda folder: self._open_in(folder, placement, stop),
        )

    def keep(self) -> None:
        """Implements `Candidate`."""
        self._engines.keep()

    def discard(self) -> None:
        """Implements `Candidate`."""
        self._engines.discard()

    def blame(self) -> None:
        """Implements `Candidate`."""
        self._engines.blame()

    def _lay_table(self, folder: Path) -> None:
        if self._table is not None:
            shutil.copyfile(self._table, folder / self._table.name)

    def _open_in(self, folder: Path, placement: Placement, stop: Stop) -> Session:
        options = {
            **self._options(placement.device),
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

    def _options(self, device: str) -> dict[str, str]:
        """Of the provider, without those that name a place on this machine."""
        options = {**self._request.options, **self._profile.options()}
        workspace = default_workspace(self._runtime.gpu(device).memory_bytes)
        if workspace:
            options.setdefault(WORKSPACE, str(workspace))
        return options

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
            options={**self._options(device), "graph level": level},
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
