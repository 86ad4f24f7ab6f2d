"""Bodies of inference calls to requests: JSON, binary blocks, and what is refused."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stoker.errors import InvalidRequest, ServingError, TooLarge, Unsupported
from stoker.model import ModelConfig, TensorConfig
from stoker.tensor import DataType
from stoker.transport.rest.binary import decode_raw_body, json_size
from stoker.transport.rest.codec import decode
from stoker.transport.rest.envelope import Decoded

LIMIT = 1 << 20
ROW = np.arange(4, dtype=np.float32)
X: dict[str, Any] = {"name": "x", "shape": [1, 4], "datatype": "FP32"}


def with_data(**changes: Any) -> dict[str, Any]:
    return {**X, "data": ROW.tolist(), **changes}


def with_block(size: int = 16, **changes: Any) -> dict[str, Any]:
    return {**X, "parameters": {"binary_data_size": size}, **changes}


def read(*inputs: dict[str, Any], block: bytes | None = None, **top: Any) -> Decoded:
    text = json.dumps({"inputs": inputs, **top}).encode()
    if block is None:
        return decode("m", "", text, None, LIMIT)
    return decode("m", "3", text + block, len(text), LIMIT)


def test_a_json_call_becomes_a_request() -> None:
    request, forms = read(
        with_data(),
        id="a",
        parameters={"priority": 2, "timeout": 7, "custom": 1.5, "flag": True, "n": -3, "s": "t"},
        outputs=[{"name": "b"}, {"name": "a", "parameters": {"binary_data": True}}],
        unknown=[1],
    )
    assert (request.kind.model, request.kind.version, request.id) == ("m", "", "a")
    assert (request.kind.priority, request.kind.timeout_us) == (2, 7)
    assert request.parameters == {"custom": 1.5, "flag": True, "n": -3, "s": "t"}
    assert request.kind.requested_outputs == ("b", "a")
    assert request.inputs[0].array().tolist() == [[0.0, 1.0, 2.0, 3.0]]
    assert [forms.is_binary(name) for name in "ab"] == [True, False]
    assert not forms.all_binary


@pytest.mark.parametrize("identity", [{}, {"id": "a"}])
def test_blocks_follow_the_json_in_the_order_of_binary_inputs(identity: dict[str, str]) -> None:
    for start in (0, 10):  # the second call finds the JSON remembered, the data differ
        first, last = ROW + start, np.array([start], "<i8")
        request, forms = read(
            with_block(),
            with_data(name="j"),
            {"name": "n", "shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 8}},
            {"name": "z", "shape": [0], "datatype": "FP16", "parameters": {"binary_data_size": 0}},
            block=first.tobytes() + last.tobytes(),
            parameters={"binary_data_output": True},
            **identity,
        )
        x, j, n, z = request.inputs
        assert x.array().tolist() == [first.tolist()]
        assert j.array().tolist() == [ROW.tolist()]
        assert n.array().tolist() == [start]
        assert z.array().shape == (0,)
        assert forms.all_binary
        assert request.kind.version == "3"


def test_the_request_default_does_not_reach_listed_outputs() -> None:
    _, forms = read(with_data(), parameters={"binary_data_output": True}, outputs=[{"name": "y"}])
    assert not forms.is_binary("y")


def test_tensors_of_a_large_body_are_views_of_it() -> None:
    text = json.dumps({"inputs": [with_block()]}).encode()
    body = memoryview(bytearray(text + ROW.tobytes()))
    request, _ = decode("m", "", body, len(text), LIMIT)
    assert isinstance(request.inputs[0].data, memoryview)
    assert request.inputs[0].data.obj is body.obj


def test_sequence_parameters_are_checked_and_ignored() -> None:
    request, _ = read(
        with_data(),
        parameters={"sequence_id": "s", "sequence_start": True, "sequence_end": False},
    )
    assert not request.parameters


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ({"inputs": None}, "expected `inputs` to be a JSON array, got none"),
        ({"inputs": [3]}, "expected an element of `inputs` to be a JSON object, got 3"),
        ({"inputs": [with_data(name=None)]}, "expected `name` of each input to be a string"),
        ({"inputs": [with_data(datatype="FLOAT")]}, "expected a datatype out of"),
        ({"inputs": [with_data(datatype=1)]}, "expected `datatype` to be a string, got 1"),
        ({"inputs": [with_data(shape=None)]}, "expected `shape` to be an array, got none"),
        ({"inputs": [with_data(shape=[-1, 4])]}, "integers from 0 to .*, got -1"),
        ({"inputs": [with_data(shape=[1.0])]}, "got 1.0"),
        ({"inputs": [with_data(shape=[True])]}, "got True"),
        ({"inputs": [with_data(shape=[0, 1 << 40])]}, "got 1099511627776"),
        ({"inputs": [with_data(shape=[1] * 40)]}, "at most 32 dimensions, got 40"),
        ({"inputs": [X]}, "`data` or the parameter `binary_data_size`, got neither"),
        ({"inputs": [{**with_block(), "data": []}]}, "`binary_data_size`, got both"),
        ({"inputs": [with_block(size=-1)]}, "0 or more, got -1"),
        ({"inputs": [with_block()]}, "expected 16 bytes of binary data, got 0"),
        ({"inputs": [with_data(parameters=[])]}, "`parameters` to be a JSON object, got an array"),
        ({"inputs": [with_data(), with_data()]}, "input 'x': expected each input once"),
        ({"outputs": [{"name": "y"}, {"name": "y"}]}, "output 'y': expected each output once"),
        ({"outputs": {}}, "expected `outputs` to be a JSON array, got an object"),
        ({"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "a boolean, got 1"),
        ({"id": 3}, "expected `id` to be a string, got 3"),
        ({"parameters": 3}, "expected `parameters` to be a JSON object, got 3"),
        ({"parameters": {"priority": -1}}, "'priority': expected an integer of 0 or more, got -1"),
        (
            {"parameters": {"timeout": True}},
            "'timeout': expected an integer of 0 or more, got True",
        ),
        ({"parameters": {"binary_data_output": "yes"}}, "'binary_data_output': expected a boolean"),
        ({"parameters": {"sequence_id": "s" * 129}}, "'sequence_id'"),
        ({"parameters": {"sequence_id": -1}}, "'sequence_id'"),
        ({"parameters": {"triton_x": 1}}, "'triton_x': the name is reserved"),
        ({"parameters": {"headers": 1}}, "'headers': the name is reserved"),
        ({"parameters": {"c": None}}, "'c': expected a string.*, got none"),
        ({"parameters": {"c": [1]}}, "'c': expected .*, got an array"),
        ({"parameters": {"c": 1 << 63}}, "'c': expected .*64-bit integer"),
    ],
)
def test_a_malformed_call_is_told_what_was_expected(top: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        decode("m", "", json.dumps({"inputs": [with_data()], **top}).encode(), None, LIMIT)


@pytest.mark.parametrize("body", [b"", b"[]", b"3", b'{"inputs":[]', b"{}", b"\xff"])
def test_a_body_that_is_no_call_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="expected"):
        decode("m", "", body, None, LIMIT)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (ROW.tobytes()[:-1], "expected 16 bytes of binary data, got 15"),
        (ROW.tobytes() + b"12", "expected the body to end after its last input, got 2 bytes more"),
    ],
)
def test_blocks_must_fill_the_body(block: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read(with_block(), block=block)


def test_a_block_must_fit_its_shape() -> None:
    with pytest.raises(InvalidRequest, match=r"expected 16 bytes for FP32 .1,4., got 12"):
        read(with_block(size=12), block=bytes(12))


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ({"inputs": [with_data(parameters={"shared_memory_region": "r"})]}, "shared memory"),
        (
            {"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
            "shared memory",
        ),
        ({"outputs": [{"name": "y", "parameters": {"classification": 2}}]}, "classification"),
    ],
)
def test_what_is_not_served_says_so(top: dict[str, Any], words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        decode("m", "", json.dumps({"inputs": [with_data()], **top}).encode(), None, LIMIT)


def test_json_over_its_limit_is_too_large_however_small_the_rest() -> None:
    text = json.dumps({"inputs": [with_data()]}).encode()
    with pytest.raises(TooLarge, match=f"at most 10 bytes, got {len(text)}"):
        decode("m", "", text, None, 10)
    with pytest.raises(TooLarge):
        decode("m", "", text + bytes(5), len(text), 10)


def test_a_header_beyond_the_body_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="up to the body's 2 bytes, got 3"):
        decode("m", "", b"{}", 3, LIMIT)


@pytest.mark.parametrize("text", ["-1", "", "1.5", "0x10", "9" * 30, "1, 1", "²"])
def test_a_header_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="decimal number"):
        json_size({"inference-header-content-length": text})


@given(st.binary(max_size=120), st.none() | st.integers(0, 130))
@settings(max_examples=80, deadline=None)
def test_any_bytes_give_a_call_or_a_serving_error(body: bytes, size: int | None) -> None:
    for each in (body, b'{"inputs":' + body, memoryview(b'{"inputs":[{"name":' + body)):
        try:
            decode("m", "", each, size, 100)
        except ServingError:
            pass


def config(*inputs: TensorConfig, max_batch_size: int = 8) -> ModelConfig:
    return ModelConfig("m", max_batch_size, inputs, (), None)


def test_a_body_without_json_is_the_only_input() -> None:
    body = np.arange(6, dtype=np.float32).tobytes()
    only = TensorConfig("x", DataType.FP32, (2, -1))
    batched = decode_raw_body("m", "", body, config(only)).inputs[0]
    assert batched.array().tolist() == [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]
    alone = decode_raw_body("m", "", body, config(only, max_batch_size=0)).inputs[0]
    assert alone.shape == (2, 3)


def test_a_body_without_json_for_bytes_is_the_one_element() -> None:
    only = TensorConfig("x", DataType.BYTES, (-1,))
    tensor = decode_raw_body("m", "", b"text", config(only)).inputs[0]
    assert tensor.array().tolist() == [["text"]]
    with pytest.raises(InvalidRequest, match="element 0 is not valid UTF-8"):
        decode_raw_body("m", "", b"\xff", config(only))


@pytest.mark.parametrize(
    ("inputs", "body", "words"),
    [
        ((), b"", "one input"),
        ((TensorConfig("x", DataType.FP32, (1,)),) * 2, b"", "one input"),
        ((TensorConfig("x", DataType.FP32, (2,)),), bytes(9), "expected 8 bytes"),
        ((TensorConfig("x", DataType.FP32, (2, -1)),), bytes(9), "variable dimension"),
        ((TensorConfig("x", DataType.FP32, (-1, -1)),), bytes(8), "variable dimension"),
        ((TensorConfig("x", DataType.FP32, (0, -1)),), b"", "variable dimension"),
        ((TensorConfig("x", DataType.BYTES, (2,)),), b"ab", "one BYTES element"),
    ],
)
def test_a_body_without_json_that_cannot_be_the_input_is_refused(
    inputs: tuple[TensorConfig, ...], body: bytes, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        decode_raw_body("m", "", body, config(*inputs))
