"""The boundary to ONNX Runtime: what an opened model can do. Fakes in tests stand here only.

`runtime/onnx.py` implements it; the engine's executors call it from their own threads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stoker.device import DeviceReport
from stoker.model import ModelConfig
from stoker.tensor import Array, TensorSpec


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

    def close(self) -> None:
        """Frees the model. No run is under way or follows."""


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

    def place(self, config: ModelConfig) -> tuple[Placement, ...]:
        """The sessions that a model's instance groups ask for. Raises InvalidRequest for a group
        that this machine cannot have (a GPU that is not there), with the sentence for the user."""

    def open(self, path: Path, config: ModelConfig, placement: Placement) -> Session:
        """Opens a model file (blocking). `config` may be incomplete: only its parameters and
        optimisation are read. Raises InvalidRequest with the reason, free of machine paths."""
