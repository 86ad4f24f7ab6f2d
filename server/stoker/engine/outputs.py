"""Buffers that a run writes its outputs into, and the leases that say when they may be reused.

Large outputs of fixed shape go into pooled slabs: nothing is allocated per batch, and ONNX Runtime
writes into them directly. A model may make another shape than it declares, so an output gets slabs
only after a run made it as declared. A slab is lent for one batch; every answer of that batch holds
a share in the lease, and the transport gives the share back when the answer's bytes have left the
process. When all slabs of the pool are lent, a batch gets fresh arrays instead: a reader that
stalls costs memory up to the pool's bound and never anybody's answer.
"""

from collections import deque
from collections.abc import Callable, Sequence
from math import prod
from typing import Final, NamedTuple

import numpy as np

from stoker.engine.plan import PlannedOutput
from stoker.tensor import Array, DataType

SLAB_BYTES: Final = 1 << 16
"""Outputs below 64 KiB a batch are fresh arrays: binding them costs more than it saves."""

SET_BYTES: Final = 32 << 20
"""Slabs of one batch have room for so much at most: fewer rows than the largest batch, if need be.
Larger batches get fresh arrays, which cost little beside the run that fills them."""

POOL_SLABS: Final = 4
"""Slabs an instance may have lent at once: one being written, one being encoded, two unsent."""


class BatchLease:
    """The shares of one batch's answers in one set of slabs. Used by one thread at a time."""

    __slots__ = ("_pool", "_shares", "_slabs", "number")

    def __init__(self, pool: "OutputPool", slabs: "Slabs", shares: int) -> None:
        self._pool = pool
        self._slabs = slabs
        self._shares = shares
        self.number = slabs.number
        """Of the set: 1 and up."""

    def release(self) -> None:
        """Gives one share back; the last one frees the slabs."""
        self._shares -= 1
        if self._shares == 0:
            self._pool.take_back(self._slabs)

    def release_all(self) -> None:
        """Gives all shares back: the batch has no answers."""
        self._shares = 0
        self._pool.take_back(self._slabs)


class Slabs(NamedTuple):
    """A set: one slab an output, [max_rows, *item] each."""

    number: int
    arrays: dict[str, Array]


def fresh_bytes(nbytes: int) -> Array:
    """Host memory of no particular kind, UINT8 [nbytes]."""
    return np.empty(nbytes, np.uint8)


class OutputPool:
    """The slabs of one instance, made when first needed, at most `POOL_SLABS` sets."""

    def __init__(
        self,
        outputs: Sequence[PlannedOutput],
        *,
        batches: bool,
        max_rows: int,
        allocate: Callable[[int], Array] = fresh_bytes,
    ) -> None:
        """`allocate` gives memory for slabs, UINT8 of so many bytes; without a batch dimension a
        slab is [1, *item]."""
        self._allocate = allocate
        if not batches:
            max_rows = 1
        self._items: dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]] = {}
        for output in outputs:
            if -1 in output.model_dims or output.datatype is DataType.BYTES:
                continue
            row_bytes = prod(output.model_dims) * output.datatype.size
            if row_bytes * max_rows >= SLAB_BYTES:
                self._items[output.name] = (output.model_dims, output.datatype.numpy)
        row_bytes = sum([prod(item) * dtype.itemsize for item, dtype in self._items.values()])
        self._max_rows = min(max_rows, SET_BYTES // row_bytes) if row_bytes else 0
        self._unseen = set(self._items)
        """Outputs that no run has made yet."""
        self._lead = int(batches)
        self._free: deque[Slabs] = deque()
        self._made = 0

    @property
    def is_empty(self) -> bool:
        """Whether no output of this model is worth a slab."""
        return not self._items

    def observe(self, names: Sequence[str], made: Sequence[Array]) -> None:
        """Looks at outputs that a run made: one that is not as declared gets no slab, ever."""
        if self._unseen:
            for name, array in zip(names, made, strict=True):
                if name in self._unseen:
                    self._unseen.discard(name)
                    item, dtype = self._items[name]
                    if array.shape[self._lead :] != item or array.dtype != dtype:
                        del self._items[name]

    def close(self) -> None:
        """Lends nothing any more: the model does not always make what it declares."""
        self._items.clear()
        self._unseen.clear()

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
            name
            for name in names
            if name in self._items
            and name not in self._unseen
            and self._bytes(name, rows) >= SLAB_BYTES
        ]
        if not wanted:
            return None
        try:
            slabs = self._free.popleft()
        except IndexError:
            if self._made >= POOL_SLABS:
                return None
            self._made += 1
            slabs = Slabs(
                self._made,
                {name: self._slab(item, dtype) for name, (item, dtype) in self._items.items()},
            )
        lease = BatchLease(self, slabs, shares)
        if not self._lead:
            return {name: slabs.arrays[name][0, ...] for name in wanted}, lease
        return {name: slabs.arrays[name][:rows] for name in wanted}, lease

    def _slab(self, item: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        raw = self._allocate(self._max_rows * prod(item) * dtype.itemsize)
        return raw.view(dtype).reshape((self._max_rows, *item))

    def take_back(self, slabs: Slabs) -> None:
        """Makes slabs available again; called by their lease."""
        self._free.append(slabs)

    def _bytes(self, name: str, rows: int) -> int:
        item, dtype = self._items[name]
        return prod(item) * dtype.itemsize * rows
