"""Buffers that a run writes its outputs into, and the leases that say when they may be reused.

Large outputs of fixed shape go into pooled slabs: nothing is allocated per batch, and ONNX Runtime
writes into them directly. A slab is lent for one batch; every answer of that batch holds a share in
the lease, and the transport gives the share back when the answer's bytes have left the process.
When all slabs of the pool are lent, a batch gets fresh arrays instead: a reader that stalls costs
memory up to the pool's bound and never anybody's answer.
"""

from collections import deque
from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np

from stoker.engine.plan import PlannedOutput
from stoker.tensor import Array, DataType

SLAB_BYTES: Final = 1 << 16
"""Outputs below 64 KiB a batch are fresh arrays: binding them costs more than it saves."""

POOL_SLABS: Final = 4
"""Slabs an instance may have lent at once: one being written, one being encoded, two unsent."""


class BatchLease:
    """The shares of one batch's answers in one set of slabs. Used by one thread at a time."""

    __slots__ = ("_pool", "_shares", "_slabs")

    def __init__(self, pool: "OutputPool", slabs: dict[str, Array], shares: int) -> None:
        self._pool = pool
        self._slabs = slabs
        self._shares = shares

    def release(self) -> None:
        """Gives one share back; the last one frees the slabs. Called on the event loop."""
        self._shares -= 1
        if self._shares == 0:
            self._pool.take_back(self._slabs)


class OutputPool:
    """The slabs of one instance, made when first needed, at most `POOL_SLABS` sets."""

    def __init__(self, outputs: Sequence[PlannedOutput], *, batches: bool, max_rows: int) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]] = {}
        for output in outputs:
            if not batches or -1 in output.model_dims or output.datatype is DataType.BYTES:
                continue
            if output.datatype is DataType.BF16:
                continue  # comes by a typed OrtValue of its own
            row_bytes = prod(output.model_dims) * output.datatype.size
            if row_bytes * max_rows >= SLAB_BYTES:
                shape = (max_rows, *output.model_dims)
                self._shapes[output.name] = (shape, output.datatype.numpy)
        self._max_rows = max_rows
        self._free: deque[dict[str, Array]] = deque()
        self._made = 0

    @property
    def is_empty(self) -> bool:
        """Whether no output of this model is worth a slab."""
        return not self._shapes

    def lend(
        self, names: Sequence[str], rows: int, shares: int
    ) -> tuple[dict[str, Array], BatchLease] | None:
        """Views of exactly `rows` rows for those of `names` that have slabs, and their lease.

        None when there are none, the batch is larger than the slabs or too small to be worth it,
        or all slabs are lent.
        """
        if rows > self._max_rows:
            return None
        wanted = [
            name for name in names if name in self._shapes and self._bytes(name, rows) >= SLAB_BYTES
        ]
        if not wanted:
            return None
        try:
            slabs = self._free.popleft()
        except IndexError:
            if self._made >= POOL_SLABS:
                return None
            self._made += 1
            slabs = {name: np.empty(shape, dtype) for name, (shape, dtype) in self._shapes.items()}
        return {name: slabs[name][:rows] for name in wanted}, BatchLease(self, slabs, shares)

    def take_back(self, slabs: dict[str, Array]) -> None:
        """Makes slabs available again; called by their lease."""
        self._free.append(slabs)

    def _bytes(self, name: str, rows: int) -> int:
        shape, dtype = self._shapes[name]
        return prod(shape[1:]) * dtype.itemsize * rows
