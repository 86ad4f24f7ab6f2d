"""ONNX Runtime behind `runtime/session.py`: opens models, runs them, translates what goes wrong.

The one importer of onnxruntime, at first use, after telemetry is turned off. Executors call
`OnnxSession.run` from their threads; it releases the GIL. Knows nothing of requests and batches.
  1. A session that was asked for a GPU and did not get it raises; nothing falls back silently.
  2. No text of ONNX Runtime leaves this folder unread: `faults.py` takes paths and hosts out.
  3. Pool threads run at nice +10, below the event loop: they inherit it from the opening thread.
"""

import importlib
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final

import numpy as np

from stoker.errors import (
    DeviceFailed,
    ExecutionFailed,
    InvalidRequest,
    OutOfMemory,
    ServingError,
)
from stoker.model import ModelConfig
from stoker.runtime import faults, graph_scan
from stoker.runtime.cpu import at_low_priority, read_budget
from stoker.runtime.described import Described
from stoker.runtime.installation import (
    BrokenInstallation,
    installation_problem,
    installed_distributions,
)
from stoker.runtime.options import SessionOptions, session_options
from stoker.runtime.placement import Assignment, DeviceWish, Machine, placements, settle
from stoker.runtime.providers import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    NO_PROVIDER,
    GpuProbe,
    ProviderList,
    cuda_index,
    lost_provider_reason,
    missing_libraries,
    probe_gpus,
    provider_list,
)
from stoker.runtime.session import Placement, Session
from stoker.tensor import Array, DataType, TensorSpec, shape_text

log = logging.getLogger(__name__)

_LOG_ERRORS: Final = 3
_LOG_FATAL: Final = 4

COPIED_BYTES: Final = 1 << 16
"""`InferenceSession.run` copies its outputs and holds the GIL meanwhile: 5 ms for 20 MB. A model
that made this much in its last run is run by a binding instead, whose outputs are taken as views;
for small outputs the binding costs more (9 against 6 us at 4 KiB)."""


@cache
def library() -> ModuleType:
    """The package onnxruntime, imported at the first call. Raises BrokenInstallation."""
    # Only the environment variable, and only before the import, keeps ONNX Runtime from writing a
    # device id to the home folder and from sending events.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
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
    module.set_default_logger_severity(_LOG_ERRORS)
    return module


class OnnxRuntime:
    """Opens models with ONNX Runtime. Implements `Runtime`.

    `device`: `gpu` insists, `cpu` never looks for one, `auto` takes a GPU where there is one.
    Raises BrokenInstallation.
    """

    def __init__(self, device: DeviceWish = "auto") -> None:
        self._wish: DeviceWish = device
        self._library = library()
        self._lock = threading.Lock()
        self._machine: Machine | None = None
        self._has_preloaded = False

    @property
    def version(self) -> str:
        """ONNX Runtime's own version."""
        return str(self._library.__version__)

    @property
    def machine(self) -> Machine:
        """GPUs and CPUs, looked at once."""
        with self._lock:
            if self._machine is None:
                self._machine = Machine(self._gpus(), read_budget())
            return self._machine

    def _gpus(self) -> GpuProbe:
        if self._wish == "cpu":
            return GpuProbe(0, "the server runs with --device cpu")
        found = probe_gpus()
        if found.count and CUDA_PROVIDER not in self._library.get_available_providers():
            log.warning("%d GPU(s) are here and cannot be used: %s", found.count, NO_PROVIDER)
            return GpuProbe(0, NO_PROVIDER)
        return found

    def place(self, config: ModelConfig) -> tuple[Placement, ...]:
        """Implements `Runtime`."""
        return placements(config, self._wish, self.machine)

    def open(self, path: Path, config: ModelConfig, placement: Placement) -> Session:
        """Implements `Runtime`. Raises DeviceFailed where the GPU that was asked for is not used.

        Weights in files beside the model must lie in its folder, also through links.
        """
        if not path.is_file():
            raise InvalidRequest(f"model '{config.name}': '{path.name}' is not a file")
        options = session_options(config, intra_op_threads=placement.intra_op_threads)
        providers = provider_list(config, placement.device)
        index = cuda_index(placement.device)
        if index is not None:
            self._require_cuda(config.name, placement.device)
        translation = Translation(config.name, opening=path.name, on_gpu=index is not None)
        with translation:
            session = at_low_priority(lambda: self._create(path, options, providers))
            session.disable_fallback()
        device = "cpu" if index is None else self._settled(session, config.name, placement.device)
        return OnnxSession(self._library, session, path, config.name, device, options)

    def _require_cuda(self, model: str, device: str) -> None:
        if CUDA_PROVIDER not in self._library.get_available_providers():
            raise DeviceFailed(
                f"model '{model}': asked for {device} and did not get it: {NO_PROVIDER}"
            )
        with self._lock:
            if not self._has_preloaded:
                self._library.preload_dlls()  # finds the CUDA libraries that came as wheels
                self._has_preloaded = True

    def _create(self, path: Path, options: SessionOptions, providers: ProviderList) -> Any:
        ort = self._library
        chosen = ort.SessionOptions()
        chosen.graph_optimization_level = getattr(
            ort.GraphOptimizationLevel, options.graph_level.value
        )
        chosen.intra_op_num_threads = options.intra_op_threads
        chosen.inter_op_num_threads = options.inter_op_threads
        mode = "ORT_PARALLEL" if options.is_parallel else "ORT_SEQUENTIAL"
        chosen.execution_mode = getattr(ort.ExecutionMode, mode)
        chosen.enable_cpu_mem_arena = options.memory_arena
        chosen.enable_mem_pattern = options.memory_pattern
        chosen.log_severity_level = _LOG_ERRORS
        for key, value in options.config_entries.items():
            chosen.add_session_config_entry(key, value)
        if providers[0][0] != CPU_PROVIDER:
            chosen.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        named = [(name, dict(each)) if each else name for name, each in providers]
        return ort.InferenceSession(str(path), chosen, providers=named, enable_fallback=0)

    def _settled(self, session: Any, model: str, device: str) -> str:
        if CUDA_PROVIDER not in session.get_providers():
            reason = lost_provider_reason(self.machine.gpus, missing_libraries())
            raise DeviceFailed(f"model '{model}': asked for {device} and did not get it: {reason}")
        on_gpu, on_cpu = 0, []
        for part in session.get_provider_graph_assignment_info():
            nodes = part.get_nodes()
            if part.ep_name == CPU_PROVIDER:
                on_cpu += [str(node.op_type) for node in nodes]
            else:
                on_gpu += len(nodes)
        assignment = Assignment(on_gpu, tuple(on_cpu))
        tensors = [*session.get_inputs(), *session.get_outputs()]
        has_text = any(tensor.type == DataType.BYTES.onnx for tensor in tensors)
        settled = settle(model, device, assignment, has_text=has_text)
        if settled != device:
            log.warning("model '%s' runs on the CPU: no node of it can run on a GPU", model)
        elif assignment.misplaced:
            operators = ", ".join(assignment.misplaced)
            log.warning("model '%s' on %s: on the CPU remain %s", model, device, operators)
        return settled


class OnnxSession:
    """One opened model. Implements `Session`."""

    def __init__(
        self,
        ort: ModuleType,
        session: Any,
        path: Path,
        model: str,
        device: str,
        options: SessionOptions,
    ) -> None:
        self._session = session
        self._model = model
        self._device = device
        declared = graph_scan.scan(path)
        optional = session.get_overridable_initializers()
        given = [Described(node, declared, model, "input") for node in session.get_inputs()]
        given += [Described(node, declared, model, "input", optional=True) for node in optional]
        made = [Described(node, declared, model, "output") for node in session.get_outputs()]
        self._inputs = tuple(each.spec for each in given)
        self._outputs = tuple(each.spec for each in made)
        self._dimension_names = {each.spec.name: each.symbols for each in given + made}
        self._unranked = frozenset(each.spec.name for each in given + made if each.is_unranked)
        self._datatypes = {spec.name: spec.datatype for spec in self._inputs + self._outputs}
        used = set(self._datatypes.values())
        self._has_text = DataType.BYTES in used
        self._has_bfloat = DataType.BF16 in used
        if self._has_text and self._has_bfloat:
            raise InvalidRequest(
                f"model '{model}' has both BYTES and BF16 tensors; ONNX Runtime's Python interface "
                "can pass only one of the two"
            )
        # ONNX Runtime gives such an output as the input itself: a bound one would not be written,
        # and the value that comes back is a view of the feed, whose memory is used again.
        self._passed_on = {spec.name for spec in self._inputs} & {
            spec.name for spec in self._outputs
        }
        self._run_options = ort.RunOptions()
        self._run_options.log_severity_level = _LOG_FATAL  # a failed run raises; no log flood
        for key, value in options.run_config_entries.items():
            self._run_options.add_run_config_entry(key, value)
        self._translation = Translation(model, on_gpu=device != "cpu")
        self._makes_much = False
        """The last run made outputs of COPIED_BYTES or more."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Implements `Session`."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Implements `Session`."""
        return self._outputs

    @property
    def dimension_names(self) -> Mapping[str, tuple[str | None, ...]]:
        """Implements `Session`."""
        return self._dimension_names

    @property
    def unranked(self) -> frozenset[str]:
        """Implements `Session`."""
        return self._unranked

    @property
    def device(self) -> str:
        """Implements `Session`."""
        return self._device

    def run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str],
        into: Mapping[str, Array] | None = None,
    ) -> list[Array]:
        """Implements `Session`.  Hot path."""
        with self._translation:
            is_bindable = not self._has_text and not self._passed_on
            if self._has_bfloat or ((into or self._makes_much) and is_bindable):
                made = self._run_bound(feeds, outputs, into or {})
                self._makes_much = _nbytes(made) >= COPIED_BYTES
                return made
            made = self._session.run(list(outputs), dict(feeds), self._run_options)
            self._makes_much = _nbytes(made) >= COPIED_BYTES
        if into:
            return [self._copied(*each, into) for each in zip(outputs, made, strict=True)]
        # Results of the declared datatype; scalars as 0-d arrays.
        return [np.asarray(array) for array in made]

    def _run_bound(
        self, feeds: Mapping[str, Array], outputs: Sequence[str], into: Mapping[str, Array]
    ) -> list[Array]:
        binding = self._session.io_binding()
        kept = []  # ONNX Runtime holds bare pointers: the arrays must outlive the run
        for name, array in feeds.items():
            if self._datatypes.get(name) is DataType.BF16:
                packed = np.ascontiguousarray(array, DataType.BF16.numpy)  # scalars become 1-d
                kept.append(packed)
                binding.bind_input(
                    name, "cpu", 0, DataType.BF16.onnx_number, array.shape, address(packed)
                )
            else:
                binding.bind_cpu_input(name, array)
        for name in outputs:
            target = None if name in self._passed_on else into.get(name)
            if target is None:
                binding.bind_output(name, "cpu")
                continue
            self._check_target(name, target)
            number = self._datatypes[name].onnx_number
            binding.bind_output(name, "cpu", 0, number, target.shape, address(target))
        self._session.run_with_iobinding(binding, self._run_options)
        made = []
        for name, value in zip(outputs, binding.get_outputs(), strict=True):
            if name in self._passed_on:
                array = np.array(_array_of(value, self._datatypes[name]))
                made.append(self._copied(name, array, into))
            elif name in into:
                made.append(into[name])
            else:
                made.append(_array_of(value, self._datatypes[name]))
        del kept
        return made

    def _check_target(self, name: str, target: Array) -> None:
        datatype = self._datatypes.get(name)
        fits = datatype is not None and target.dtype == datatype.numpy
        if not fits or not target.flags.c_contiguous or not target.flags.writeable:
            raise ExecutionFailed(
                f"output '{name}': expected writable C-contiguous memory of "
                f"{datatype.wire if datatype else 'a known output'}, got {target.dtype} "
                f"{shape_text(target.shape)}"
            )

    def _copied(self, name: str, array: Array, into: Mapping[str, Array]) -> Array:
        target = into.get(name)
        if target is None:
            return array
        self._check_target(name, target)
        if target.shape != array.shape:
            raise ExecutionFailed(
                f"output '{name}': expected memory for {shape_text(array.shape)}, "
                f"got {shape_text(target.shape)}"
            )
        target[...] = array
        return target

    def close(self) -> None:
        """Implements `Session`."""
        self._session = None


class Translation:
    """The one place where ONNX Runtime's exceptions become ours. Used by many threads at once."""

    def __init__(self, model: str, *, on_gpu: bool, opening: str | None = None) -> None:
        """`opening`: the name of the model file while it is being opened."""
        self._model = model
        self._on_gpu = on_gpu
        self._opening = opening

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # ONNX Runtime's classes derive from Exception one by one, and bound runs raise a plain
        # RuntimeError: only the text tells them apart.
        if not isinstance(error, Exception) or isinstance(error, ServingError):
            return
        if isinstance(error, MemoryError):
            raise OutOfMemory(f"model '{self._model}': out of memory") from error
        if self._opening is not None:
            raise faults.open_error(
                str(error), model=self._model, filename=self._opening, on_gpu=self._on_gpu
            ) from error
        raise faults.run_error(str(error), model=self._model, on_gpu=self._on_gpu) from error


class _Memory:
    """Memory of an OrtValue that numpy cannot name (BF16), as uint16 without a copy."""

    def __init__(self, value: Any) -> None:
        self._value = value  # owns the memory
        self.__array_interface__ = {
            "shape": tuple(value.shape()),
            "typestr": "<u2",
            "data": (value.data_ptr(), False),
            "version": 3,
        }


def _nbytes(arrays: Sequence[Array]) -> int:
    return sum([array.nbytes for array in arrays])


def _array_of(value: Any, datatype: DataType) -> Array:
    if datatype is not DataType.BF16:
        return np.asarray(value.numpy())
    if 0 in value.shape():
        return np.empty(tuple(value.shape()), datatype.numpy)
    return np.asarray(_Memory(value))


def address(array: Array) -> int:
    """Where the array's memory begins."""
    return int(array.__array_interface__["data"][0])
