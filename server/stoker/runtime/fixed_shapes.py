"""Which models have fixed bindings, and what those look like: decided once, from the configuration.

`fixed.py` makes and runs the bindings. A model that is refused here is run at level 0, by
`Session.run`, which takes everything. Pure.
"""

from dataclasses import dataclass
from math import prod
from typing import Final

from stoker.model import ModelConfig, TensorConfig
from stoker.runtime.bucket_dimension import DimensionBuckets
from stoker.runtime.session import Session
from stoker.tensor import DataType

ROOM_BYTES: Final = 1 << 26
"""Input slabs of one instance have room for batches up to 64 MiB: beside what larger ones take,
nothing that is saved here shows."""


@dataclass(frozen=True, slots=True)
class FixedTensor:
    """An input or output whose rows all have the same shape."""

    name: str
    datatype: DataType
    item: tuple[int, ...] | None
    """Shape of one row, without the batch dimension; None: known after a run only."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; 0 where that is not known."""
        return 0 if self.item is None else prod(self.item) * self.datatype.size


@dataclass(frozen=True, slots=True)
class FixedShapes:
    """What the bindings of one model look like."""

    inputs: tuple[FixedTensor, ...]
    outputs: tuple[FixedTensor, ...]
    batches: bool
    """Shapes are [rows, *item]; otherwise just the item, and a run has one row."""
    max_rows: int

    def shape(self, tensor: FixedTensor, rows: int) -> tuple[int, ...]:
        """The whole shape of a tensor in a run of so many rows."""
        item = tensor.item or ()
        return (rows, *item) if self.batches else item


def fixed_shapes(
    config: ModelConfig,
    session: Session,
    max_rows: int,
    dimension: DimensionBuckets | None = None,
    edge: int = 0,
) -> FixedShapes | str:
    """The shapes of a model's bindings, or the reason why it has none. Pure.

    `max_rows`: of the largest batch; the result's may be less, larger batches are for level 0.
    With `dimension`: the shapes where that has the size `edge`.
    """
    memory = session.memory
    if memory is None:
        return "its tensors cannot be bound (BYTES, or an output that is an input itself)"
    inputs, outputs = [], []
    for each in config.inputs:
        item = _item(config, session, each, dimension, edge)
        if item is None:
            return f"input '{each.name}' has no fixed shape"
        inputs.append(FixedTensor(each.name, each.datatype, item))
    for each in config.outputs:
        item = _item(config, session, each, dimension, edge)
        if item is None and memory.is_host:
            return f"output '{each.name}' has no fixed shape"
        outputs.append(FixedTensor(each.name, each.datatype, item))
    if not inputs or any(
        tensor.item is not None and 0 in tensor.item for tensor in inputs + outputs
    ):
        return "it has no input, or tensors without elements"
    row_bytes = sum([tensor.row_bytes for tensor in inputs])
    if not memory.is_host:
        row_bytes = max(row_bytes, sum([tensor.row_bytes for tensor in outputs]))
    room = min(max_rows, ROOM_BYTES // row_bytes) if config.batches else 1
    if room < 1 or (not config.batches and row_bytes > ROOM_BYTES):
        return f"a row of {row_bytes} bytes is larger than the room for batches, {ROOM_BYTES}"
    return FixedShapes(tuple(inputs), tuple(outputs), config.batches, room)


def _item(
    config: ModelConfig,
    session: Session,
    tensor: TensorConfig,
    dimension: DimensionBuckets | None,
    edge: int,
) -> tuple[int, ...] | None:
    """The shape of one row; None where it is not the same for all."""
    item = config.model_spec(tensor).shape[config.batches :]
    if dimension is not None:
        item = dimension.resized(tensor.name, item, edge)
    return None if -1 in item or tensor.name in session.unranked else item
