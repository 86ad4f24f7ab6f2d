"""What the nodes of a model work on: data of its inputs, or just shapes and whole numbers.

ONNX Runtime keeps on the CPU what computes shapes, and that is no loss. Its operators are those of
any computation, so an `Add` alone says nothing: here each node is looked up in the model's file.
A node works on shapes where all that it reads comes from `Shape`, `Size` and constants, or where it
makes whole numbers or truths, as index arithmetic does. Types follow the file's own declarations
and the operators' rules as far as those are known; what is not known is taken for data.
Source: onnx.proto3 (numbers of fields); ONNX operators, "type constraints".
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from stoker.runtime.protobuf import fields, graphs, read

_NODE, _INITIALIZER, _INPUT = 1, 5, 11
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH = 1, 3, 5, 6
_TENSOR_TYPE, _TENSOR_NAME = 2, 8
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _ELEMENT_TYPE = 1, 2, 1, 1

_INT64, _BOOL, _FLOAT = 7, 9, 1
_WHOLE: Final = frozenset({2, 3, 4, 5, 6, 7, 9, 12, 13})
"""Of TensorProto.DataType: integers and BOOL."""
_UNKNOWN: Final = 0

_MAKES_INDICES: Final = frozenset({"Shape", "Size", "ArgMax", "ArgMin", "NonZero"})
_MAKES_TRUTHS: Final = frozenset(
    {
        "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor",
        "IsNaN", "IsInf",
    }
)  # fmt: skip
_TYPED_BY: Final = {"Where": 1, "OneHot": 2}
"""Which input gives an output its type, where it is not the first."""
_FROM_SHAPES: Final = frozenset({"Shape", "Size"})


class AssignedNode(NamedTuple):
    """A node as ONNX Runtime tells of it."""

    operator: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class NodeData:
    """The nodes of one model, by whether they work on data."""

    by_name: dict[str, bool] = field(default_factory=dict)
    """True: on data. Nodes whose name is given and given once."""
    unnamed: Counter[str] = field(default_factory=Counter)
    """Of the others, those that work on shapes, by operator."""

    def on_data(self, nodes: Iterable[AssignedNode]) -> tuple[str, ...]:
        """The operators of those of these nodes that work on data. A node that the file does not
        have was put in by ONNX Runtime, and works on none. Nodes without a name are only counted:
        so many of an operator as work on shapes are taken to be these."""
        found: list[str] = []
        left = Counter(self.unnamed)
        for node in nodes:
            if node.name:
                if self.by_name.get(node.name, False):
                    found.append(node.operator)
            elif left[node.operator]:
                left[node.operator] -= 1
            else:
                found.append(node.operator)
        return tuple(found)


def node_data(path: Path) -> NodeData | None:
    """The nodes of a model's file, those of sub-graphs included; None where it is not readable."""
    return read(path, _found, None)


class _Value(NamedTuple):
    """What is known of a tensor."""

    datatype: int
    is_shape: bool
    """It comes from shapes and constants alone."""

    @property
    def is_data(self) -> bool:
        return not self.is_shape and self.datatype not in _WHOLE


_DATA: Final = _Value(_UNKNOWN, is_shape=False)


@dataclass(slots=True)
class _Node:
    operator: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    to: int = _UNKNOWN
    """The attribute that says the output's type: of a cast, or of a constant's value."""
    graphs: list[tuple[int, int]] = field(default_factory=list)


def _found(view: memoryview) -> NodeData:
    seen: list[tuple[_Node, bool]] = []
    for graph in graphs(view):
        _walk(view, graph, {}, seen)
    names = Counter(node.name for node, _ in seen)
    data = NodeData()
    for node, is_data in seen:
        if node.name and names[node.name] == 1:
            data.by_name[node.name] = is_data
        elif not is_data:
            data.unnamed[node.operator] += 1
    return data


def _walk(
    view: memoryview,
    graph: tuple[int, int],
    outer: dict[str, _Value],
    seen: list[tuple[_Node, bool]],
) -> None:
    """One graph, whose nodes come in the order in which they run. `outer`: what it may read of the
    graphs around it."""
    known = dict(outer)
    nodes: list[tuple[int, int]] = []
    weights: dict[str, _Value] = {}
    for number, at in fields(view, *graph):
        if not isinstance(at, tuple):
            continue
        if number == _INPUT:
            name, datatype = _declared(view, at)
            known[name] = _Value(datatype, is_shape=False)
        elif number == _INITIALIZER:
            name, datatype = _tensor(view, at)
            weights[name] = _Value(datatype, is_shape=True)
        elif number == _NODE:
            nodes.append(at)
    known |= weights  # an initialiser may be declared as an input as well
    for at in nodes:
        node = _node(view, at)
        made = _made(node, [known.get(name, _DATA) for name in node.inputs if name])
        seen.append((node, made.is_data))
        for place, name in enumerate(node.outputs):
            is_index = node.operator in ("TopK", "Unique", "MaxPool") and place > 0
            known[name] = _Value(_INT64, made.is_shape) if is_index else made
        for inner in node.graphs:
            _walk(view, inner, known, seen)


def _made(node: _Node, given: list[_Value]) -> _Value:
    """What a node makes of what it reads."""
    operator = node.operator
    is_shape = operator in _FROM_SHAPES or (
        not node.graphs and all(each.is_shape for each in given)
    )
    if operator in _MAKES_INDICES:
        return _Value(_INT64, is_shape)
    if operator in _MAKES_TRUTHS:
        return _Value(_BOOL, is_shape)
    if node.to:
        return _Value(node.to, is_shape)
    if operator == "ConstantOfShape":
        return _Value(_FLOAT, is_shape)
    place = _TYPED_BY.get(operator, 0)
    return _Value(given[place].datatype if place < len(given) else _UNKNOWN, is_shape)


def _node(view: memoryview, at: tuple[int, int]) -> _Node:
    node = _Node()
    attributes = []
    for number, value in fields(view, *at):
        if not isinstance(value, tuple):
            continue
        if number == _NODE_INPUT:
            node.inputs.append(_text(view, value))
        elif number == _NODE_OUTPUT:
            node.outputs.append(_text(view, value))
        elif number == _NODE_NAME:
            node.name = _text(view, value)
        elif number == _NODE_OPERATOR:
            node.operator = _text(view, value)
        elif number == _NODE_ATTRIBUTE:
            attributes.append(value)
    for value in attributes:
        name, integer = "", _UNKNOWN
        for number, part in fields(view, *value):
            if number == _ATTRIBUTE_NAME and isinstance(part, tuple):
                name = _text(view, part)
            elif number == _ATTRIBUTE_INT and isinstance(part, int):
                integer = part
            elif number == _ATTRIBUTE_TENSOR and isinstance(part, tuple):
                if node.operator in ("Constant", "ConstantOfShape"):
                    node.to = _tensor(view, part)[1]
            elif number == _ATTRIBUTE_GRAPH and isinstance(part, tuple):
                node.graphs.append(part)
        if name == "to" and node.operator == "Cast":
            node.to = integer
    return node


def _declared(view: memoryview, at: tuple[int, int]) -> tuple[str, int]:
    name, datatype = "", _UNKNOWN
    for number, value in fields(view, *at):
        if number == _VALUE_NAME and isinstance(value, tuple):
            name = _text(view, value)
        elif number == _VALUE_TYPE and isinstance(value, tuple):
            for kind, tensor in fields(view, *value):
                if kind == _TYPE_TENSOR and isinstance(tensor, tuple):
                    for part, element in fields(view, *tensor):
                        if part == _ELEMENT_TYPE and isinstance(element, int):
                            datatype = element
    return name, datatype


def _tensor(view: memoryview, at: tuple[int, int]) -> tuple[str, int]:
    name, datatype = "", _UNKNOWN
    for number, value in fields(view, *at):
        if number == _TENSOR_TYPE and isinstance(value, int):
            datatype = value
        elif number == _TENSOR_NAME and isinstance(value, tuple):
            name = _text(view, value)
    return name, datatype


def _text(view: memoryview, at: tuple[int, int]) -> str:
    return bytes(view[at[0] : at[1]]).decode(errors="replace")
