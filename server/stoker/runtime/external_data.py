"""Which other files an ONNX file names for its weights: in initialisers, attributes and functions.

Read from the file's own bytes without opening it in full; the files themselves are not looked at.
Source: onnx.proto3 (ModelProto.functions = 25, FunctionProto.node = 7; GraphProto.node = 1,
initializer = 5, sparse_initializer = 15; NodeProto.attribute = 5; AttributeProto.t = 5, g = 6,
tensors = 10, graphs = 11, sparse_tensor = 22, sparse_tensors = 23; TensorProto.external_data = 13).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stoker.runtime.protobuf import graphs, parts, read

_MODEL_FUNCTIONS, _FUNCTION_NODES = 25, 7
_GRAPH_NODES, _GRAPH_TENSORS, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTES: Final = 5
_ATTRIBUTE_TENSORS: Final = (5, 10)
_ATTRIBUTE_GRAPHS: Final = (6, 11)
_ATTRIBUTE_SPARSE: Final = (22, 23)
_SPARSE_PARTS: Final = (1, 2)
_TENSOR_EXTERNAL: Final = 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

At = tuple[int, int]


def external_locations(path: Path) -> frozenset[str]:
    """The `location` of every tensor whose data lie outside of the file, as written there. Empty
    where the file is no readable model."""
    return read(path, lambda view: frozenset(_locations(view)), frozenset())


def _locations(view: memoryview) -> Iterator[str]:
    for graph in graphs(view):
        yield from _of_graph(view, graph)
    for function in parts(view, (0, len(view)), (_MODEL_FUNCTIONS,)):
        for node in parts(view, function, (_FUNCTION_NODES,)):
            yield from _of_node(view, node)


def _of_graph(view: memoryview, graph: At) -> Iterator[str]:
    for tensor in parts(view, graph, (_GRAPH_TENSORS,)):
        yield from _of_tensor(view, tensor)
    for sparse in parts(view, graph, (_GRAPH_SPARSE,)):
        yield from _of_sparse(view, sparse)
    for node in parts(view, graph, (_GRAPH_NODES,)):
        yield from _of_node(view, node)


def _of_node(view: memoryview, node: At) -> Iterator[str]:
    for attribute in parts(view, node, (_NODE_ATTRIBUTES,)):
        for tensor in parts(view, attribute, _ATTRIBUTE_TENSORS):
            yield from _of_tensor(view, tensor)
        for sparse in parts(view, attribute, _ATTRIBUTE_SPARSE):
            yield from _of_sparse(view, sparse)
        for graph in parts(view, attribute, _ATTRIBUTE_GRAPHS):
            yield from _of_graph(view, graph)


def _of_sparse(view: memoryview, sparse: At) -> Iterator[str]:
    for tensor in parts(view, sparse, _SPARSE_PARTS):
        yield from _of_tensor(view, tensor)


def _of_tensor(view: memoryview, tensor: At) -> Iterator[str]:
    for entry in parts(view, tensor, (_TENSOR_EXTERNAL,)):
        key = next(parts(view, entry, (_ENTRY_KEY,)), (0, 0))
        if _text(view, key) == "location":
            yield _text(view, next(parts(view, entry, (_ENTRY_VALUE,)), (0, 0)))


def _text(view: memoryview, at: At) -> str:
    return view[slice(*at)].tobytes().decode(errors="replace")
