"""The answer of an inference call: `InferResponse` -> JSON, or JSON with raw bytes behind it.

Stands between the engine's answer and the connection. Small outputs are copied into the answer and
their lease ends here; outputs of COPIED_ROW_BYTES and more stay views, and the lease goes with the
answer.  Source: Open Inference Protocol v2, "Inference Response", with Triton's binary tensor data.
Hot path.
"""

import json
from functools import lru_cache
from math import prod
from typing import Final, Literal

import numpy as np
import orjson

from stoker.request import InferResponse, OutputBatch
from stoker.tensor import to_raw
from stoker.transport.rest.envelope import OutputForms
from stoker.transport.rest.json_data import to_json, to_json_rows
from stoker.transport.wire.limits import COPIED_ROW_BYTES
from stoker.transport.wire.message import JSON, HttpResponse, Piece
from stoker.transport.wire.problems import OK

_WHOLE_BYTES: Final = 64 << 10
"""A batch's output up to here is copied as a whole, 3 us at most, for all its answers."""

_WHOLE_TEXT_BYTES: Final = 16 << 10
"""A batch's output up to here is printed as a whole for all its answers: 4,096 numbers take 0.1 ms,
which is lost where most of the answers are cancelled or binary."""

_REMEMBERED: Final = 8192
"""JSON parts that are kept, of models and output shapes in use at once: what an answer says besides
its data is the same for all of a shape."""


def encode(response: InferResponse, forms: OutputForms) -> HttpResponse:
    """The answer. Takes over the response's lease: released when this returns, or passed on.

    Raises InvalidRequest where an output has no JSON form; the lease is released then too.
    """
    try:
        if forms.all_binary:
            answer = _all_binary(response)
        elif forms.all_json:
            answer = _all_json(response, forms)
        else:
            answer = _mixed(response, forms)
    except BaseException:
        if response.lease is not None:
            response.lease.release()
        raise
    lease = response.batch.lease
    if lease is not None:
        if any(type(piece) is memoryview for piece in answer.pieces):
            answer.lease = lease
        else:
            lease.release()
    return answer


class _Frame:
    """An answer with one binary output but its data and id, for as many rows."""

    __slots__ = ("headers", "index", "row_bytes", "size", "text")

    def __init__(self, batch: OutputBatch, index: int, rows: int) -> None:
        head = batch.heads[index]
        self.index = index
        self.row_bytes = prod(head.shape[1:]) * head.datatype.size
        self.size = rows * self.row_bytes
        entry = _binary_entry(head.name, head.datatype.wire, (rows, *head.shape[1:]), self.size)
        self.text = b'{%b"outputs":[%b]}' % (_model_part(batch.model, batch.version), entry)
        self.headers = _binary_headers(self.text)


class _Slices:
    """How the answers of one batch that have as many rows each are cut from it."""

    __slots__ = ("headers", "raw", "row_bytes", "size", "text")

    def __init__(self, frame: _Frame, raw: bytes) -> None:
        self.row_bytes, self.size = frame.row_bytes, frame.size
        self.text, self.headers = frame.text, frame.headers
        self.raw = raw


def _slices(response: InferResponse, place: object) -> _Slices | Literal[False]:
    """How such answers are cut; False for others: several outputs, or large ones."""
    batch = response.batch
    if response.rows < 0 or len(response.wanted) != 1:
        return False
    frame: _Frame | None = batch.shared.get(place)
    if frame is None:
        frame = _Frame(batch, response.wanted[0], response.rows)
        batch.share(place, frame)
    array = batch.arrays[frame.index]
    if (
        not isinstance(array, np.ndarray)
        or array.dtype.hasobject
        or array.nbytes > _WHOLE_BYTES
        or not 0 < frame.size < COPIED_ROW_BYTES
    ):
        return False
    return _Slices(frame, array.tobytes())


def _all_binary(response: InferResponse) -> HttpResponse:
    batch = response.batch
    place = ("rest", response.wanted, response.rows)
    slices: _Slices | Literal[False] | None = batch.encoded.get(place)
    if slices is None:
        slices = batch.encoded[place] = _slices(response, place)
    if slices and not response.id and not response.parameters:
        at = response.start * slices.row_bytes
        data = slices.raw[at : at + slices.size]
        return HttpResponse(OK, slices.headers, (slices.text + data,))
    entries: list[bytes] = []
    raw: list[Piece] = []
    for output in response.outputs:
        piece = to_raw(output)
        raw.append(piece)
        entries.append(_binary_entry(output.name, output.datatype.wire, output.shape, len(piece)))
    return _with_entries(response, entries, raw)


class _TextFrame:
    """A JSON answer but its numbers and id, for as many rows."""

    __slots__ = ("heads", "only", "opening")

    def __init__(self, response: InferResponse) -> None:
        self.opening = _model_part(response.model, response.version) + b'"outputs":['
        """What stands between the id and the first output's entry."""
        self.heads: list[bytes] = []
        """Of each output, what stands before its numbers."""
        for output in response.outputs:
            head = _tensor_head(output.name, output.datatype.wire, output.shape)
            self.heads.append(b'%b%b,"data":[' % (b"]}," if self.heads else b"", head))
        self.only = b"{" + self.opening + self.heads[0] if len(self.heads) == 1 else b""
        """All that stands before the numbers of an answer with one output and no id."""


class _Texts:
    """How the JSON answers of one batch that have as many rows each are put together."""

    __slots__ = ("heads", "only", "opening", "rows")

    def __init__(self, frame: _TextFrame, rows: list[list[bytes]]) -> None:
        self.only, self.opening, self.heads = frame.only, frame.opening, frame.heads
        self.rows = rows
        """Of each output, the numbers of each row."""


def _texts(response: InferResponse, place: object) -> _Texts | Literal[False]:
    """How such answers are put together; False for others: large ones, or of what is no number."""
    batch = response.batch
    if response.rows < 0 or not response.wanted:
        return False
    rows: list[list[bytes]] = []
    for output in response.wanted:
        texts = _row_texts(batch, output)
        if not texts:
            return False
        rows.append(texts)
    frame: _TextFrame | None = batch.shared.get(place)
    if frame is None:
        frame = _TextFrame(response)
        batch.share(place, frame)
    return _Texts(frame, rows)


def _row_texts(batch: OutputBatch, place: int) -> list[bytes]:
    """Of one output, the numbers of each row; empty where they are not printed together."""
    texts: list[bytes] | None = batch.encoded.get(("json", place))
    if texts is None:
        array = batch.arrays[place]
        if isinstance(array, np.ndarray) and array.nbytes <= _WHOLE_TEXT_BYTES:
            texts = to_json_rows(batch.heads[place].datatype, array)
        texts = batch.encoded["json", place] = texts or []
    return texts


def _all_json(response: InferResponse, forms: OutputForms) -> HttpResponse:
    batch, start, count = response.batch, response.start, response.rows
    place = ("json", response.wanted, count)
    texts: _Texts | Literal[False] | None = batch.encoded.get(place)
    if texts is None:
        texts = batch.encoded[place] = _texts(response, place)
    if not texts or response.parameters:
        return _mixed(response, forms)
    if texts.only and count == 1 and not response.id:
        return HttpResponse(OK, JSON, (texts.only + texts.rows[0][start] + b"]}]}",))
    pieces = [b'{"id":%b,' % quoted(response.id) if response.id else b"{", texts.opening]
    for head, rows in zip(texts.heads, texts.rows, strict=True):
        pieces.append(head)
        pieces.append(b",".join(rows[start : start + count]))
    pieces.append(b"]}]}")
    return HttpResponse(OK, JSON, (b"".join(pieces),))


def _mixed(response: InferResponse, forms: OutputForms) -> HttpResponse:
    entries: list[bytes] = []
    raw: list[Piece] = []
    for output in response.outputs:
        if forms.is_binary(output.name):
            piece = to_raw(output)
            raw.append(piece)
            entries.append(
                _binary_entry(output.name, output.datatype.wire, output.shape, len(piece))
            )
        else:
            head = _tensor_head(output.name, output.datatype.wire, output.shape)
            entries.append(b'%b,"data":%b}' % (head, to_json(output)))
    return _with_entries(response, entries, raw)


def _with_entries(response: InferResponse, entries: list[bytes], raw: list[Piece]) -> HttpResponse:
    """JSON with these outputs, alone or with blocks behind it when they have any bytes."""
    text = b'%b%b"outputs":[%b]}' % (
        _opening(response),
        _model_part(response.model, response.version),
        b",".join(entries),
    )
    total = sum(map(len, raw))
    if not total:
        return HttpResponse(OK, JSON, (text,))
    headers = _binary_headers(text)
    if total < COPIED_ROW_BYTES:
        return HttpResponse(OK, headers, (b"".join([text, *raw]),))
    pieces = [bytes(piece) if len(piece) < COPIED_ROW_BYTES else piece for piece in raw]
    return HttpResponse(OK, headers, (text, *pieces))


def _binary_headers(text: bytes) -> tuple[tuple[str, str], ...]:
    """Of an answer with blocks behind this JSON."""
    return (
        ("Content-Type", "application/octet-stream"),
        ("Inference-Header-Content-Length", str(len(text))),
    )


def _opening(response: InferResponse) -> bytes:
    """The parts that differ between requests: the id and parameters."""
    opening = b"{"
    if response.id:
        opening += b'"id":%b,' % quoted(response.id)
    if response.parameters:
        opening += b'"parameters":%b,' % json.dumps(dict(response.parameters)).encode()
    return opening


@lru_cache(maxsize=_REMEMBERED)
def _model_part(model: str, version: str) -> bytes:
    return b'"model_name":%b,"model_version":%b,' % (quoted(model), quoted(version))


@lru_cache(maxsize=_REMEMBERED)
def _tensor_head(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    return b'{"name":%b,"datatype":"%b","shape":%b' % (
        quoted(name),
        datatype.encode(),
        orjson.dumps(shape),
    )


@lru_cache(maxsize=_REMEMBERED)
def _binary_entry(name: str, datatype: str, shape: tuple[int, ...], size: int) -> bytes:
    head = _tensor_head(name, datatype, shape)
    return b'%b,"parameters":{"binary_data_size":%d}}' % (head, size)


def quoted(text: str) -> bytes:
    """A JSON string. Text that has no UTF-8 form is escaped, as the standard library does."""
    try:
        return orjson.dumps(text)
    except TypeError:  # what orjson calls its JSONEncodeError
        return json.dumps(text).encode()
