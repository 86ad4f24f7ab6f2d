"""The steps of the checks on hardware, for any provider: `tests/unit/test_gpu_checks.py` runs them
on the CPU, so that on the first GPU only the GPU is new.

They call ONNX Runtime as the reference describes it, not through the server's modules.
`kind` is `cuda`, or `cpu` with a CUDA runtime whose device memory is the host's.
"""

import gc
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import numpy as np
from stoker.runtime.onnx import library
from stoker.tensor import Array

from tests.gpu.cudart import Cudart, pages

Kind: TypeAlias = Literal["cpu", "cuda"]

CUDA: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"

SHAPE_OPERATORS: Final = frozenset(
    {
        "Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Range",
        "ConstantOfShape",
    }
)  # fmt: skip
"""What ONNX Runtime keeps on the CPU where it computes shapes: no loss."""


def runtime() -> ModuleType:
    """ONNX Runtime, with the CUDA libraries that came as wheels loaded where there are any."""
    ort = library()
    if CUDA in ort.get_available_providers():
        ort.preload_dlls()
    return ort


def open_session(
    path: Path,
    kind: Kind,
    options: Mapping[str, str] | None = None,
    entries: Mapping[str, str] | None = None,
) -> Any:
    """A session that did not fall back: on the CPU, or on the GPU with `options`, in exact
    arithmetic (no TF32) unless they say otherwise. Raises what ONNX Runtime raises."""
    ort = runtime()
    wanted = CUDA if kind == "cuda" else CPU
    if wanted not in ort.get_available_providers():
        raise RuntimeError(f"asked for {wanted}, and this ONNX Runtime does not have it")
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = 1
    chosen.log_severity_level = 3
    chosen.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for key, value in (entries or {}).items():
        chosen.add_session_config_entry(key, value)
    cuda = {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        **(options or {}),
    }
    providers = [(CUDA, cuda), CPU] if kind == "cuda" else [CPU]
    session = ort.InferenceSession(str(path), chosen, providers=providers, enable_fallback=0)
    session.disable_fallback()
    if wanted not in session.get_providers():
        raise RuntimeError(f"asked for {wanted}, got {session.get_providers()}")
    return session


def operators_by_provider(session: Any) -> dict[str, Counter[str]]:
    """How many nodes of each operator ONNX Runtime gave to each provider."""
    found: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        operators = found.setdefault(str(part.ep_name), Counter())
        operators.update(str(node.op_type) for node in part.get_nodes())
    return found


def distance(these: Array, those: Array) -> float:
    """The largest difference, as a share of the largest value of `those`."""
    if these.shape != those.shape:
        raise ValueError(f"expected one shape, got {these.shape} and {those.shape}")
    scale = float(np.abs(those).max()) or 1.0
    return float(np.abs(these.astype(np.float64) - those.astype(np.float64)).max()) / scale


def sees_changes_after_binding(session: Any) -> bool:
    """Whether a run reads what a bound host array holds at the run, or what it held when it was
    bound. The model gives `x` as `y`."""
    x = np.ones((2, 4), np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu")
    x[:] = 2
    session.run_with_iobinding(binding)
    (y,) = binding.copy_outputs_to_cpu()
    if not (y == y.flat[0]).all() or y.flat[0] not in (1, 2):
        raise AssertionError(f"expected 1 or 2 everywhere, got {y}")
    return bool(y.flat[0] == 2)


class FixedRun:
    """Level 1 of the reference, 3.4: fixed device buffers, one binding, page-locked slabs, our own
    stream. For one thread.

    `inputs` and `outputs`: shape and numpy type by name, of one bucket. The session, if it is on
    a GPU, was opened with `user_compute_stream` = `stream`.
    """

    def __init__(
        self,
        cuda: Cudart,
        session: Any,
        kind: Kind,
        stream: int,
        inputs: Mapping[str, tuple[Sequence[int], type[np.generic]]],
        outputs: Mapping[str, tuple[Sequence[int], type[np.generic]]],
        entries: Mapping[str, str] | None = None,
    ) -> None:
        self._cuda, self._session, self._stream = cuda, session, stream
        self._binding = session.io_binding()
        self._options = library().RunOptions()
        for key, value in (entries or {}).items():
            self._options.add_run_config_entry(key, value)
        self._device: dict[str, int] = {}
        self._pages: list[Array] = []
        self.inputs: dict[str, Array] = {}
        """Page-locked: what `run` takes."""
        self.outputs: dict[str, Array] = {}
        """Page-locked: what `run` fills."""
        for name, (shape, kind_of) in inputs.items():
            address = self._slab(name, self.inputs, shape, kind_of)
            self._binding.bind_input(name, kind, 0, kind_of, list(shape), address)
        for name, (shape, kind_of) in outputs.items():
            address = self._slab(name, self.outputs, shape, kind_of)
            self._binding.bind_output(name, kind, 0, kind_of, list(shape), address)

    def _slab(
        self, name: str, into: dict[str, Array], shape: Sequence[int], kind: type[np.generic]
    ) -> int:
        nbytes = int(np.prod(shape)) * np.dtype(kind).itemsize
        memory = pages(nbytes)
        self._cuda.register(memory)
        self._pages.append(memory)
        into[name] = memory.view(kind).reshape(shape)
        self._device[name] = self._cuda.malloc(nbytes)
        return self._device[name]

    def run(self) -> dict[str, Array]:
        """Copies in, runs, copies out, waits; gives `outputs`."""
        for name, array in self.inputs.items():
            self._cuda.copy_in(self._device[name], array, self._stream)
        self._session.run_with_iobinding(self._binding, self._options)
        for name, array in self.outputs.items():
            self._cuda.copy_out(array, self._device[name], self._stream)
        self._cuda.wait(self._stream)
        return self.outputs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._binding, self._session  # before the stream and the memory that they use
        for memory in self._pages:
            self._cuda.unregister(memory)
        for address in self._device.values():
            self._cuda.free(address)


class GraphRun:
    """One bucket of a session with CUDA graphs, 3.5 of the reference: device values at fixed
    addresses, one binding, one graph. Runs on the thread that captures.

    `graph` is the id under which the graph is captured at the first run and replayed later; None:
    the run is neither.
    """

    def __init__(
        self, session: Any, kind: Kind, x: Array, output: Sequence[int], graph: int | None
    ) -> None:
        ort = library()
        self._session = session
        self._x = ort.OrtValue.ortvalue_from_numpy(x, kind, 0)
        self._y = ort.OrtValue.ortvalue_from_shape_and_type(list(output), np.float32, kind, 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input("x", self._x)
        self._binding.bind_ortvalue_output("y", self._y)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", "-1" if graph is None else str(graph))

    def run(self, x: Array | None = None) -> None:
        """Puts `x`, if one is given, where the graph reads it, and runs."""
        if x is not None:
            self._x.update_inplace(x)
        self._session.run_with_iobinding(self._binding, self._options)

    def result(self) -> Array:
        """A copy of what the last run made."""
        return np.array(self._y.numpy())


def gil_share(call: Callable[[], object], seconds: float = 0.5) -> float:
    """The share of `call`'s time in which no other Python thread could run, 0 to 1.

    Another thread counts. How far it comes within the calls is compared with how far it comes in
    as much time while this thread sleeps. On a busy machine it comes less far in both, so that a
    share of a tenth or two says nothing; one near 1 does.
    """
    count = 0
    ending = threading.Event()

    def counts() -> None:
        nonlocal count
        while not ending.is_set():
            count += 1

    def rate(act: Callable[[], object]) -> float:
        """Counts a second within `act`, which is repeated."""
        counted, spent = 0, 0.0
        while spent < seconds:
            before, began = count, time.perf_counter()
            act()
            spent += time.perf_counter() - began
            counted += count - before
        return counted / spent

    thread = threading.Thread(target=counts, name="counts")
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # what the other is given after a call counts as within it
    thread.start()
    try:
        alone = rate(lambda: time.sleep(seconds / 10))
        within = rate(call)
    finally:
        ending.set()
        thread.join()
        sys.setswitchinterval(usual)
    return min(1.0, max(0.0, 1 - within / max(alone, 1.0)))


def seconds_of(call: Callable[[], object], *, repeats: int = 20, warm: int = 3) -> list[float]:
    """How long each of `repeats` calls took, after `warm` that are not counted."""
    for _ in range(warm):
        call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def gigabytes_per_second(nbytes: int, times: Sequence[float]) -> float:
    """Of the median time."""
    return nbytes / statistics.median(times) / 1e9


def used_bytes(cuda: Cudart) -> int:
    """Memory of the thread's device that is in use, after Python has let go of what it can."""
    gc.collect()
    free, total = cuda.memory_info()
    return total - free


def as_bfloat(values: Array) -> Array:
    """FP32 values that BF16 can hold, as BF16's 16 bits."""
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2")


def from_bfloat(bits: Array) -> Array:
    """BF16's 16 bits as FP32."""
    return (bits.astype("<u4") << 16).view("<f4")
