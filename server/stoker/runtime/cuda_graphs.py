"""CUDA graphs: which models may be captured, when, and how a replay is told from a wrong one.

A graph launches all kernels of a run at once: it pays for models of many small kernels, where the
launches take longer than the work. ONNX Runtime captures the first run of a graph id, at the
addresses that are bound, and replays it from then on. Nothing here calls ONNX Runtime; `fixed.py`
captures and replays.

  1. The thread that captures is the one that replays: ONNX Runtime keeps graphs per thread.
  2. Nothing else of the process calls CUDA while a graph is captured: ONNX Runtime captures in
     CUDA's global mode, in which an allocation by any other thread fails, and so does the capture.
  3. What is replayed was compared with a run that was not captured, with other data than those of
     the capture. Where that fails, the model serves without graphs, and says why.
Source: ONNX Runtime, core/providers/cuda/cuda_graph.cc; reference, section 3.5.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from stoker.model import ModelConfig
from stoker.runtime.options import switch
from stoker.tensor import Array, DataType

CONTROL_FLOW: Final = frozenset({"If", "Loop", "Scan"})
"""Operators whose kernels are chosen anew in each run."""

RANDOM: Final = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
     "RandomUniformLike"}
)  # fmt: skip
"""A replay draws the numbers of the capture again."""

NOT_CAPTURED: Final = -1
"""The graph id of runs that are neither captured nor replayed."""


def wants_graphs(config: ModelConfig, *, by_default: bool) -> bool:
    """Whether a model asks for graphs: its parameter `cuda_graphs`; without that
    `optimization.cuda.graphs` of its file, or the server's `--cuda-graphs`."""
    own = switch(config, "cuda_graphs")
    return (config.optimization.cuda_graphs or by_default) if own is None else own


@dataclass(frozen=True, slots=True)
class GraphSupport:
    """Whether a session captures graphs, and why not where that was asked for."""

    is_wanted: bool = False
    problem: str = ""
    """In words; empty: none."""

    @property
    def captures(self) -> bool:
        """Whether the session was opened for graphs and still has them."""
        return self.is_wanted and not self.problem

    def __str__(self) -> str:
        if not self.is_wanted:
            return "off"
        return f"not used: {self.problem}" if self.problem else "on"


NO_GRAPHS: Final = GraphSupport()


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What is known of an opened model. Operators are types, an entry a node or once each."""

    operators: Sequence[str]
    """All that ONNX Runtime runs, on any device."""
    computing_on_cpu: Sequence[str]
    """Those on the CPU that do more than compute shapes."""
    shrinks_arena: bool = False
    """Memory is given back to the device after a run."""


def ineligibility(facts: GraphFacts) -> str | None:
    """Why a model cannot be captured, in words; None: it can be tried. Pure."""
    branching = sorted(set(facts.operators) & CONTROL_FLOW)
    if branching:
        return f"it has {', '.join(branching)}, which decide in each run what is launched"
    if facts.computing_on_cpu:
        listed = ", ".join(sorted(set(facts.computing_on_cpu)))
        return f"{listed} compute on the CPU, and a graph holds only what runs on the GPU"
    drawing = sorted(set(facts.operators) & RANDOM)
    if drawing:
        return f"it has {', '.join(drawing)}, and a replay would draw the same numbers each time"
    if facts.shrinks_arena:
        return "memory.enable_memory_arena_shrinkage gives memory back that a graph writes to"
    return None


TOLERANCES: Final = {
    DataType.FP16: 1e-2,
    DataType.BF16: 5e-2,
    DataType.FP32: 1e-4,
    DataType.FP64: 1e-10,
}
"""The largest difference between a replay and a run without graphs, relative to the largest value
of the output. The same kernels run in both, so most models differ by nothing; sums by atomic
additions differ in their last bits from run to run."""


def difference(got: Array, expected: Array, datatype: DataType) -> float:
    """How much an output differs, relative to its largest value; infinite where one has NaNs or
    infinities and the other has not. 0 or infinite for datatypes without TOLERANCES."""
    if datatype not in TOLERANCES:
        return 0.0 if np.array_equal(got, expected) else float("inf")
    first, second = _as_float(got, datatype), _as_float(expected, datatype)
    is_finite = np.isfinite(second)
    if not np.array_equal(np.isfinite(first), is_finite):
        return float("inf")
    if not np.array_equal(first[~is_finite], second[~is_finite], equal_nan=True):
        return float("inf")
    first, second = first[is_finite], second[is_finite]
    if not second.size:
        return 0.0
    largest = max(float(np.abs(second).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(first - second).max()) / largest


def verify(
    got: Mapping[str, Array], expected: Mapping[str, Array], datatypes: Mapping[str, DataType]
) -> str | None:
    """What is wrong with a replay, in words; None: it is within TOLERANCES."""
    for name, array in expected.items():
        datatype = datatypes[name]
        found = difference(got[name], array, datatype)
        allowed = TOLERANCES.get(datatype, 0.0)
        if found > allowed:
            return (
                f"output '{name}' of a replay differs from a run without graphs by {found:.2g}, "
                f"more than {allowed:.2g}"
            )
    return None


def _as_float(array: Array, datatype: DataType) -> Array:
    if datatype is DataType.BF16:
        wide = array.astype(np.uint32) << 16
        return np.asarray(wide.view(np.float32), np.float64)
    return np.asarray(array, np.float64)


class CaptureGate:
    """Rule 2: many may call CUDA at once, or one may capture.

    Runs wait for a capture from the moment on at which only runs are in its way, which end soon. An
    opening takes long, so who captures waits for openings first, and runs go on meanwhile. For any
    thread; not to be entered twice by one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._openings = 0
        self._wants_quiet = 0
        self._callers = 0
        self._wants = 0
        self._is_capturing = False

    @contextmanager
    def calls(self) -> Iterator[None]:
        """Waits while a graph is captured."""
        with self._changed:
            while self._wants or self._is_capturing:
                self._changed.wait()
            self._callers += 1
        try:
            yield
        finally:
            with self._changed:
                self._callers -= 1
                if self._wants:
                    self._changed.notify_all()

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Around calls that take long and allocate: waits while a graph is captured, or about to
        be."""
        with self._changed:
            self._changed.wait_for(lambda: not self._wants_quiet and not self._is_capturing)
            self._openings += 1
        try:
            yield
        finally:
            with self._changed:
                self._openings -= 1
                self._changed.notify_all()

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Waits until nobody opens or calls."""
        with self._changed:
            self._wants_quiet += 1
            self._changed.wait_for(lambda: not self._openings and not self._is_capturing)
            self._wants += 1
            self._changed.wait_for(lambda: not self._callers and not self._is_capturing)
            self._wants -= 1
            self._wants_quiet -= 1
            self._is_capturing = True
        try:
            yield
        finally:
            with self._changed:
                self._is_capturing = False
                self._changed.notify_all()
