"""Buckets of one variable dimension: requests of different lengths in one batch, in few shapes.

The parameter `bucket_dimension` = `input_ids:1=64,128,256` names a dimension of an input, counted
with the batch dimension, and its edges. The dimension's symbol in the ONNX file says which other
inputs and outputs have the same size: inputs are filled up to the next edge with zeros, outputs are
cut back. That zeros mean nothing there is the model's promise (a mask that is padded as well). A
request that is longer than the last edge is run as it is. Pure.
Source: issue 4, "Buckets and CUDA graphs".
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stoker.errors import InvalidRequest
from stoker.model import ModelConfig
from stoker.runtime.session import Session
from stoker.tensor import DataType

PARAMETER: Final = "bucket_dimension"

MOST_EDGES: Final = 8
"""Each has buffers, and bindings for every batch size, of its own."""


@dataclass(frozen=True, slots=True)
class DimensionBuckets:
    """The edges, and where the dimension is. Places count without the batch dimension."""

    symbol: str
    edges: tuple[int, ...]
    """Ascending."""
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]

    def edge(self, size: int) -> int:
        """What a size is filled up to; the size itself beyond the last edge, and for 0."""
        if size == 0 or size > self.edges[-1]:
            return size
        return self.edges[bisect_left(self.edges, size)]

    def resized(self, name: str, item: tuple[int, ...], size: int) -> tuple[int, ...]:
        """A tensor's item shape with the dimension at `size`; as it is for other tensors."""
        places = self.inputs.get(name) or self.outputs.get(name) or ()
        return tuple(size if at in places else each for at, each in enumerate(item))


def dimension_buckets(config: ModelConfig, session: Session) -> DimensionBuckets | None:
    """The buckets that a model's file asks for; None where it does not.

    Raises InvalidRequest where the text or the dimension cannot be understood.
    """
    written = config.parameters.get(PARAMETER, "").strip()
    if not written:
        return None
    title = f"model '{config.name}': parameter '{PARAMETER}'"
    name, at, edges = _parsed(title, written)
    symbols = session.dimension_names.get(name)
    if symbols is None or name not in {each.name for each in config.inputs}:
        raise InvalidRequest(f"{title}: the model has no input '{name}'")
    if at >= len(symbols) or (config.batches and at == 0):
        raise InvalidRequest(
            f"{title}: expected a dimension of '{name}' out of {int(config.batches)}.."
            f"{len(symbols) - 1}, got {at}"
        )
    symbol = symbols[at]
    if symbol is None:
        raise InvalidRequest(
            f"{title}: dimension {at} of '{name}' has no symbol in the model, so that nobody knows "
            "which other tensors have the same size"
        )
    inputs = _places(config, session, [each.name for each in config.inputs], symbol)
    outputs = _places(config, session, [each.name for each in config.outputs], symbol)
    for each in (*config.inputs, *config.outputs):
        if each.name in inputs or each.name in outputs:
            if each.reshape is not None:
                raise InvalidRequest(f"{title}: '{each.name}' has a reshape as well")
            if each.datatype is DataType.BYTES and each.name in inputs:
                raise InvalidRequest(f"{title}: '{each.name}' is BYTES, which zeros do not fill up")
    return DimensionBuckets(symbol, edges, inputs, outputs)


def _places(
    config: ModelConfig, session: Session, names: list[str], symbol: str
) -> dict[str, tuple[int, ...]]:
    found = {}
    for name in names:
        symbols = session.dimension_names.get(name, ())[config.batches :]
        places = tuple(at for at, each in enumerate(symbols) if each == symbol)
        if places:
            found[name] = places
    return found


def _parsed(title: str, written: str) -> tuple[str, int, tuple[int, ...]]:
    place, _, listed = written.partition("=")
    name, _, at = place.rpartition(":")
    edges = [each.strip() for each in listed.split(",")]
    numbers = [at.strip(), *edges]
    if not name or not all(each.isascii() and each.isdigit() for each in numbers):
        raise InvalidRequest(
            f"{title}: expected an input, its dimension and sizes such as "
            f"'input_ids:1=64,128,256', got '{written}'"
        )
    sizes = sorted({int(each) for each in edges})
    if sizes[0] < 1 or len(sizes) > MOST_EDGES:
        raise InvalidRequest(
            f"{title}: expected 1 to {MOST_EDGES} sizes of at least 1, got '{listed}'"
        )
    return name.strip(), int(at), tuple(sizes)
