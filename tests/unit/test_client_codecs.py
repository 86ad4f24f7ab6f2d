"""The client's requests, as a server reads them, and the answers it understands."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.client import grpc, rest
from stoker.client.connection import ClientError, connect
from stoker.protocol import inference_pb2
from stoker.request import InferRequest
from stoker.tensor import DataType, Tensor

X = Tensor("x", DataType.INT32, (2,), np.array([1, 2], np.int32))
T = Tensor("t", DataType.BYTES, (1,), np.array(["hé"], object))


def test_a_rest_request_has_its_tensors_behind_the_json() -> None:
    body, length = rest.encode_request(
        InferRequest.of("m", inputs=(X, T), requested_outputs=("y",))
    )
    head = json.loads(body[:length])
    assert body[length:] == X.array().tobytes() + b"\3\0\0\0h\xc3\xa9"
    assert head["outputs"] == [{"name": "y", "parameters": {"binary_data": True}}]
    assert head["inputs"][0] == {
        "name": "x",
        "datatype": "INT32",
        "shape": [2],
        "parameters": {"binary_data_size": 8},
    }


def test_a_rest_answer_may_mix_binary_and_json_outputs() -> None:
    head = json.dumps(
        {
            "model_name": "m",
            "model_version": "3",
            "outputs": [
                {"name": "a", "datatype": "FP32", "shape": [2, 1], "data": [1, 2.5]},
                {
                    "name": "b",
                    "datatype": "INT32",
                    "shape": [2],
                    "parameters": {"binary_data_size": 8},
                },
                {"name": "c", "datatype": "BYTES", "shape": [1], "data": ["x"]},
            ],
        }
    ).encode()
    answer = rest.decode_response(head + X.array().tobytes(), str(len(head)))
    assert (answer.model, answer.version) == ("m", "3")
    assert [each.array().tolist() for each in answer.outputs] == [[[1.0], [2.5]], [1, 2], ["x"]]


@given(st.binary(max_size=200), st.none() | st.integers(-5, 300).map(str))
def test_any_bytes_are_an_answer_or_a_client_error(body: bytes, length: str | None) -> None:
    for decode in (lambda: rest.decode_response(body, length), lambda: rest.decode_metadata(body)):
        with pytest.raises(ClientError, match="malformed"):
            decode()


def test_a_grpc_request_has_raw_contents() -> None:
    message = grpc.encode_request(
        InferRequest.of("m", version="2", inputs=(X, T), requested_outputs=("y",))
    )
    assert (message.model_name, message.model_version) == ("m", "2")
    assert list(message.raw_input_contents) == [X.array().tobytes(), b"\3\0\0\0h\xc3\xa9"]
    assert [(each.name, each.datatype, list(each.shape)) for each in message.inputs] == [
        ("x", "INT32", [2]),
        ("t", "BYTES", [1]),
    ]
    assert [each.name for each in message.outputs] == ["y"]


def test_a_grpc_answer_may_have_raw_or_typed_contents() -> None:
    raw = inference_pb2.ModelInferResponse(model_name="m", model_version="1")
    raw.outputs.add(name="x", datatype="INT32", shape=[2])
    raw.raw_output_contents.append(X.array().tobytes())
    assert grpc.decode_response(raw).outputs[0].array().tolist() == [1, 2]

    typed = inference_pb2.ModelInferResponse(model_name="m")
    typed.outputs.add(name="t", datatype="BYTES", shape=[1, 2]).contents.bytes_contents[:] = [
        b"a",
        b"b",
    ]
    typed.outputs.add(name="x", datatype="INT8", shape=[1]).contents.int_contents[:] = [-3]
    answers = [each.array().tolist() for each in grpc.decode_response(typed).outputs]
    assert answers == [[["a", "b"]], [-3]]


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [("INT32", [3], [b"1234"]), ("INT33", [1], [b"1234"]), ("FP16", [1], [])],
)
def test_a_grpc_answer_that_contradicts_itself_is_malformed(
    datatype: str, shape: list[int], raw: list[bytes]
) -> None:
    message = inference_pb2.ModelInferResponse(raw_output_contents=raw)
    message.outputs.add(name="x", datatype=datatype, shape=shape)
    with pytest.raises(ClientError, match="malformed"):
        grpc.decode_response(message)


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:99999", "http://[::1", ""])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ClientError, match="expected a URL"):
        connect(url, timeout_s=1)
