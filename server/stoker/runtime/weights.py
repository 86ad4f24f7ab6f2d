"""What the constant tensors of a model take: the sum over its file, without opening it in full.

A tensor counts as its shape and datatype say, texts as their bytes; external files are not opened.
Source: onnx.proto3 (GraphProto.initializer = 5, sparse_initializer = 15; NodeProto.attribute = 5;
AttributeProto.t = 5, g = 6, tensors = 10, graphs = 11, sparse_tensor = 22, sparse_tensors = 23).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.runtime.protobuf import Malformed, fields, graphs, read, varint

_GRAPH_NODE_FIELD: Final = 1
_GRAPH_WEIGHTS: Final = 5
_GRAPH_SPARSE_WEIGHTS: Final = 15
_NODE_ATTRIBUTES: Final = 5
_ATTRIBUTE_TENSORS: Final = (5, 10)
_ATTRIBUTE_SUBGRAPHS: Final = (6, 11)
_ATTRIBUTE_SPARSE: Final = (22, 23)
_SPARSE_PARTS: Final = (1, 2)
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_STRINGS, _TENSOR_EXTERNAL_DATA = 1, 2, 6, 13
_STRING: Final = 8
_BITS: Final = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64,
    14: 64, 15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
"""Of one element, by TensorProto.DataType."""
_DEEPEST: Final = 32
"""Graphs within graphs: more is no model that somebody made."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of all constant tensors of a model, in the memory of whoever runs it."""

    embedded: int = 0
    """Of those in the model's own file."""
    external: int = 0
    """Of those in files beside it."""

    @property
    def total(self) -> int:
        """Both."""
        return self.embedded + self.external


def weights(path: Path) -> Weights:
    """What the constants of a model take; nothing where the file is no readable model."""
    return read(path, _sum, Weights())


def _sum(view: memoryview) -> Weights:
    embedded = external = 0
    for graph in graphs(view):
        for nbytes, is_external in _weights(view, *graph, 0):
            embedded += 0 if is_external else nbytes
            external += nbytes if is_external else 0
    return Weights(embedded, external)


def _weights(view: memoryview, start: int, end: int, depth: int) -> Iterator[tuple[int, bool]]:
    """Bytes of each constant tensor of a graph, and whether they lie in another file."""
    if depth > _DEEPEST:
        raise Malformed
    for number, value in fields(view, start, end):
        if not isinstance(value, tuple):
            continue
        if number == _GRAPH_WEIGHTS:
            yield _tensor_bytes(view, *value)
        elif number == _GRAPH_SPARSE_WEIGHTS:
            yield from _sparse_bytes(view, *value)
        elif number == _GRAPH_NODE_FIELD:
            for part, at in fields(view, *value):
                if part == _NODE_ATTRIBUTES and isinstance(at, tuple):
                    yield from _attribute_bytes(view, *at, depth)


def _attribute_bytes(
    view: memoryview, start: int, end: int, depth: int
) -> Iterator[tuple[int, bool]]:
    for number, value in fields(view, start, end):
        if not isinstance(value, tuple):
            continue
        if number in _ATTRIBUTE_TENSORS:
            yield _tensor_bytes(view, *value)
        elif number in _ATTRIBUTE_SPARSE:
            yield from _sparse_bytes(view, *value)
        elif number in _ATTRIBUTE_SUBGRAPHS:
            yield from _weights(view, *value, depth + 1)


def _sparse_bytes(view: memoryview, start: int, end: int) -> Iterator[tuple[int, bool]]:
    for number, value in fields(view, start, end):
        if number in _SPARSE_PARTS and isinstance(value, tuple):
            yield _tensor_bytes(view, *value)


def _tensor_bytes(view: memoryview, start: int, end: int) -> tuple[int, bool]:
    elements, kind, text, is_external = 1, 0, 0, False
    for number, value in fields(view, start, end):
        if number == _TENSOR_DIMS and isinstance(value, int):
            elements *= value
        elif number == _TENSOR_DIMS and isinstance(value, tuple):  # packed
            at, last = value
            while at < last:
                size, at = varint(view, at, last)
                elements *= size
        elif number == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == _TENSOR_STRINGS and isinstance(value, tuple):
            text += value[1] - value[0]
        elif number == _TENSOR_EXTERNAL_DATA:
            is_external = True
    if kind == _STRING:
        return text, False
    return -(-elements * _BITS.get(kind, 0) // 8), is_external
