"""What an ONNX file declares of its inputs and outputs, read from the file's own bytes.

ONNX Runtime shows the shape `[]` for a scalar, for a tensor whose rank is not declared, and where
declaration and inference disagree; batching must tell them apart. This reads just the value types
of graph inputs and outputs from the protobuf wire format, stepping over weights, so a file of
gigabytes costs as little as a small one; likewise the operators of its nodes and whether weights
lie in other files. Never raises: ONNX Runtime reports what is malformed.
Source: onnx.proto3, the numbers of its fields.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.runtime.protobuf import fields, graphs, parts, read

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


def scan(path: Path) -> Mapping[str, Declaration]:
    """Declarations by tensor name; empty where the file is no readable model."""
    return read(path, lambda view: dict(_declarations(view)), {})


def count_operators(path: Path, operators: Collection[str]) -> int:
    """How many nodes have one of these operators, those of sub-graphs included."""
    wanted = {name.encode() for name in operators}
    return read(path, lambda view: sum(_count(view, graph, wanted) for graph in graphs(view)), 0)


def has_external_data(path: Path) -> bool:
    """Whether weights of the main graph lie in files beside the model."""
    return read(path, lambda view: any(_is_external(view, graph) for graph in graphs(view)), False)


def _count(view: memoryview, graph: tuple[int, int], wanted: set[bytes]) -> int:
    found = 0
    for node in parts(view, graph, (_GRAPH_NODE,)):
        operators = [view[slice(*at)].tobytes() for at in parts(view, node, (_NODE_OPERATOR,))]
        found += sum(operator in wanted for operator in operators)
        for attribute in parts(view, node, (_NODE_ATTRIBUTE,)):
            inner = parts(view, attribute, _ATTRIBUTE_GRAPHS)
            found += sum(_count(view, each, wanted) for each in inner)
    return found


def _is_external(view: memoryview, graph: tuple[int, int]) -> bool:
    return any(
        True
        for tensor in parts(view, graph, (_GRAPH_INITIALIZER,))
        for _ in parts(view, tensor, (_TENSOR_EXTERNAL,))
    )


def _declarations(view: memoryview) -> Iterator[tuple[str, Declaration]]:
    for graph in graphs(view):
        for at in parts(view, graph, _GRAPH_TENSORS):
            yield _value_info(view, *at)


def _value_info(view: memoryview, start: int, end: int) -> tuple[str, Declaration]:
    name, declared = "", Declaration(None)
    for number, value in fields(view, start, end):
        if not isinstance(value, tuple):
            continue
        if number == _VALUE_NAME:
            name = _text(view, value)
        elif number == _VALUE_TYPE:
            for part, at in fields(view, *value):
                if part == _TYPE_TENSOR and isinstance(at, tuple):
                    declared = _tensor(view, *at)
    return name, declared


def _tensor(view: memoryview, start: int, end: int) -> Declaration:
    for number, value in fields(view, start, end):
        if number == _TENSOR_SHAPE and isinstance(value, tuple):
            dims = [
                _dimension(view, *at)
                for part, at in fields(view, *value)
                if part == _SHAPE_DIM and isinstance(at, tuple)
            ]
            return Declaration(tuple(size for size, _ in dims), tuple(name for _, name in dims))
    return Declaration(None)


def _dimension(view: memoryview, start: int, end: int) -> tuple[int, str | None]:
    for number, value in fields(view, start, end):
        if number == _DIM_VALUE and isinstance(value, int):
            return (value if value < 1 << 63 else -1), None
        if number == _DIM_PARAM and isinstance(value, tuple):
            return -1, _text(view, value) or None
    return -1, None


def _text(view: memoryview, at: tuple[int, int]) -> str:
    return bytes(view[at[0] : at[1]]).decode(errors="replace")
