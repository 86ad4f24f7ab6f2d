"""Counts the copies between CPU and GPU that ONNX Runtime puts into a graph.

They are in no answer of ONNX Runtime: the assignment information is made before they are inserted,
and the warning about them goes to its log. But the graph that it writes, if asked to, has them, so
a session of a GPU is opened with that file asked for; it is read here and thrown away.
Source: ONNX Runtime's MemcpyTransformer, operators MemcpyToHost and MemcpyFromHost.
"""

from pathlib import Path
from typing import Final

from stoker.runtime import graph_scan

OPERATORS: Final = frozenset({"MemcpyToHost", "MemcpyFromHost"})

LARGEST_BYTES: Final = 256 << 20
"""Of a larger model they are not counted: the file holds the weights, 1 ms of writing a MB, and
the temporary folder may be the pod's memory."""


def may_count(path: Path) -> bool:
    """Whether the model is small enough; weights in other files would be written too."""
    return path.stat().st_size <= LARGEST_BYTES and not graph_scan.has_external_data(path)


def count(written: Path) -> int | None:
    """The copies in a graph that ONNX Runtime has written; None where there is none."""
    return graph_scan.count_operators(written, OPERATORS) if written.is_file() else None
