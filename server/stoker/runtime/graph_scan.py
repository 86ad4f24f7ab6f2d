"""What an ONNX file declares of its inputs and outputs, read from the file's own bytes.

ONNX Runtime shows the shape `[]` for a scalar, for a tensor whose rank is not declared, and where
declaration and inference disagree; batching must tell them apart. This reads just the value types
of graph inputs and outputs from the protobuf wire format, stepping over weights, so a file of
gigabytes costs as little as a small one; likewise the operators of its nodes and whether weights
lie in other files. Never raises: ONNX Runtime reports what is malformed.
Source: onnx.proto3, the numbers of its fields.
"""

import mmap
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_MODEL_GRAPH: Final = 7
_GRAPH_TENSORS: Final = (11, 12)
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR: Final = 1
_TENSOR_SHAPE: Final = 2
_SHAPE_DIM: Final = 1
_DIM_VALUE, _DIM_PARAM = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_OPERATOR, _NODE_ATTRIBUTE = 4, 5
_ATTRIBUTE_GRAPHS: Final = (6, 11)
_TENSOR_EXTERNAL: Final = 13


@dataclass(frozen=True, slots=True)
class Declaration:
    """One graph input or output as the file declares it."""

    shape: tuple[int, ...] | None
    """None: no rank. -1: a symbol or nothing."""
    symbols: tuple[str | None, ...] = ()


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


class _Malformed(Exception):
    """The bytes are not a protobuf message."""


def scan(path: Path) -> Mapping[str, Declaration]:
    """Declarations by tensor name; empty where the file is no readable model."""
    return _read(path, lambda view: dict(_declarations(view, 0, len(view))), {})


def count_operators(path: Path, operators: Collection[str]) -> int:
    """How many nodes have one of these operators, those of sub-graphs included."""
    wanted = {name.encode() for name in operators}
    return _read(path, lambda view: sum(_count(view, graph, wanted) for graph in _graphs(view)), 0)


def has_external_data(path: Path) -> bool:
    """Whether weights of the main graph lie in files beside the model."""
    return _read(
        path, lambda view: any(_is_external(view, graph) for graph in _graphs(view)), False
    )


def _read(path: Path, read: Callable[[memoryview], T], otherwise: T) -> T:
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            memoryview(data) as view,
        ):
            return read(view)
    except (OSError, ValueError, _Malformed):
        return otherwise


def _graphs(view: memoryview) -> Iterator[tuple[int, int]]:
    return _parts(view, (0, len(view)), (_MODEL_GRAPH,))


def _parts(
    view: memoryview, at: tuple[int, int], numbers: tuple[int, ...]
) -> Iterator[tuple[int, int]]:
    """Where the parts of a message lie that have one of these field numbers."""
    for number, value in _fields(view, *at):
        if number in numbers and isinstance(value, tuple):
            yield value


def _count(view: memoryview, graph: tuple[int, int], wanted: set[bytes]) -> int:
    found = 0
    for node in _parts(view, graph, (_GRAPH_NODE,)):
        operators = [view[slice(*at)].tobytes() for at in _parts(view, node, (_NODE_OPERATOR,))]
        found += sum(operator in wanted for operator in operators)
        for attribute in _parts(view, node, (_NODE_ATTRIBUTE,)):
            inner = _parts(view, attribute, _ATTRIBUTE_GRAPHS)
            found += sum(_count(view, each, wanted) for each in inner)
    return found


def _is_external(view: memoryview, graph: tuple[int, int]) -> bool:
    return any(
        True
        for tensor in _parts(view, graph, (_GRAPH_INITIALIZER,))
        for _ in _parts(view, tensor, (_TENSOR_EXTERNAL,))
    )


def _declarations(view: memoryview, start: int, end: int) -> Iterator[tuple[str, Declaration]]:
    for number, value in _fields(view, start, end):
        if number != _MODEL_GRAPH or not isinstance(value, tuple):
            continue
        for part, at in _fields(view, *value):
            if part in _GRAPH_TENSORS and isinstance(at, tuple):
                yield _value_info(view, *at)


def _value_info(view: memoryview, start: int, end: int) -> tuple[str, Declaration]:
    name, declared = "", Declaration(None)
    for number, value in _fields(view, start, end):
        if not isinstance(value, tuple):
            continue
        if number == _VALUE_NAME:
            name = _text(view, value)
        elif number == _VALUE_TYPE:
            for part, at in _fields(view, *value):
                if part == _TYPE_TENSOR and isinstance(at, tuple):
                    declared = _tensor(view, *at)
    return name, declared


def _tensor(view: memoryview, start: int, end: int) -> Declaration:
    for number, value in _fields(view, start, end):
        if number == _TENSOR_SHAPE and isinstance(value, tuple):
            dims = [
                _dimension(view, *at)
                for part, at in _fields(view, *value)
                if part == _SHAPE_DIM and isinstance(at, tuple)
            ]
            return Declaration(tuple(size for size, _ in dims), tuple(name for _, name in dims))
    return Declaration(None)


def _dimension(view: memoryview, start: int, end: int) -> tuple[int, str | None]:
    for number, value in _fields(view, start, end):
        if number == _DIM_VALUE and isinstance(value, int):
            return (value if value < 1 << 63 else -1), None
        if number == _DIM_PARAM and isinstance(value, tuple):
            return -1, _text(view, value) or None
    return -1, None


def _text(view: memoryview, at: tuple[int, int]) -> str:
    return bytes(view[at[0] : at[1]]).decode(errors="replace")


def _fields(
    view: memoryview, start: int, end: int
) -> Iterator[tuple[int, int | tuple[int, int] | None]]:
    """Field numbers with their value: an integer, or start and end of the bytes of a message."""
    at = start
    while at < end:
        key, at = _varint(view, at, end)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(view, at, end)
            yield number, value
        elif kind == _BYTES:
            length, at = _varint(view, at, end)
            if at + length > end:
                raise _Malformed
            yield number, (at, at + length)
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
            yield number, None
        else:
            raise _Malformed


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _Malformed
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Malformed


# --- weights --------------------------------------------------------------------------------------

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


def weights(path: Path) -> Weights:
    """What the initialisers and constants of a model take, read without opening external files.

    A tensor counts as its shape and datatype say, texts as their bytes. Nothing where the file is
    no readable model.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            memoryview(data) as view,
        ):
            embedded = external = 0
            for number, value in _fields(view, 0, len(view)):
                if number == _MODEL_GRAPH and isinstance(value, tuple):
                    for nbytes, is_external in _weights(view, *value, 0):
                        embedded += 0 if is_external else nbytes
                        external += nbytes if is_external else 0
            return Weights(embedded, external)
    except (OSError, ValueError, _Malformed):
        return Weights()


def _weights(view: memoryview, start: int, end: int, depth: int) -> Iterator[tuple[int, bool]]:
    """Bytes of each constant tensor of a graph, and whether they lie in another file."""
    if depth > _DEEPEST:
        raise _Malformed
    for number, value in _fields(view, start, end):
        if not isinstance(value, tuple):
            continue
        if number == _GRAPH_WEIGHTS:
            yield _tensor_bytes(view, *value)
        elif number == _GRAPH_SPARSE_WEIGHTS:
            yield from _sparse_bytes(view, *value)
        elif number == _GRAPH_NODE_FIELD:
            for part, at in _fields(view, *value):
                if part == _NODE_ATTRIBUTES and isinstance(at, tuple):
                    yield from _attribute_bytes(view, *at, depth)


def _attribute_bytes(
    view: memoryview, start: int, end: int, depth: int
) -> Iterator[tuple[int, bool]]:
    for number, value in _fields(view, start, end):
        if not isinstance(value, tuple):
            continue
        if number in _ATTRIBUTE_TENSORS:
            yield _tensor_bytes(view, *value)
        elif number in _ATTRIBUTE_SPARSE:
            yield from _sparse_bytes(view, *value)
        elif number in _ATTRIBUTE_SUBGRAPHS:
            yield from _weights(view, *value, depth + 1)


def _sparse_bytes(view: memoryview, start: int, end: int) -> Iterator[tuple[int, bool]]:
    for number, value in _fields(view, start, end):
        if number in _SPARSE_PARTS and isinstance(value, tuple):
            yield _tensor_bytes(view, *value)


def _tensor_bytes(view: memoryview, start: int, end: int) -> tuple[int, bool]:
    elements, kind, text, is_external = 1, 0, 0, False
    for number, value in _fields(view, start, end):
        if number == _TENSOR_DIMS and isinstance(value, int):
            elements *= value
        elif number == _TENSOR_DIMS and isinstance(value, tuple):  # packed
            at, last = value
            while at < last:
                size, at = _varint(view, at, last)
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
