"""Requests like others before are read without protobuf, and read the same."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.protocol.inference_pb2 import ModelInferRequest
from stoker.request import InferRequest
from stoker.transport.grpc.codec import decode_request
from stoker.transport.grpc.known_requests import KnownRequests, scan

from tests.unit.test_grpc_codec import Input, some


def encoded(
    value: float = 1.0, *, rows: int = 1, id: str = "", model: str = "m", **changes: Any
) -> bytes:
    """A message with one FP32 input of four columns."""
    return ModelInferRequest(
        model_name=model,
        id=id,
        inputs=[Input(name="x", datatype="FP32", shape=[rows, 4])],
        raw_input_contents=[np.full((rows, 4), value, np.float32).tobytes()],
        **changes,
    ).SerializeToString()


def described(request: InferRequest) -> tuple[object, ...]:
    """All that is in a request."""
    data = [bytes(each) if not isinstance(each, np.ndarray) else each.tolist()
            for each in request.data]  # fmt: skip
    kind = request.kind
    return (
        kind.model, kind.version, kind.inputs, kind.requested_outputs, kind.priority,
        kind.timeout_us, dict(kind.parameters), data, request.id, request.deadline,
        request.is_retry,
    )  # fmt: skip


def taught(*messages: bytes) -> KnownRequests:
    known = KnownRequests()
    for message in messages:
        known.remember(message, decode_request(message))
    return known


def test_a_message_like_one_before_is_known_with_its_own_data() -> None:
    known = taught(encoded(1))
    request = known.read(encoded(2), 5.0, True)
    assert request is not None
    assert described(request) == described(decode_request(encoded(2), deadline=5.0, is_retry=True))


def test_a_message_with_an_id_of_its_own_is_known() -> None:
    known = taught(encoded(1, id="first"))
    request = known.read(encoded(3, id="é"), 5.0, False)
    assert request is not None
    assert described(request) == described(decode_request(encoded(3, id="é"), deadline=5.0))


def test_large_data_is_a_view_of_the_message() -> None:
    message = memoryview(encoded(1, rows=1000))
    request = taught(bytes(message)).read(message, 5.0, False)
    assert request is not None
    (data,) = request.data
    assert isinstance(data, memoryview)
    assert data.obj is message.obj


def test_several_inputs_are_known() -> None:
    def two(value: int) -> bytes:
        return ModelInferRequest(
            model_name="m",
            inputs=[Input(name=name, datatype="INT8", shape=[value]) for name in "xy"],
            raw_input_contents=[bytes([value]) * value, bytes(value)],
        ).SerializeToString()

    known = taught(two(3), two(4))
    request = known.read(two(3), 0.0, False)
    assert request is not None
    assert [bytes(each) for each in request.data] == [b"\3\3\3", bytes(3)]


@pytest.mark.parametrize(
    "message",
    [
        encoded(1, rows=2),
        encoded(1, model="other"),
        encoded(1, model_version="2"),
        encoded(1)[:-1],
        encoded(1) + b"\x3a\x00",
        encoded(1) + b"\x08\x01",
        encoded(1) + b"\x1a\x01\xff",
        b"",
        b"\x0a",
        b"\x0a\x7f",
        ModelInferRequest(
            model_name="m",
            inputs=[Input(name="x", datatype="FP32", shape=[1, 4])],
            raw_input_contents=[bytes(12)],
        ).SerializeToString(),
    ],
)
def test_a_message_that_differs_is_left_to_protobuf(message: bytes) -> None:
    assert taught(encoded(1)).read(message, 0.0, False) is None


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES"])
def test_data_that_must_be_decoded_is_left_to_protobuf(datatype: str) -> None:
    message = ModelInferRequest(
        model_name="m",
        inputs=[Input(name="x", datatype=datatype, shape=[1])],
        raw_input_contents=[b"\1" if datatype == "BOOL" else b"\1\0\0\0a"],
    ).SerializeToString()
    assert taught(message).read(message, 0.0, False) is None


@some
@given(
    st.integers(1, 3),
    st.binary(max_size=4),
    st.integers(0, 80),
    st.integers(0, 6),
    st.sampled_from(["", "id"]),
)
def test_whatever_is_known_is_what_protobuf_reads(
    rows: int, garbage: bytes, place: int, removed: int, id: str
) -> None:
    known = taught(encoded(1, rows=1), encoded(1, rows=2), encoded(2, id="a"))
    whole = encoded(7, rows=rows, id=id)
    message = whole[:place] + garbage + whole[place + removed :]
    request = known.read(message, 5.0, False)
    if request is not None:
        assert described(request) == described(decode_request(message, deadline=5.0))


@some
@given(st.binary(max_size=60))
def test_any_bytes_are_scanned_or_left_to_protobuf(tail: bytes) -> None:
    scan(tail)
    scan(b"\x0a\x01m" + tail)


def test_many_kinds_are_forgotten_and_learned_again() -> None:
    known = KnownRequests()
    for number in range(3000):
        message = encoded(1, model=str(number))
        known.remember(message, decode_request(message))
    message = encoded(1, model="2999")
    assert known.read(message, 0.0, False) is not None
    assert known.read(encoded(1, model="0"), 0.0, False) is None
