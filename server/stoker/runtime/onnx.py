"""Opens models with ONNX Runtime and finds out where they really run.

The one importer of onnxruntime, at first use, after telemetry is turned off. What an opened model
does is `onnx_session.py`'s; whose fault a failure is, `faults.py`'s; why there is no GPU,
`gpu_diagnosis.py`'s.
  1. A session that was asked for a GPU and did not get it raises; nothing falls back silently.
  2. No text of ONNX Runtime leaves this folder unread: `faults.py` takes paths and hosts out.
  3. Pool threads run at nice +10, below the event loop: they inherit it from the opening thread.
"""

import importlib
import logging
import os
import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from stoker.device import DeviceReport
from stoker.errors import DeviceFailed, ExecutionFailed, InvalidRequest, OutOfMemory
from stoker.model import ModelConfig
from stoker.runtime import copies
from stoker.runtime.assignment import Assignment, settle
from stoker.runtime.candidate import Candidate, Stop
from stoker.runtime.cuda_graphs import GraphFacts, GraphSupport, ineligibility, wants_graphs
from stoker.runtime.cuda_memory import CudaMemory
from stoker.runtime.device_memory import HostMemory
from stoker.runtime.discovery import Discovery
from stoker.runtime.gpu_diagnosis import (
    NO_PROVIDER,
    cuda_needs,
    gpu_of,
    gpu_unfitness,
    lost_provider_reason,
    missing_cudnn,
)
from stoker.runtime.gpu_facts import Gpu, GpuFacts, loads, read_free_memory
from stoker.runtime.gpu_hot_path import GpuHotPath
from stoker.runtime.installation import (
    BrokenInstallation,
    installation_problem,
    installed_distributions,
)
from stoker.runtime.onnx_session import OnnxSession
from stoker.runtime.options import SessionOptions, session_options
from stoker.runtime.placement import (
    DeviceWish,
    GpuPlacement,
    Machine,
    asks_for_spread,
    placements,
    spread,
)
from stoker.runtime.providers import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    TENSORRT_PROVIDER,
    cuda_index,
    provider_list,
    tensorrt_provider_list,
    with_stream,
)
from stoker.runtime.session import Placement, Session
from stoker.runtime.session_facts import assignment_of, report_of, reread
from stoker.runtime.session_opening import (
    LOG_ERRORS,
    open_counted,
    open_session,
    open_uncounted,
)
from stoker.runtime.tensorrt import NOWHERE, ModelSource, TensorRtPlaces, tensorrt_candidate
from stoker.runtime.tensorrt_library import look as look_for_tensorrt
from stoker.runtime.tensorrt_options import tensorrt_request
from stoker.runtime.translation import translation
from stoker.telemetry.log import event
from stoker.tensor import DataType

log = logging.getLogger(__name__)


@cache
def library() -> ModuleType:
    """The package onnxruntime, imported at the first call. Raises BrokenInstallation."""
    # Only the environment variable, and only before the import, keeps ONNX Runtime from writing a
    # device id to the home folder and from sending events.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # CUDA's own order is the fastest GPU first, nvidia-smi's and NVML's is by PCI bus: what a
    # configuration calls GPU 1 shall be what they call 1. Read by CUDA at its first call.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    module: ModuleType | None = None
    cause: ImportError | None = None
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError as error:
        cause = error
    imports = module is not None and hasattr(module, "InferenceSession")
    problem = installation_problem(installed_distributions(), imports=imports)
    if problem is not None or module is None:
        raise BrokenInstallation(problem or f"ONNX Runtime does not import: {cause}") from cause
    module.set_default_logger_severity(LOG_ERRORS)
    return module


class OnnxRuntime:
    """Opens models with ONNX Runtime. Implements `Runtime`."""

    def __init__(
        self,
        device: DeviceWish = "auto",
        *,
        gpu_placement: GpuPlacement = "each",
        cuda_graphs: bool = False,
        memory_bytes: int | None = None,
        tensorrt: TensorRtPlaces = NOWHERE,
    ) -> None:
        """`device`: `gpu` insists, `cpu` never looks for one, `auto` takes a GPU where there is
        one. `gpu_placement`: where a model goes that names no GPU, see `placement.spread`.
        `cuda_graphs`: models whose file says nothing of CUDA graphs ask for them. `memory_bytes`:
        what the process may use, None without a limit. `tensorrt`: where engines and plug-ins of
        TensorRT lie.

        GPUs are looked for at the first model, which may take a second. Raises BrokenInstallation.
        """
        self._wish: DeviceWish = device
        self._gpu_placement: GpuPlacement = gpu_placement
        self._cuda_graphs = cuda_graphs
        self._hot_path = GpuHotPath(memory_bytes)
        self._tensorrt = tensorrt
        self._library = library()
        self._needs = cuda_needs(str(getattr(self._library, "cuda_version", "")))
        self._discovery = Discovery(device, self._needs, preload=self._preload)
        self._lock = threading.Lock()
        self._turn = 0
        # Placements whose sessions are not open yet; one whose load failed elsewhere just goes.
        self._loading: weakref.WeakValueDictionary[int, Placement] = weakref.WeakValueDictionary()

    @property
    def version(self) -> str:
        """ONNX Runtime's own version."""
        return str(self._library.__version__)

    @property
    def driver(self) -> str | None:
        """Implements `Runtime`: the newest CUDA that the driver can do."""
        version = self.gpus.driver_version
        return f"for CUDA {version // 1000}.{version % 1000 // 10}" if version else None

    @property
    def gpus(self) -> GpuFacts:
        """The GPUs as the driver tells of them; none with the device `cpu`."""
        return self._discovery.gpus

    @property
    def machine(self) -> Machine:
        """What models can be placed on."""
        return self._discovery.machine

    def _preload(self) -> None:
        """Loads the CUDA libraries that came as wheels, which nothing else would find."""

        def tell(*words: object) -> None:
            said = " ".join(map(str, words))
            event(
                log,
                "cuda_libraries",
                f"loading the CUDA libraries: {said}",
                level=logging.WARNING,
            )

        # It prints what it does not find, and the standard output is the ready line's.
        vars(self._library)["print"] = tell
        self._library.preload_dlls()
        doubt = missing_cudnn(self._needs, loads)
        if doubt is not None:
            event(log, "cuda_libraries", doubt, level=logging.WARNING)

    def place(self, config: ModelConfig) -> tuple[Placement, ...]:
        """Implements `Runtime`."""
        with self._lock:
            chosen = None
            if asks_for_spread(config, self._wish, self.machine):
                chosen = self._spread()
            placed = placements(config, self._wish, self.machine, chosen)
            self._loading.update({id(each): each for each in placed})
            return placed

    def _spread(self) -> tuple[int, ...]:
        free: tuple[int | None, ...] = ()
        if self._gpu_placement == "free-memory":
            free = read_free_memory(self.gpus.gpus)
        under_way = [each.device for each in self._loading.values()]
        loading = [under_way.count(f"cuda:{gpu}") for gpu in range(self.machine.gpus)]
        chosen = spread(
            self._gpu_placement, self.machine.gpus, turn=self._turn, free=free, loading=loading
        )
        self._turn += 1
        return chosen

    def candidate(
        self, path: Path, folder: Path, config: ModelConfig, session: Session, *, max_rows: int
    ) -> Candidate | None:
        """Implements `Runtime`: TensorRT is the one candidate, for models on a GPU."""
        if cuda_index(session.device) is None:
            tensorrt_request(config)  # what is written wrong is told here as well
            return None
        return tensorrt_candidate(
            ModelSource(path, folder, config),
            session,
            self,
            look_for_tensorrt,
            self._tensorrt,
            buckets=(1, max_rows),
        )

    def gpu(self, device: str) -> Gpu:
        """Implements `TensorRtRuntime`."""
        index = cuda_index(device)
        return (gpu_of(self.gpus, index) if index is not None else None) or Gpu(0)

    def open_tensorrt(
        self,
        path: Path,
        config: ModelConfig,
        placement: Placement,
        options: Mapping[str, str],
        stop: Stop,
    ) -> Session:
        """Implements `TensorRtRuntime`."""
        device = placement.device
        if TENSORRT_PROVIDER not in self._library.get_available_providers():
            raise DeviceFailed(f"model '{config.name}': TensorRT is not to be had: {NO_PROVIDER}")
        memory = self._hot_path.memory(config.name, cuda_index(device) or 0)
        try:
            return self._open_tensorrt(path, config, placement, options, stop, memory)
        except BaseException:
            if memory is not None:
                memory.close()
            raise

    def _open_tensorrt(
        self,
        path: Path,
        config: ModelConfig,
        placement: Placement,
        options: Mapping[str, str],
        stop: Stop,
        memory: CudaMemory | None,
    ) -> Session:
        device = placement.device
        own = session_options(config, intra_op_threads=placement.intra_op_threads)
        stream = 0 if memory is None else memory.stream
        providers = tensorrt_provider_list(config, device, options)
        providers = with_stream(providers, stream, graphs=False)
        with (
            self._hot_path.gate.opening(),
            translation(config.name, device, opening=path.name),
        ):
            session = open_session(self._library, path, own, providers, stop=stop)
        assignment = assignment_of(session, path)
        if not assignment.nodes.get(TENSORRT_PROVIDER):
            raise InvalidRequest(
                f"TensorRT took none of the nodes of '{config.name}': operators that it does not "
                "know are left to CUDA, and so are parts of fewer nodes than "
                f"trt_min_subgraph_size, {options.get('trt_min_subgraph_size', '1')}"
            )
        report = self._settled(session, assignment, config, device, TENSORRT_PROVIDER)
        return OnnxSession(self._library, session, path, config.name, report, own, memory)

    def open(self, path: Path, config: ModelConfig, placement: Placement) -> Session:
        """Implements `Runtime`. Raises DeviceFailed where the GPU that was asked for is not used.

        Weights in files beside the model must lie in its folder, also through links.
        """
        try:
            return self._open(path, config, placement)
        finally:
            with self._lock:
                self._loading.pop(id(placement), None)

    def _open(self, path: Path, config: ModelConfig, placement: Placement) -> Session:
        if not path.is_file():
            raise InvalidRequest(f"model '{config.name}': '{path.name}' is not a file")
        device = placement.device
        options = session_options(config, intra_op_threads=placement.intra_op_threads)
        index = cuda_index(device)
        if index is None:
            providers = provider_list(config, device)
            with translation(config.name, device, opening=path.name):
                session = open_session(self._library, path, options, providers)
            assignment = assignment_of(session, path)
            report = report_of(session, assignment, device, device, CPU_PROVIDER)
            return OnnxSession(
                self._library, session, path, config.name, report, options, HostMemory()
            )
        self._require_cuda(config.name, device, index)
        memory = self._hot_path.memory(config.name, index)
        try:
            return self._open_on_gpu(path, config, device, options, memory)
        except BaseException:
            if memory is not None:
                memory.close()
            raise

    def _open_on_gpu(
        self,
        path: Path,
        config: ModelConfig,
        device: str,
        options: SessionOptions,
        memory: CudaMemory | None,
    ) -> Session:
        """Opens a session that computes in `memory`'s stream; for CUDA graphs where the model asks
        for them and can have them, which only its assignment to devices tells."""
        stream = 0 if memory is None else memory.stream
        counts_copies = copies.may_count(path)

        def create(*, graphs: bool = False, counts: bool = False) -> tuple[Any, int | None]:
            providers = with_stream(provider_list(config, device), stream, graphs=graphs)
            opening = open_counted if counts else open_uncounted
            with (
                self._hot_path.gate.opening(),
                translation(config.name, device, opening=path.name),
            ):
                return opening(self._library, path, options, providers)

        session, copied = create(counts=counts_copies)
        wanted = provider_list(config, device)[0][0]
        assignment = assignment_of(session, path)
        report = self._settled(session, assignment, config, device, wanted, copied)
        graphs = GraphSupport(wants_graphs(config, by_default=self._cuda_graphs))
        if graphs.is_wanted and (problem := _graph_problem(assignment, options, memory)):
            graphs = replace(graphs, problem=problem)
        if graphs.captures:
            del session  # its weights make room for the other's
            try:
                session, _ = create(graphs=True)
            except (InvalidRequest, ExecutionFailed, OutOfMemory) as error:
                graphs = replace(graphs, problem=error.message)
                session, _ = create()
            report = reread(report, session)
        return OnnxSession(
            self._library,
            session,
            path,
            config.name,
            report,
            options,
            memory,
            graphs=graphs,
            reopen=lambda: create()[0],
        )

    def _require_cuda(self, model: str, device: str, index: int) -> None:
        """Raises DeviceFailed, before anything is loaded, where the GPU cannot be used."""
        reason = gpu_unfitness(self.gpus, index)
        if CUDA_PROVIDER not in self._library.get_available_providers():
            reason = NO_PROVIDER
        if reason is not None:
            raise DeviceFailed(f"model '{model}': asked for {device} and did not get it: {reason}")

    def _settled(
        self,
        session: Any,
        assignment: Assignment,
        config: ModelConfig,
        device: str,
        wanted: str,
        copied: int | None = None,
    ) -> DeviceReport:
        """The truth about a session that asked for a GPU and the provider `wanted`. Raises where it
        does not run there."""
        if wanted not in session.get_providers():
            reason = lost_provider_reason(self.gpus, self._needs, loads)
            raise DeviceFailed(
                f"model '{config.name}': asked for {device} and did not get it: {reason}"
            )
        tensors = [*session.get_inputs(), *session.get_outputs()]
        has_text = any(tensor.type == DataType.BYTES.onnx for tensor in tensors)
        settled = settle(config, device, assignment, has_text=has_text)
        index = cuda_index(device)
        gpu = gpu_of(self.gpus, index) if index is not None else None
        return report_of(session, assignment, device, settled, wanted, copied, gpu)


def _graph_problem(
    assignment: Assignment, options: SessionOptions, memory: CudaMemory | None
) -> str | None:
    """Why a session on a GPU is not opened for CUDA graphs; None: it may be tried."""
    if memory is None:
        return "the model has no stream of its own"
    operators = [name for each in assignment.operators.values() for name in each]
    return ineligibility(
        GraphFacts(
            operators,
            assignment.computing_on_cpu,
            shrinks_arena="memory.enable_memory_arena_shrinkage" in options.run_config_entries,
        )
    )
