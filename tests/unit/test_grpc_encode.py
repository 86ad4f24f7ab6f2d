"""Answers as ModelInferResponse messages: what protobuf reads is what the batch holds."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.errors import InvalidRequest
from stoker.protocol.inference_pb2 import ModelInferResponse
from stoker.request import InferResponse, OutputBatch, TensorHead
from stoker.tensor import DataType, Tensor, to_raw
from stoker.transport.grpc.call import PiecedMessage
from stoker.transport.grpc.encode import MAX_RESPONSE_BYTES, encode_response
from stoker.transport.wire.limits import COPIED_ROW_BYTES

from tests.unit.test_grpc_codec import custom, names, parameter, some, tensor_lists
from tests.wire_server import Lease


def whole(encoded: bytes | PiecedMessage) -> bytes:
    """The message's bytes."""
    if isinstance(encoded, bytes):
        return encoded
    joined = b"".join(encoded.pieces)
    assert len(joined) == encoded.size
    return joined


@some
@given(tensor_lists(), names, names, names, custom)
def test_a_response_is_what_protobuf_reads(
    outputs: tuple[Tensor, ...], model: str, version: str, id: str, parameters: dict[str, Any]
) -> None:
    encoded = encode_response(InferResponse.of(model, version, id, outputs, parameters))
    read = ModelInferResponse.FromString(whole(encoded))
    assert read == ModelInferResponse(
        model_name=model,
        model_version=version,
        id=id,
        parameters={key: parameter(value) for key, value in parameters.items()},
        outputs=[
            ModelInferResponse.InferOutputTensor(
                name=each.name, datatype=each.datatype.wire, shape=each.shape
            )
            for each in outputs
        ],
        raw_output_contents=[bytes(to_raw(each)) for each in outputs],
    )


def test_large_and_strided_outputs_are_copied_in_row_major_order() -> None:
    large = np.arange(40_000, dtype=np.float32).reshape(200, 200)
    encoded = encode_response(
        InferResponse.of(
            "m",
            "1",
            "",
            (
                Tensor("plain", DataType.FP32, (200, 200), large),
                Tensor("strided", DataType.FP32, (200, 200), large.T),
                Tensor("few", DataType.FP32, (2, 2), large[:2, :4:2]),
                Tensor("view", DataType.FP32, (2,), memoryview(b"12345678")),
            ),
        )
    )
    assert list(ModelInferResponse.FromString(whole(encoded)).raw_output_contents) == [
        large.tobytes(),
        large.T.tobytes(),
        large[:2, :4:2].tobytes(),
        b"12345678",
    ]


def test_an_answer_over_the_limit_of_protobuf_is_refused() -> None:
    huge = np.zeros(MAX_RESPONSE_BYTES + 1, np.uint8)  # pages that nobody touches take no memory
    response = InferResponse.of("m", "3", "", (Tensor("y", DataType.UINT8, huge.shape, huge),))
    with pytest.raises(InvalidRequest, match="'m' v3 has 2147483648 bytes"):
        encode_response(response)


@some
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.sampled_from([DataType.FP32, DataType.BF16, DataType.BOOL, DataType.INT64]),
    st.lists(st.integers(0, 4), max_size=2),
    st.sampled_from([(0,), (1,), (0, 1), (1, 0)]),
    names,
)
def test_each_answer_of_a_batch_has_its_own_rows(
    sizes: list[int], datatype: DataType, item: list[int], wanted: tuple[int, ...], id: str
) -> None:
    total = sum(sizes)
    shape = (total, *item)
    arrays = tuple(
        (np.arange(math.prod(shape)) * factor).astype(datatype.numpy).reshape(shape)
        for factor in (1, 3)
    )
    heads = tuple(TensorHead(name, datatype, shape) for name in ("y", "z"))
    lease = Lease()
    batch = OutputBatch("m", "1", heads, arrays, lease)
    start = 0
    for rows in sizes:
        read = ModelInferResponse.FromString(
            whole(encode_response(InferResponse(batch, wanted, start, rows, id)))
        )
        assert (read.model_name, read.model_version, read.id) == ("m", "1", id)
        assert [each.name for each in read.outputs] == [heads[index].name for index in wanted]
        assert [tuple(each.shape) for each in read.outputs] == [(rows, *item)] * len(wanted)
        expected = [arrays[index][start : start + rows].tobytes() for index in wanted]
        assert list(read.raw_output_contents) == expected
        start += rows
    assert lease.releases == len(sizes)


def test_a_large_output_stays_a_view_and_its_lease_goes_with_the_answer() -> None:
    array = np.zeros((2, COPIED_ROW_BYTES), np.uint8)
    lease = Lease()
    batch = OutputBatch("m", "1", (TensorHead("y", DataType.UINT8, array.shape),), (array,), lease)
    encoded = encode_response(InferResponse(batch, (0,), 1, 1))
    assert isinstance(encoded, PiecedMessage)
    array[1] = 7
    assert ModelInferResponse.FromString(whole(encoded)).raw_output_contents[0] == b"\7" * (
        COPIED_ROW_BYTES
    )
    assert encoded.lease is lease
    assert lease.releases == 0
