"""ModelInferRequest messages of known kinds, read without protobuf.  Hot path.

A client sends the same bytes again and again, but for the tensors' data and perhaps an id. So a
message is taken apart by its fields (`scan`), the raw data is left where it is as views, and what
remains, the same bytes each time, is looked up: protobuf parses it the first time only. And of each
model the last message's layout is remembered, so that one that is laid out alike is not even
scanned: its beginning is compared, and the data is where it was.

benchmarks/results/0006-grpc.md has what each takes. Only kinds whose data is raw, of fixed size and
needs no decoding are known; `codec.decode_request` reads all others.
Source: protobuf's wire format; Open Inference Protocol v2 over gRPC, ModelInferRequest.
"""

from typing import Final

from stoker.request import InferRequest, RequestKind
from stoker.tensor import DataType, Raw, element_count
from stoker.transport.grpc.call import MessageBytes

_MODEL_NAME: Final = 0x0A
_ID: Final = 0x1A
_RAW: Final = 0x3A
"""Tags: field number * 8 + 2, a length follows."""

_REMEMBERED: Final = 1024
"""Kinds, and layouts. At the limit all are forgotten."""

_REMEMBERED_BYTES: Final = 4096
"""A message whose bytes besides data and id are more is rare, and so is one with more bytes before
its data: an id may be of any length."""

_MOST_FIELDS: Final = 1024
"""A message with more fields is rare, and each takes 0.25 us: 1 MiB of empty ones 130 ms."""

_UNREAD: Final = frozenset((DataType.BYTES, DataType.BOOL))
"""Datatypes whose raw form must be decoded."""


class _Layout:
    """Where everything is in messages like one that came."""

    __slots__ = ("begins", "head", "kind", "size")

    def __init__(self, head: bytes, size: int, begins: int, kind: RequestKind) -> None:
        self.head = head
        """All bytes before the data of the only input."""
        self.size = size
        self.begins = begins
        self.kind = kind


class _Known:
    """A kind, and how many bytes the data of each input has."""

    __slots__ = ("kind", "sizes")

    def __init__(self, kind: RequestKind, sizes: tuple[int, ...]) -> None:
        self.kind = kind
        self.sizes = sizes


class KnownRequests:
    """What came before. One object serves all connections; used on the loop only."""

    def __init__(self) -> None:
        self._layouts: dict[bytes, _Layout] = {}
        """By the field model_name with its tag and length."""
        self._last: _Layout | None = None
        self._kinds: dict[bytes, _Known] = {}
        """By all of a message but data and id."""

    def read(self, message: MessageBytes, deadline: float, is_retry: bool) -> InferRequest | None:
        """The request, its data views of the message (of small ones copies); None for one that
        protobuf must read."""
        size = len(message)
        layout = self._last
        if layout is None or layout.size != size or message[: layout.begins] != layout.head:
            layout = None
            if size > 2 and message[0] == _MODEL_NAME and message[1] < 0x80:
                layout = self._layouts.get(bytes(message[: 2 + message[1]]))
                if layout is not None and (
                    layout.size != size or message[: layout.begins] != layout.head
                ):
                    layout = None
        if layout is not None:
            self._last = layout
            return InferRequest(layout.kind, (message[layout.begins :],), "", deadline, is_retry)
        found = scan(message)
        if found is None:
            return None
        rest, data, id, _ = found
        known = self._kinds.get(rest)
        if known is None or len(known.sizes) != len(data):
            return None
        for piece, expected in zip(data, known.sizes, strict=True):
            if len(piece) != expected:
                return None
        return InferRequest(known.kind, data, id, deadline, is_retry)

    def remember(self, message: MessageBytes, request: InferRequest) -> None:
        """Protobuf has read this message: the next one like it is known."""
        kind = request.kind
        if request.parameters or any(
            head.datatype in _UNREAD or type(data) not in (bytes, memoryview)
            for head, data in zip(kind.inputs, request.data, strict=True)
        ):
            return
        found = scan(message)
        if found is None:
            return
        rest, data, id, begins = found
        sizes = tuple(
            [element_count(each.shape, tensor=each.name) * each.datatype.size
             for each in kind.inputs]
        )  # fmt: skip
        if len(rest) > _REMEMBERED_BYTES or sizes != tuple(map(len, data)):
            return
        if len(self._kinds) >= _REMEMBERED:
            self._kinds.clear()
            self._layouts.clear()
        self._kinds[rest] = _Known(kind, sizes)
        if not id and len(data) == 1 and data[0] and 0 < begins <= _REMEMBERED_BYTES:
            head = bytes(message[:begins])
            self._layouts[head[: 2 + head[1]]] = _Layout(head, len(message), begins, kind)


def scan(message: MessageBytes) -> tuple[bytes, tuple[Raw, ...], str, int] | None:
    """A message's bytes without data and id, the data of raw_input_contents, the id, and where the
    last data begins if the message ends with it, else -1. None for anything but a plain row of
    not too many fields that begins with a short model_name."""
    size = len(message)
    if size < 2 or message[0] != _MODEL_NAME or message[1] >= 0x80:
        return None
    kept: list[bytes] = []
    data: list[Raw] = []
    id = ""
    at = begun = 0
    for _ in range(_MOST_FIELDS):
        tag = message[at]
        if tag & 7 != 2 or tag >= 0x80:
            return None  # no field of the protocol
        start = at + 1
        length = shift = 0
        while True:
            if start >= size or shift > 28:
                return None
            byte = message[start]
            start += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        end = start + length
        if end > size:
            return None
        if tag in (_RAW, _ID):
            if begun < at:
                kept.append(bytes(message[begun:at]))
            begun = end
            if tag == _RAW:
                data.append(message[start:end])
            else:
                try:
                    id = str(message[start:end], "utf-8")
                except UnicodeDecodeError:
                    return None
        at = end
        if at == size:
            break
    else:
        return None
    if begun < size:
        kept.append(bytes(message[begun:size]))
    return b"".join(kept), tuple(data), id, start if tag == _RAW else -1
