"""Answers of inference calls: JSON, blocks, leases; and compression of bodies."""

import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stoker.errors import InvalidRequest, TooLarge
from stoker.request import InferResponse, OutputBatch, TensorHead
from stoker.tensor import Array, DataType, Tensor, encode_bytes
from stoker.transport.coding import inflate
from stoker.transport.rest.compression import (
    compressed,
    request_coding,
    response_coding,
)
from stoker.transport.rest.encode import encode
from stoker.transport.rest.envelope import ALL_BINARY, ALL_JSON, OutputForms
from stoker.transport.wire.limits import COPIED_ROW_BYTES
from stoker.transport.wire.message import JSON, HttpResponse
from stoker.transport.wire.problems import HttpError

ONE_BY_ONE = OutputForms({}, is_binary_by_default=False, all_binary=False)
"""All JSON, but nothing says that it is: each output is printed alone."""


class Lease:
    """Counts its releases."""

    def __init__(self) -> None:
        self.releases = 0

    def release(self) -> None:
        self.releases += 1


def answer(*outputs: Tensor, lease: Lease | None = None, **changes: Any) -> InferResponse:
    return InferResponse.of("m", "2", changes.get("id", ""), outputs,
                         changes.get("parameters", {}), lease)  # fmt: skip


def fp32(name: str, values: np.ndarray[Any, np.dtype[np.float32]]) -> Tensor:
    return Tensor(name, DataType.FP32, values.shape, values)


Y = fp32("y", np.array([[1.5, 2]], np.float32))
TEXTS = Tensor("t", DataType.BYTES, (2,), np.array(["a", "ä"], object))


def split(response: HttpResponse) -> tuple[Any, bytes]:
    """The JSON part and the blocks."""
    body = b"".join(response.pieces)
    size = int(dict(response.headers).get("Inference-Header-Content-Length", len(body)))
    return json.loads(body[:size]), body[size:]


def test_json_outputs_are_flat_and_exact() -> None:
    response = encode(answer(Y, TEXTS), ALL_JSON)
    assert response.headers == JSON
    assert split(response)[0] == {
        "model_name": "m",
        "model_version": "2",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.0]},
            {"name": "t", "datatype": "BYTES", "shape": [2], "data": ["a", "ä"]},
        ],
    }


def printed(datatype: DataType, numbers: list[int], shape: tuple[int, ...]) -> Array:
    if datatype is DataType.BYTES:
        texts = np.empty(len(numbers), object)
        texts[:] = [str(each) for each in numbers]
        return texts.reshape(shape)
    array = np.array(numbers, np.int64)
    return (
        (array / 7 if datatype.numpy.kind == "f" else array).astype(datatype.numpy).reshape(shape)
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [each for each in DataType if each not in (DataType.FP16, DataType.BF16)]
            ),
            st.sampled_from([(), (1,), (3,), (2, 2), (0,), (300,)]),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 5),
    st.text(max_size=3),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_answers_cut_from_a_batch_are_those_printed_one_by_one(
    outputs: list[tuple[DataType, tuple[int, ...], bool]], total: int, id: str, data: st.DataObject
) -> None:
    heads, arrays = [], []
    for index, (datatype, item, has_nan) in enumerate(outputs):
        shape = (total, *item)
        array = printed(datatype, list(range(int(np.prod(shape)))), shape)
        if has_nan and array.dtype.kind == "f" and array.size:
            array.reshape(-1)[-1] = np.nan
        heads.append(TensorHead(f"y{index}", datatype, shape))
        arrays.append(array)
    shared = OutputBatch("m", "1", tuple(heads), tuple(arrays))
    wanted = tuple(data.draw(st.permutations(range(len(outputs)))))
    for rows in range(1, total + 1):
        for start in range(total - rows + 1):
            alone = OutputBatch("m", "1", tuple(heads), tuple(arrays))
            cut = encode(InferResponse(shared, wanted, start, rows, id), ALL_JSON)
            whole = encode(InferResponse(alone, wanted, start, rows, id), ONE_BY_ONE)
            assert b"".join(cut.pieces) == b"".join(whole.pieces)


def test_an_answer_cut_from_a_batch_ends_its_share_of_the_lease() -> None:
    lease = Lease()
    heads = (TensorHead("y", DataType.FP32, (2, 2)),)
    batch = OutputBatch("m", "1", heads, (np.ones((2, 2), np.float32),), lease)
    for start in range(2):
        assert encode(InferResponse(batch, (0,), start, 1), ALL_JSON).lease is None
    assert lease.releases == 2


@pytest.mark.parametrize("data", [0, 1])
def test_binary_outputs_follow_in_order(data: int) -> None:
    y = fp32("y", Y.array() + data)
    response = encode(answer(y, TEXTS), ALL_BINARY)
    top, blocks = split(response)
    assert dict(response.headers)["Content-Type"] == "application/octet-stream"
    assert [each["parameters"] for each in top["outputs"]] == [
        {"binary_data_size": 8},
        {"binary_data_size": 11},
    ]
    assert blocks == y.array().tobytes() + encode_bytes(TEXTS.array())


def test_forms_may_be_mixed() -> None:
    forms = OutputForms({"y": True, "t": False}, is_binary_by_default=True, all_binary=False)
    top, blocks = split(encode(answer(Y, TEXTS), forms))
    assert blocks == Y.array().tobytes()
    assert [sorted(each) for each in top["outputs"]] == [
        ["datatype", "name", "parameters", "shape"],
        ["data", "datatype", "name", "shape"],
    ]


def test_binary_outputs_without_a_byte_leave_plain_json() -> None:
    response = encode(answer(fp32("y", np.empty((0, 2), np.float32))), ALL_BINARY)
    assert response.headers == JSON
    assert split(response)[0]["outputs"][0]["parameters"] == {"binary_data_size": 0}


def test_id_and_parameters_are_there_only_if_given() -> None:
    assert "id" not in split(encode(answer(Y), ALL_BINARY))[0]
    assert "parameters" not in split(encode(answer(Y), ALL_BINARY))[0]
    top, _ = split(encode(answer(Y, id='"\ud800', parameters={"p": 1}), ALL_BINARY))
    assert top["id"] == '"\ud800'
    assert top["parameters"] == {"p": 1}


@pytest.mark.parametrize("forms", [ALL_JSON, ONE_BY_ONE, ALL_BINARY])
def test_a_lease_of_small_outputs_ends_when_they_are_copied(forms: OutputForms) -> None:
    lease = Lease()
    response = encode(answer(Y, lease=lease), forms)
    assert lease.releases == 1
    assert response.lease is None


def test_a_lease_of_large_outputs_goes_with_their_views() -> None:
    lease = Lease()
    large = fp32("y", np.ones((1, COPIED_ROW_BYTES), np.float32))
    response = encode(answer(large, Y, lease=lease), ALL_BINARY)
    assert lease.releases == 0
    assert response.lease is lease
    large.array()[0, 0] = 7
    assert bytes(response.pieces[1])[:4] == np.float32(7).tobytes()
    assert encode(answer(large, lease=lease), ALL_JSON).lease is None
    assert lease.releases == 1


def test_a_lease_ends_when_the_answer_cannot_be_encoded() -> None:
    lease = Lease()
    half = Tensor("h", DataType.FP16, (1,), b"\0\0")
    with pytest.raises(InvalidRequest, match="FP16"):
        encode(answer(half, lease=lease), ALL_JSON)
    assert lease.releases == 1


PLAIN = b"text " * 1000
PACKED = {"gzip": gzip.compress(PLAIN), "deflate": zlib.compress(PLAIN)}


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_bodies_survive_compression_both_ways(coding: str) -> None:
    assert inflate(PACKED[coding], coding, len(PLAIN)) == PLAIN
    response = compressed(HttpResponse(200, JSON, (PLAIN[:7], memoryview(PLAIN)[7:])), coding)
    assert inflate(b"".join(response.pieces), coding, len(PLAIN)) == PLAIN
    assert response.headers == (*JSON, ("Content-Encoding", coding))


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_body_that_inflates_over_the_limit_is_stopped_there(coding: str) -> None:
    with pytest.raises(TooLarge, match=f"at most {len(PLAIN) - 1} bytes"):
        inflate(PACKED[coding], coding, len(PLAIN) - 1)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b + b"x", lambda b: b[4:]])
def test_a_damaged_body_is_refused(coding: str, damage: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"{coding}"):
        inflate(damage(PACKED[coding]), coding, 1 << 20)


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip, deflate", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("gzip; q=0", None),
        ("identity, gzip", None),
        ("br", None),
        ("GZIP", "gzip"),
        ("gzip;q=x, deflate;q=0.1", "deflate"),
        ("", None),
    ],
)
def test_the_heaviest_coding_is_taken(accept: str, coding: str | None) -> None:
    assert response_coding(accept) == coding


def test_a_coding_that_is_not_known_is_refused_with_the_known_ones() -> None:
    assert request_coding(None) is None
    assert request_coding("identity") is None
    assert request_coding(" GZip") == "gzip"
    with pytest.raises(HttpError) as raised:
        request_coding("br")
    assert raised.value.problem.value == 415
    assert raised.value.headers == (("Accept-Encoding", "gzip, deflate"),)
