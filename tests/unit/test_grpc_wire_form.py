"""What is written by hand is what protobuf writes."""

from hypothesis import given
from hypothesis import strategies as st
from stoker.protocol import inference_pb2 as pb
from stoker.transport.grpc.wire_form import delimited, delimited_head, integer, varint


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
