"""What is written by hand is what protobuf writes."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from stoker.protocol import inference_pb2 as pb
from stoker.transport.grpc.wire_form import delimited, delimited_head, has_at_most, integer, varint


@given(st.integers(0, 2**63 - 1))
def test_an_integer_is_written_as_protobuf_does(value: int) -> None:
    assert integer(2, value) == pb.MemoryUsage(id=value).SerializeToString()


@given(st.integers(0, 2**64 - 1))
def test_packed_numbers_are_varints(value: int) -> None:
    contents = pb.InferTensorContents(uint64_contents=[value, 0])
    assert delimited(5, varint(value) + b"\0") == contents.SerializeToString()


@given(st.sampled_from([0, 1, 127, 128, 16383, 16384, 100_000]))
def test_a_text_is_written_as_protobuf_does(size: int) -> None:
    text = "x" * size
    message = pb.ModelInferResponse(id=text).SerializeToString()
    if size:  # protobuf leaves an empty one out
        assert delimited(3, text.encode()) == message
    assert delimited_head(3, size) + text.encode() == delimited(3, text.encode())


@given(st.lists(st.integers(0, 5), max_size=6), st.integers(0, 7))
def test_fields_are_counted_up_to_a_limit(kinds: list[int], limit: int) -> None:
    """Of every kind that protobuf has, groups of fields included."""
    content = {0: b"\xff\x01", 1: bytes(8), 2: b"\x82\x00ab", 3: b"", 4: b"", 5: bytes(4)}
    message = b"".join([bytes((0x40 | kind,)) + content[kind] for kind in kinds])
    assert has_at_most(limit, message) == (len(kinds) <= limit)
    assert has_at_most(limit, memoryview(message)) == (len(kinds) <= limit)


@given(st.binary(max_size=30))
def test_what_protobuf_reads_is_a_row_of_fields(message: bytes) -> None:
    try:
        pb.ModelInferRequest.FromString(message)
    except DecodeError:
        return
    assert has_at_most(30, message)


@pytest.mark.parametrize(
    "message", [b"\x12\x05abc", b"\x09abc", b"\x08", b"\x0e", b"\x80" * 1_000_000]
)
def test_what_is_no_row_of_fields_is_told(message: bytes) -> None:
    assert not has_at_most(1 << 30, message)
