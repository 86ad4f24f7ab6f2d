"""Every datatype and every shape goes in and comes out of a real server to the last bit.

Through the stock Triton clients with raw data, as JSON where JSON can, and with typed contents.
Source: the protocol's table of datatypes.
"""

import json
from typing import Final

import numpy as np
import pytest
from stoker.protocol import inference_pb2 as pb
from stoker.tensor import Array, DataType

from tests.conftest import Endpoints, Serving
from tests.grpc_call import grpc_infer
from tests.models import identity, write_repository
from tests.rest_call import post
from tests.triton_client import (
    CLIENTS,
    PROTOCOLS,
    Given,
    Refused,
    TritonClient,
    same_bits,
    samples,
)

SHAPES: Final = {
    "vectors": ("batch", "length"),
    "cubes": ("batch", "a", "b", "c", "d"),
    "scalar": (),
    "single": (1,),
}
"""Declared shapes by the first part of a model's name; the second is the datatype."""
MAX_BATCH: Final = 4
"""What a model without configuration gets."""
JSON_CAPABLE: Final = [each for each in DataType if each not in (DataType.FP16, DataType.BF16)]

TYPED: Final[dict[DataType, tuple[str, list[object]]]] = {
    DataType.BOOL: ("bool_contents", [True, False, True]),
    DataType.UINT8: ("uint_contents", [0, 255, 7]),
    DataType.UINT16: ("uint_contents", [0, 65535, 7]),
    DataType.UINT32: ("uint_contents", [0, 2**32 - 1, 7]),
    DataType.UINT64: ("uint64_contents", [0, 2**64 - 1, 7]),
    DataType.INT8: ("int_contents", [-128, 127, 7]),
    DataType.INT16: ("int_contents", [-32768, 32767, 7]),
    DataType.INT32: ("int_contents", [-(2**31), 2**31 - 1, 7]),
    DataType.INT64: ("int64_contents", [-(2**63), 2**63 - 1, 7]),
    DataType.FP32: ("fp32_contents", [0.5, -0.0, np.inf]),
    DataType.FP64: ("fp64_contents", [0.1, -0.0, np.inf]),
    DataType.BYTES: ("bytes_contents", [b"", "é".encode(), b"a\0b"]),
}


@pytest.fixture(scope="module")
def at(serve_module: Serving, tmp_path_factory: pytest.TempPathFactory) -> Endpoints:
    models = {
        f"{name}_{datatype.wire}": identity(datatype, shape)
        for name, shape in SHAPES.items()
        for datatype in DataType
    }
    return serve_module(write_repository(tmp_path_factory.mktemp("models"), models)).at


def echo(client: TritonClient, model: str, given: Given, *, as_json: bool = False) -> Array:
    """What an identity model answers."""
    name = f"{model}_{given.datatype.wire}"
    answer = client.infer(name, {"x": given}, ["y"], binary_outputs=not as_json)
    assert answer.datatypes == {"y": given.datatype.wire}
    return answer.outputs["y"]


@pytest.mark.parametrize("datatype", DataType, ids=lambda each: each.wire)
@pytest.mark.parametrize("kind", CLIENTS)
def test_raw_data_comes_back_to_the_bit_in_the_smallest_and_the_largest_batch(
    at: Endpoints, kind: str, datatype: DataType
) -> None:
    client = TritonClient(kind, at)
    for rows in (1, MAX_BATCH):
        values = samples(datatype, rows * 8).reshape(rows, 8)
        assert same_bits(echo(client, "vectors", Given(values, datatype)), values)


@pytest.mark.parametrize("datatype", DataType, ids=lambda each: each.wire)
@pytest.mark.parametrize("kind", PROTOCOLS)
def test_shapes_come_back_as_they_went(at: Endpoints, kind: str, datatype: DataType) -> None:
    client = TritonClient(kind, at)
    for model, shape in (
        ("vectors", (2, 0)),
        ("cubes", (2, 1, 3, 1, 4)),
        ("cubes", (3, 2, 0, 4, 1)),
        ("scalar", (1,)),
        ("single", (1,)),
    ):
        values = samples(datatype, int(np.prod(shape))).reshape(shape)
        assert same_bits(echo(client, model, Given(values, datatype)), values), (model, shape)


@pytest.mark.parametrize("datatype", JSON_CAPABLE, ids=lambda each: each.wire)
def test_json_data_comes_back_to_the_bit(at: Endpoints, datatype: DataType) -> None:
    for kind in ("http", "http-aio"):
        values = samples(datatype, 16).reshape(2, 8)
        given = Given(values, datatype, is_binary=False)
        got = echo(TritonClient(kind, at), "vectors", given, as_json=True)
        if datatype is DataType.BYTES:  # JSON holds text, and the client gives it as such
            values = np.array([each.decode() for each in values.flat], object).reshape(2, 8)
        assert same_bits(got, values)


@pytest.mark.parametrize("datatype", [DataType.FP16, DataType.BF16], ids=lambda each: each.wire)
def test_what_json_cannot_carry_is_refused_both_ways(at: Endpoints, datatype: DataType) -> None:
    url = f"/v2/models/vectors_{datatype.wire}/infer"
    tensor = {"name": "x", "datatype": datatype.wire, "shape": [1, 1]}
    inward = post(at, url, json={"inputs": [{**tensor, "data": [1.0]}]})
    assert (inward.status_code, "has no form" in inward.json()["error"]) == (400, True)
    head = {"inputs": [{**tensor, "parameters": {"binary_data_size": 2}}]}
    text = json.dumps(head).encode()
    outward = post(
        at,
        url,
        content=text + b"\0\0",
        headers={"Inference-Header-Content-Length": str(len(text))},
    )
    assert (outward.status_code, "no JSON form" in outward.json()["error"]) == (400, True)


def test_nan_and_infinity_are_literals_in_json_both_ways(at: Endpoints) -> None:
    for count in (4, 400):  # two parsers: one for small texts, one for large
        for datatype in ("FP32", "FP64"):
            numbers = "NaN,Infinity,-Infinity,1.5," * (count // 4)
            data = numbers.removesuffix(",")
            body = (
                f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":[1,{count}],'
                f'"data":[{data}]}}]}}'
            )
            answer = post(at, f"/v2/models/vectors_{datatype}/infer", content=body)
            assert answer.status_code == 200, answer.text
            assert f'"data":[{data}]' in answer.text.replace(" ", "")


def test_nested_data_is_taken_in_order_whatever_its_nesting(at: Endpoints) -> None:
    url = "/v2/models/cubes_INT32/infer"
    tensor = {"name": "x", "datatype": "INT32", "shape": [1, 2, 1, 3, 1]}
    for data in (
        [1, 2, 3, 4, 5, 6],
        [[[[[1], [2], [3]]], [[[4], [5], [6]]]]],
        [[1, 2], [3, 4, 5, 6]],
    ):
        answer = post(at, url, json={"inputs": [{**tensor, "data": data}]}).json()
        assert answer["outputs"][0]["data"] == [1, 2, 3, 4, 5, 6]
        assert answer["outputs"][0]["shape"] == [1, 2, 1, 3, 1]


def test_any_byte_but_zero_is_true(at: Endpoints) -> None:
    request = pb.ModelInferRequest(
        model_name="vectors_BOOL",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="BOOL", shape=[1, 4])],
        raw_input_contents=[bytes([0, 1, 2, 255])],
    )
    assert grpc_infer(at, request).raw_output_contents == [bytes([0, 1, 1, 1])]


@pytest.mark.parametrize("datatype", TYPED, ids=lambda each: each.wire)
def test_typed_contents_are_answered_raw(at: Endpoints, datatype: DataType) -> None:
    field, values = TYPED[datatype]
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="x", datatype=datatype.wire, shape=[1, len(values)]
    )
    getattr(tensor.contents, field).extend(values)
    answer = grpc_infer(
        at, pb.ModelInferRequest(model_name=f"vectors_{datatype.wire}", inputs=[tensor])
    )
    if datatype is DataType.BYTES:
        texts = [each for each in values if isinstance(each, bytes)]
        expected = b"".join(len(each).to_bytes(4, "little") + each for each in texts)
    else:
        expected = np.array(values, datatype.numpy).tobytes()
    assert list(answer.raw_output_contents) == [expected]
    assert not answer.outputs[0].HasField("contents")


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_a_batch_of_no_rows_is_refused(at: Endpoints, kind: str) -> None:
    with pytest.raises(Refused, match="at least 1 row"):
        echo(TritonClient(kind, at), "vectors", Given(np.zeros((0, 8), np.float32), DataType.FP32))


def test_metadata_tell_datatype_and_shape_of_every_model(at: Endpoints) -> None:
    shown = {"vectors": [-1, -1], "cubes": [-1] * 5, "scalar": [1], "single": [1]}
    for kind in PROTOCOLS:
        client = TritonClient(kind, at)
        for name, shape in shown.items():
            for datatype in DataType:
                model = f"{name}_{datatype.wire}"
                metadata = client.call("get_model_metadata", model)
                for side, tensor in (("inputs", "x"), ("outputs", "y")):
                    (told,) = metadata[side]
                    assert (told["name"], told["datatype"]) == (tensor, datatype.wire)
                    assert [int(size) for size in told["shape"]] == shape, model
