"""The boundary to ONNX Runtime: what an opened model can do. Fakes in tests stand here only.

`runtime/onnx.py` implements it; the engine's executors call it from their own threads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from stoker.device import DeviceReport
from stoker.model import ModelConfig
from stoker.runtime.cuda_graphs import NOT_CAPTURED, GraphSupport
from stoker.runtime.device_memory import DeviceMemory
from stoker.tensor import Array, DataType, TensorSpec


class BoundTensor(NamedTuple):
    """One input or output of a binding: memory of the session's device, of exactly this shape."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    address: int
    """0 for an output whose shape is known only after a run: ONNX Runtime allocates it."""


class OutputMismatch(Exception):
    """A run makes an output of another shape than the one that is bound. Told to whoever bound it,
    never to a client: a run without that binding has the answer."""


class Binding(Protocol):
    """A session's inputs and outputs at fixed addresses. Holds none of their memory."""

    def run(self) -> None:
        """Runs the model once. On a GPU the outputs are there after `DeviceMemory.wait`. Raises
        OutputMismatch, ExecutionFailed, OutOfMemory or DeviceFailed."""

    def rebind(self, tensor: BoundTensor) -> None:
        """An input lies elsewhere from here on."""

    def made(self, name: str) -> Array:
        """An output that was bound without address, as the last run made it."""


if TYPE_CHECKING:
    from stoker.runtime.candidate import Candidate


class Session(Protocol):
    """One ONNX model opened on one device. `run` is thread-safe and releases the GIL."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's own inputs; -1 is a variable dimension. Overridable initialisers are
        `optional`."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's own outputs."""

    @property
    def dimension_names(self) -> Mapping[str, tuple[str | None, ...]]:
        """Symbol of each dimension by tensor name: None where it is fixed or has no name."""

    @property
    def unranked(self) -> frozenset[str]:
        """Tensors whose rank the model does not declare (their spec has shape ())."""

    @property
    def device(self) -> str:
        """`cpu` or `cuda:0`: where ONNX Runtime really put it."""

    @property
    def report(self) -> DeviceReport:
        """What was asked for and what became of it; its `device` is the one above."""

    def run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str],
        into: Mapping[str, Array] | None = None,
    ) -> list[Array]:
        """Runs the model once; the outputs come in the order of `outputs`.

        Feeds are C-contiguous arrays of the datatype's numpy form (BYTES: `str` objects, BF16:
        uint16). An output named in `into` is written into that array, which must have exactly
        the produced shape, and that very array is returned for it. Raises ExecutionFailed,
        OutOfMemory or DeviceFailed.
        """

    @property
    def memory(self) -> DeviceMemory | None:
        """Where tensors of bindings live; None where this model cannot be bound (BYTES, or an
        output that is an input itself). The session's own: `close` frees all of it."""

    @property
    def graphs(self) -> GraphSupport:
        """Whether bindings may be captured as CUDA graphs."""

    def bind(
        self,
        inputs: Sequence[BoundTensor],
        outputs: Sequence[BoundTensor],
        graph: int = NOT_CAPTURED,
    ) -> Binding:
        """Binds every input, and the outputs that are wanted, to `memory`'s addresses.

        `graph`: 1 and up, one for each binding: its first run captures a CUDA graph, later ones
        replay it; all by one thread. Raises as `run`.
        """

    def give_up_graphs(self, problem: str) -> None:
        """Goes on as a session that was opened without CUDA graphs, which `graphs` then says.
        Bindings made so far are void; no run is under way. Raises as `Runtime.open`."""

    def close(self) -> None:
        """Frees the model and its memory. No run is under way or follows."""


@dataclass(frozen=True, slots=True, weakref_slot=True)  # a runtime sees when a load let it go
class Placement:
    """Where one session of a model goes, and how many runs it may have at once there."""

    device: str
    """`cpu`, or `cuda:N` with N the index that CUDA sees."""
    instances: int
    """Concurrent runs (executors) on this session; 1 on a GPU."""
    intra_op_threads: int
    """Threads of one run, the calling thread counted."""


class Runtime(Protocol):
    """Opens models. `OnnxRuntime` is the real one."""

    @property
    def version(self) -> str:
        """The library's own version."""

    @property
    def driver(self) -> str | None:
        """The GPU driver in words; None where there is none."""

    def place(self, config: ModelConfig) -> tuple[Placement, ...]:
        """The sessions that a model's instance groups ask for. Raises InvalidRequest for a group
        that this machine cannot have (a GPU that is not there), with the sentence for the user."""

    def candidate(
        self, path: Path, folder: Path, config: ModelConfig, session: Session, *, max_rows: int
    ) -> "Candidate | None":
        """A faster way to run a model that is open as `session`; None where none is asked for.

        `config` is complete, `folder` is the model's own, batches have at most `max_rows` rows.
        Raises CandidateRefused where one is asked for and cannot be had.
        """

    def open(self, path: Path, config: ModelConfig, placement: Placement) -> Session:
        """Opens a model file (blocking). `config` may be incomplete: only its parameters and
        optimisation are read. Raises InvalidRequest with the reason, free of machine paths."""
