"""The host memory that a server may take: the formula behind limits, for `init` and for `lint`.

    process    what the server had resident at most until it was ready, models and arenas included
    buffered   max_buffered_bytes, twice: requests and unsent answers, and tensors in the queues
    slabs      inputs and outputs of batches that are being made, run and sent
    allocator  freed memory that glibc keeps for the next large message
    gpu        what CUDA and its libraries take of the host, where that was not measured
    volumes    emptyDirs in memory

Source: docs/operating.md, Resources; docs/configuration.md, max_buffered_bytes.
"""

from dataclasses import dataclass
from typing import Final

from stoker.deploy.measurement import MeasuredModel, Measurement
from stoker.deploy.quantity import GIB, MIB

PROCESS_BYTES: Final = 105 * MIB
"""Resident in a server on the CPU with the three demo models, which are tiny (Linux, x86-64)."""
ALLOCATOR_BYTES: Final = 64 * MIB
"""Source: allocator.py, KEPT_BYTES."""
GPU_HOST_BYTES: Final = 3 * GIB
"""An estimate that no measurement on a GPU has replaced yet: the context, cuBLAS' and cuDNN's
libraries (1.7 GB on disk), staging memory."""
SETS: Final = 4
"""Sets of slabs that an instance may have lent at once. Source: engine/outputs.py, POOL_SLABS."""
SET_BYTES: Final = 32 * MIB
"""The most of one set. Source: engine/outputs.py, SET_BYTES."""


@dataclass(frozen=True, slots=True)
class Part:
    """One term of the sum."""

    name: str
    nbytes: int
    origin: str


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """The sum and its terms."""

    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(part.nbytes for part in self.parts)


def memory_need(
    measured: Measurement | None,
    *,
    buffered_bytes: int,
    volume_bytes: int = 0,
    for_gpu: bool = False,
) -> MemoryNeed:
    """What a server with these models may take; without `measured` the least that is known.

    `for_gpu`: it will run on a GPU, whether or not it was measured on one.
    """
    if measured is None:
        parts = [Part("process", PROCESS_BYTES, "the least: the server with the demo models")]
    else:
        parts = [Part("process", measured.peak_bytes, "measured until it was ready, at most")]
    parts.append(Part("buffered", 2 * buffered_bytes, "twice max_buffered_bytes"))
    if measured is not None:
        slabs = sum(map(slab_bytes, measured.models))
        parts.append(Part("slabs", slabs, f"{SETS} sets an instance of its largest batch"))
        parts.append(Part("allocator", ALLOCATOR_BYTES, "freed memory that is kept"))
        if for_gpu and not measured.on_gpu:
            parts.append(Part("gpu", GPU_HOST_BYTES, "CUDA on the host: estimated, not measured"))
    if volume_bytes:
        parts.append(Part("volumes", volume_bytes, "emptyDirs in memory"))
    return MemoryNeed(tuple(parts))


def slab_bytes(model: MeasuredModel) -> int:
    """Inputs and outputs of the batches that a model has under way at most."""
    rows = model.batch_limit_rows
    inputs = min(SET_BYTES, model.input_row_bytes * rows)
    outputs = min(SET_BYTES, model.output_row_bytes * rows)
    return SETS * model.instances * (inputs + outputs)
