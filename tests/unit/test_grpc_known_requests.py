"""Requests like others before are read without protobuf, and read the same."""

import tracemalloc
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.errors import InvalidRequest
from stoker.protocol.inference_pb2 import InferParameter, ModelInferRequest
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
        kind.timeout_us, dict(request.parameters), data, request.id, request.deadline,
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


def field(tag: int, content: bytes, *, length_bytes: int = 1) -> bytes:
    """One field, its length as a varint of so many bytes: protobuf takes more than it needs."""
    length = len(content) | 0x80 if length_bytes > 1 else len(content)
    padding = b"\x80" * (length_bytes - 2) + b"\x00" if length_bytes > 1 else b""
    return bytes((tag, length)) + padding + content


def tensor(name: str, size: int) -> bytes:
    return Input(name=name, datatype="UINT8", shape=[size]).SerializeToString()


def parameter(key: str, value: int) -> bytes:
    parameters = {key: InferParameter(int64_param=value)}
    return ModelInferRequest(parameters=parameters).SerializeToString()[2:]


CONTENTS = {
    0x0A: [b"m", b"n", b"\xff"],
    0x12: [b"", b"1", b"\x01"],
    0x1A: [b"", b"a", b"\x01", b"\xff"],
    0x22: [parameter("timeout", 1), parameter("timeout", 2), parameter("own", 1)],
    0x2A: [tensor("x", 1), tensor("x", 2), tensor("y", 1)],
    0x32: [b"", b"\x0a\x01\x01", b"\x0a\x01\x02"],
    0x3A: [b"\x01", b"\x02", b"", b"\x01\x02"],
    0x42: [b"\x01", b"\x02", b""],  # no field of the protocol
}
"""A few for each field, so that messages are often alike in all but a few bytes, and what one field
holds often stands in another as well."""


@given(
    st.lists(st.sampled_from([*CONTENTS]), max_size=3),
    st.randoms(use_true_random=False),
    st.sampled_from([1, 1, 2, 5, 6]),
)
def test_fields_in_any_order_are_what_protobuf_reads(
    more: list[int], random: Random, length_bytes: int
) -> None:
    """Also where clients write them in another order than protobuf does, several times, with longer
    lengths than needed, or none that the protocol has."""
    tags = [0x2A, 0x3A, *more]
    random.shuffle(tags)
    contents = [b"m", *[CONTENTS[tag][0] for tag in tags]]
    tags.insert(0, 0x0A)
    known = KnownRequests()
    for _ in range(8):
        place = random.randrange(len(tags))
        contents[place] = random.choice(CONTENTS[tags[place]])
        fields = zip(tags, contents, strict=True)
        message = b"".join([field(*each, length_bytes=length_bytes) for each in fields])
        request = known.read(message, 5.0, False)
        try:
            expected = decode_request(message, deadline=5.0)
        except InvalidRequest:
            assert request is None
            continue
        if request is None:
            known.remember(message, expected)
        else:
            assert described(request) == described(expected)


def test_data_that_is_also_the_content_of_a_field_behind_it_is_not_confused_with_it() -> None:
    def message(timeout: int) -> bytes:
        begin = field(0x0A, b"m") + field(0x2A, tensor("x", 1)) + field(0x3A, b"\x05")
        return begin + field(0x22, parameter("timeout", timeout))

    request = taught(message(5)).read(message(9), 0.0, False)
    assert request is None  # another timeout is another kind


def test_what_is_remembered_of_a_message_is_small() -> None:
    ids = field(0x1A, b"i" * 100) * 500 + field(0x1A, b"")
    known = KnownRequests()
    tracemalloc.start()
    try:
        for number in range(50):
            message = field(0x0A, b"%d" % number) + ids + encoded(number)[3:]
            known.remember(message, decode_request(message))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1 << 20


def test_a_message_of_many_fields_is_left_to_protobuf_unread() -> None:
    assert scan(encoded(1) + field(0x3A, b"") * 1_000_000) is None


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
