"""One input or output of a session, put together from two sources.

ONNX Runtime knows names, types and most shapes; where it says `[]` the ONNX file itself tells
whether that is a scalar, a tensor without declared rank, or a declared shape that disagrees with
what the runtime inferred (then the declaration stands). Used by `onnx.py` when a session is opened.
"""

from collections.abc import Mapping
from typing import Any

from stoker.errors import InvalidRequest
from stoker.runtime.graph_scan import Declaration
from stoker.tensor import BY_ONNX, DataType, TensorSpec


class Described:
    """The spec of one input or output: ONNX Runtime's word, and the file's where that is silent."""

    def __init__(
        self,
        node: Any,
        declared: Mapping[str, Declaration],
        model: str,
        role: str,
        *,
        optional: bool = False,
    ) -> None:
        datatype = BY_ONNX.get(node.type)
        if datatype is None:
            hint = "; export it without ZipMap" if "map(" in node.type else ""
            raise InvalidRequest(
                f"model '{model}': {role} '{node.name}' has the type {node.type}, expected a "
                f"tensor of one of {', '.join(each.wire for each in DataType)}{hint}"
            )
        shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
        symbols = tuple(size if isinstance(size, str) else None for size in node.shape)
        self.is_unranked = False
        if not shape:
            written = declared.get(node.name, Declaration(None))
            self.is_unranked = written.shape is None
            if written.shape:
                shape, symbols = written.shape, written.symbols
        self.symbols = symbols
        self.spec = TensorSpec(node.name, datatype, shape, optional)
