"""ModelInferResponse's bytes of an answer.  Hot path.

Stands between the engine and a transport. All but the id and the data is the same in every answer
of a model, so those bytes are made once; the data of a batch's small outputs is copied once for all
its answers, each of which is a slice. Outputs of COPIED_ROW_BYTES and more stay views: they are
written from where the model left them, and the lease goes with the answer.

Source: Open Inference Protocol v2 over gRPC, ModelInferResponse, with Triton's parameters.
"""

from functools import lru_cache
from math import prod
from typing import Final, Literal

import numpy as np

from stoker.errors import InvalidRequest
from stoker.protocol.inference_pb2 import ModelInferResponse
from stoker.request import InferResponse, OutputBatch, Parameters
from stoker.tensor import Raw, Tensor, to_raw
from stoker.transport.grpc.call import MessageBytes, PiecedMessage
from stoker.transport.grpc.wire_form import delimited, delimited_head, varint
from stoker.transport.wire.limits import COPIED_ROW_BYTES

MAX_RESPONSE_BYTES: Final = 2**31 - 1
"""Protobuf's own limit for a message; no client can read a larger one."""

_WHOLE_BYTES: Final = 64 << 10
"""A batch's output up to here is copied as a whole, 3 us at most, for all its answers."""


class _Frame:
    """An answer with one output but its data and id, for as many rows."""

    __slots__ = ("index", "model", "row_bytes", "size", "tail")

    def __init__(self, batch: OutputBatch, index: int, rows: int) -> None:
        head = batch.heads[index]
        shape = (rows, *head.shape[1:])
        self.index = index
        self.model = _model_head(batch.model, batch.version)
        self.row_bytes = prod(shape[1:]) * head.datatype.size
        self.size = rows * self.row_bytes
        self.tail = _output_head(head.name, head.datatype.wire, shape) + _raw_head(self.size)


class _Slices:
    """How the answers of one batch that have as many rows each are cut from it."""

    __slots__ = ("model", "raw", "row_bytes", "size", "tail")

    def __init__(self, frame: _Frame, raw: bytes) -> None:
        self.row_bytes, self.size = frame.row_bytes, frame.size
        self.model, self.tail = frame.model, frame.tail
        self.raw = raw


def encode_response(response: InferResponse) -> bytes | PiecedMessage:
    """The message: all data raw, one entry per output, in the same order.

    Takes over the response's lease: released when this returns or raises, or passed on. Raises
    InvalidRequest for an answer over protobuf's limit, before its data is joined.
    """
    batch, rows = response.batch, response.rows
    slices: _Slices | Literal[False] | None = batch.encoded.get((response.wanted, rows))
    if slices is None:
        slices = batch.encoded[response.wanted, rows] = _slices(batch, response.wanted, rows)
    if not slices or response.parameters:
        return _encode(response)
    at = response.start * slices.row_bytes
    data = slices.raw[at : at + slices.size]
    if batch.lease is not None:
        batch.lease.release()
    if response.id:
        id = delimited(3, response.id.encode())
        return b"".join((slices.model, id, slices.tail, data))
    return b"".join((slices.model, slices.tail, data))


def _slices(batch: OutputBatch, wanted: tuple[int, ...], rows: int) -> _Slices | Literal[False]:
    """How such answers are cut, or False for others: several outputs, or large ones."""
    if rows < 0 or len(wanted) != 1:
        return False
    frame: _Frame | None = batch.shared.get((wanted, rows))
    if frame is None:
        frame = _Frame(batch, wanted[0], rows)
        batch.share((wanted, rows), frame)
    array = batch.arrays[frame.index]
    if (
        not isinstance(array, np.ndarray)
        or array.dtype.hasobject
        or array.nbytes > _WHOLE_BYTES
        or frame.size >= COPIED_ROW_BYTES
    ):
        return False
    return _Slices(frame, array.tobytes())


def _encode(response: InferResponse) -> bytes | PiecedMessage:
    lease = response.lease
    try:
        pieces = response_pieces(response)
    except BaseException:
        if lease is not None:
            lease.release()
        raise
    if any(len(piece) >= COPIED_ROW_BYTES for piece in pieces):
        return PiecedMessage(_joined_small(pieces), sum(map(len, pieces)), lease)
    message = b"".join(pieces)
    if lease is not None:
        lease.release()
    return message


def response_pieces(response: InferResponse) -> list[Raw]:
    """The message in parts to join: fields, and views of the outputs' data. The lease is the
    caller's. Raises InvalidRequest as `encode_response`."""
    pieces: list[Raw] = [_model_head(response.model, response.version)]
    if response.id:
        pieces.append(delimited(3, response.id.encode()))
    if response.parameters:
        pieces.append(_response_parameters(response.parameters))
    outputs = response.outputs
    pieces += [_output_head(each.name, each.datatype.wire, each.shape) for each in outputs]
    total = 0
    for output in outputs:
        raw = _raw(output)
        size = len(raw)
        total += size
        pieces.append(_raw_head(size))
        pieces.append(raw)
    if total > MAX_RESPONSE_BYTES:
        raise InvalidRequest(
            f"the answer of '{response.model}' v{response.version} has {total} bytes, more than "
            f"the {MAX_RESPONSE_BYTES} that a message can hold: request fewer outputs or rows"
        )
    return pieces


def _joined_small(pieces: list[Raw]) -> tuple[MessageBytes, ...]:
    """The pieces with neighbours that are small put together."""
    joined: list[MessageBytes] = []
    small: list[Raw] = []
    for piece in pieces:
        if len(piece) < COPIED_ROW_BYTES:
            small.append(piece)
            continue
        joined.append(b"".join(small))
        small.clear()
        joined.append(memoryview(piece))
    if small:
        joined.append(b"".join(small))
    return tuple(joined)


def _raw(output: Tensor) -> Raw:
    """The output's raw bytes, as whatever buffer is cheapest to join."""
    data = output.data
    if isinstance(data, np.ndarray) and data.nbytes < COPIED_ROW_BYTES and not data.dtype.hasobject:
        return data.tobytes()
    return data if isinstance(data, bytes) else to_raw(output)


def _response_parameters(parameters: Parameters) -> bytes:
    wire = ModelInferResponse()
    for key, value in parameters.items():
        parameter = wire.parameters[key]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, str):
            parameter.string_param = value
        elif isinstance(value, float):
            parameter.double_param = value
        elif value < 2**63:
            parameter.int64_param = value
        else:
            parameter.uint64_param = value
    return wire.SerializeToString()


# Sizes of the caches below: models and output shapes in use at once.


@lru_cache(maxsize=1024)
def _model_head(model: str, version: str) -> bytes:
    """Fields 1 and 2, model_name and model_version."""
    return delimited(1, model.encode()) + delimited(2, version.encode())


@lru_cache(maxsize=8192)
def _output_head(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """One InferOutputTensor of field 5, with its name, datatype and packed shape."""
    tensor = delimited(1, name.encode()) + delimited(2, datatype.encode())
    if shape:
        tensor += delimited(3, b"".join(map(varint, shape)))
    return delimited(5, tensor)


@lru_cache(maxsize=8192)
def _raw_head(size: int) -> bytes:
    """Tag and length of one raw_output_contents entry, field 6."""
    return delimited_head(6, size)
