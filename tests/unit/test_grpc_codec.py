"""ModelInfer's codec: any bytes give a request or a refusal; encoded requests come back."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stoker.errors import InvalidRequest, ServingError, Unsupported
from stoker.protocol.inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
)
from stoker.request import InferRequest
from stoker.tensor import DataType, Tensor, encode_bytes, to_raw
from stoker.transport.grpc.codec import MAX_FIELDS, decode_request
from stoker.transport.wire.limits import WHOLE_BODY_BYTES

Input = ModelInferRequest.InferInputTensor
Output = ModelInferRequest.InferRequestedOutputTensor

TYPED: dict[DataType, tuple[str, list[Any]]] = {
    DataType.BOOL: ("bool_contents", [True, False]),
    DataType.UINT8: ("uint_contents", [0, 255]),
    DataType.UINT16: ("uint_contents", [0, 65535]),
    DataType.UINT32: ("uint_contents", [0, 2**32 - 1]),
    DataType.UINT64: ("uint64_contents", [0, 2**64 - 1]),
    DataType.INT8: ("int_contents", [-128, 127]),
    DataType.INT16: ("int_contents", [-32768, 32767]),
    DataType.INT32: ("int_contents", [-(2**31), 2**31 - 1]),
    DataType.INT64: ("int64_contents", [-(2**63), 2**63 - 1]),
    DataType.FP32: ("fp32_contents", [0.5, -1.25]),
    DataType.FP64: ("fp64_contents", [0.1, 1e300]),
    DataType.BYTES: ("bytes_contents", [b"", "ö".encode()]),
}


def message(
    *inputs: ModelInferRequest.InferInputTensor,
    raw: tuple[bytes, ...] = (),
    outputs: tuple[ModelInferRequest.InferRequestedOutputTensor, ...] = (),
    parameters: dict[str, InferParameter] | None = None,
) -> bytes:
    return ModelInferRequest(
        model_name="m",
        inputs=inputs,
        outputs=outputs,
        raw_input_contents=raw,
        parameters=parameters,
    ).SerializeToString(deterministic=True)  # these bytes name tests, alike in both processes


def typed(datatype: str, shape: list[int], **contents: Any) -> bytes:
    return message(
        Input(name="x", datatype=datatype, shape=shape, contents=InferTensorContents(**contents))
    )


def with_parameter(key: str, **value: Any) -> bytes:
    return message(parameters={key: InferParameter(**value)})


def comparable(tensors: tuple[Tensor, ...]) -> list[tuple[object, ...]]:
    return [(each.name, each.datatype, each.shape, bytes(to_raw(each))) for each in tensors]


def parameter(value: bool | int | float | str) -> InferParameter:
    if isinstance(value, bool):
        return InferParameter(bool_param=value)
    if isinstance(value, str):
        return InferParameter(string_param=value)
    if isinstance(value, float):
        return InferParameter(double_param=value)
    return (
        InferParameter(uint64_param=value) if value >= 2**63 else InferParameter(int64_param=value)
    )


def encode_request(request: InferRequest) -> bytes:
    """The request as a client would send it, all data raw."""
    parameters = {key: parameter(value) for key, value in request.parameters.items()}
    if request.kind.priority:
        parameters["priority"] = InferParameter(uint64_param=request.kind.priority)
    if request.kind.timeout_us:
        parameters["timeout"] = InferParameter(int64_param=request.kind.timeout_us)
    return ModelInferRequest(
        model_name=request.kind.model,
        model_version=request.kind.version,
        id=request.id,
        parameters=parameters,
        inputs=[
            Input(name=each.name, datatype=each.datatype.wire, shape=each.shape)
            for each in request.inputs
        ],
        outputs=[Output(name=name) for name in request.kind.requested_outputs],
        raw_input_contents=[bytes(to_raw(each)) for each in request.inputs],
    ).SerializeToString()


some = settings(max_examples=40, deadline=None)
"""Examples that a unit test has time for; a busy machine's pauses say nothing about the code."""

names = st.text(max_size=8)


@st.composite
def tensors(draw: st.DrawFn, name: str) -> Tensor:
    datatype = draw(st.sampled_from(DataType))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    count = int(np.prod(shape))
    if datatype is DataType.BYTES:
        elements = np.empty(count, object)
        elements[:] = draw(st.lists(st.text(max_size=5), min_size=count, max_size=count))
        return Tensor(name, datatype, shape, elements.reshape(shape))
    size = count * datatype.size
    raw = draw(st.binary(min_size=size, max_size=size))
    if datatype is DataType.BOOL:
        return Tensor(name, datatype, shape, (np.frombuffer(raw, np.uint8) != 0).reshape(shape))
    return Tensor(name, datatype, shape, raw)


@st.composite
def tensor_lists(draw: st.DrawFn) -> tuple[Tensor, ...]:
    return tuple(draw(tensors(name)) for name in draw(st.lists(names, max_size=3, unique=True)))


custom = st.dictionaries(
    st.text(max_size=4).map(lambda key: f"my_{key}"),
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | names,
    max_size=2,
)

requests = st.builds(
    InferRequest.of,
    model=names,
    version=names,
    id=names,
    inputs=tensor_lists(),
    requested_outputs=st.lists(names, max_size=2, unique=True).map(tuple),
    priority=st.integers(0, 2**64 - 1),
    timeout_us=st.integers(0, 2**63 - 1),
    parameters=custom,
)


@some
@given(requests)
def test_a_request_decodes_to_what_was_encoded(request: InferRequest) -> None:
    decoded = decode_request(
        encode_request(request), deadline=request.deadline, is_retry=request.is_retry
    )
    assert comparable(decoded.inputs) == comparable(request.inputs)
    for field in ("model", "version", "requested_outputs", "priority", "timeout_us"):
        assert getattr(decoded.kind, field) == getattr(request.kind, field)
    for field in ("id", "deadline", "is_retry", "parameters"):
        assert getattr(decoded, field) == getattr(request, field)


def decode_or_refuse(data: bytes) -> None:
    try:
        assert isinstance(decode_request(data), InferRequest)
    except (InvalidRequest, Unsupported):
        pass


@some
@given(st.binary(max_size=64))
def test_any_bytes_give_a_request_or_a_refusal(data: bytes) -> None:
    decode_or_refuse(data)


@some
@given(requests, st.data())
def test_a_damaged_message_gives_a_request_or_a_refusal(
    request: InferRequest, data: st.DataObject
) -> None:
    whole = bytearray(encode_request(request))
    if whole:
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
        del whole[data.draw(st.integers(at, len(whole))) :]
    decode_or_refuse(bytes(whole))


sizes = st.sampled_from([-1, 0, 1, 2, 2**62, 2**63 - 1])
contents = st.builds(
    InferTensorContents,
    bool_contents=st.lists(st.booleans(), max_size=2),
    int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2),
    uint_contents=st.lists(st.integers(0, 2**32 - 1), max_size=2),
    fp32_contents=st.lists(st.floats(width=32), max_size=2),
    bytes_contents=st.lists(st.binary(max_size=3), max_size=2),
)
wild_inputs = st.builds(
    Input,
    name=names,
    datatype=st.sampled_from([*(each.wire for each in DataType), "", "FP8"]),
    shape=st.lists(sizes, max_size=4) | st.just([0] * 65) | st.just([1] * 65),
    contents=st.none() | contents,
)


@some
@given(st.lists(wild_inputs, max_size=2), st.lists(st.binary(max_size=9), max_size=2))
def test_absurd_tensors_give_a_request_or_a_refusal(
    inputs: list[ModelInferRequest.InferInputTensor], raw: list[bytes]
) -> None:
    decode_or_refuse(message(*inputs, raw=tuple(raw)))


@pytest.mark.parametrize("field", [b"\x2a\x00", b"\x32\x00", b"\x3a\x00"])
def test_a_large_message_of_tiny_fields_is_refused_before_protobuf_makes_objects_of_them(
    field: bytes,
) -> None:
    small = field * (WHOLE_BODY_BYTES // 2)
    with pytest.raises(InvalidRequest):
        decode_request(small)  # what they mean is refused
    with pytest.raises(InvalidRequest, match=f"of at most {MAX_FIELDS} fields"):
        decode_request(small + field)


def test_a_large_message_of_few_fields_is_read() -> None:
    data = bytes(4 * WHOLE_BODY_BYTES)
    tensor = Input(name="x", datatype="FP32", shape=[WHOLE_BODY_BYTES])
    assert decode_request(message(tensor, raw=(data,))).data == (data,)


def test_dimensions_without_end_are_refused_unread() -> None:
    tensor = Input(name="x", datatype="FP32", shape=[1] * 65)
    with pytest.raises(InvalidRequest, match="expected at most 64 dimensions, got 65"):
        decode_request(message(tensor, raw=(b"1234",)))


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_become_the_tensor(datatype: DataType) -> None:
    field, values = TYPED[datatype]
    (tensor,) = decode_request(typed(datatype.wire, [2, 1], **{field: values})).inputs
    expected = [each.decode() if isinstance(each, bytes) else each for each in values]
    assert tensor.array().dtype == datatype.numpy
    assert tensor.array().tolist() == [[expected[0]], [expected[1]]]


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_in_another_field_are_refused(datatype: DataType) -> None:
    other = "fp64_contents" if datatype is not DataType.FP64 else "fp32_contents"
    with pytest.raises(InvalidRequest, match=f"alone, got {other}"):
        decode_request(typed(datatype.wire, [1], **{other: [1.0]}))


def test_typed_contents_in_two_fields_are_refused() -> None:
    both = typed("FP32", [1], fp32_contents=[1.0], fp64_contents=[1.0])
    with pytest.raises(InvalidRequest, match="fp32_contents, fp64_contents"):
        decode_request(both)


@pytest.mark.parametrize("datatype", [DataType.FP16, DataType.BF16])
def test_half_floats_are_refused_as_typed_contents(datatype: DataType) -> None:
    with pytest.raises(InvalidRequest, match="raw_input_contents"):
        decode_request(typed(datatype.wire, [1], fp32_contents=[1.0]))


@pytest.mark.parametrize(
    ("datatype", "field", "value"),
    [
        ("INT8", "int_contents", 128),
        ("INT8", "int_contents", -129),
        ("INT16", "int_contents", 32768),
        ("UINT8", "uint_contents", 256),
        ("UINT16", "uint_contents", 65536),
    ],
)
def test_a_typed_value_that_does_not_fit_is_refused(datatype: str, field: str, value: int) -> None:
    with pytest.raises(InvalidRequest, match=f"element 1: expected {datatype} .*, got {value}"):
        decode_request(typed(datatype, [2], **{field: [0, value]}))


def test_typed_contents_of_another_count_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"expected 3 elements for FP32 \[3\], got 2"):
        decode_request(typed("FP32", [3], fp32_contents=[1, 2]))


def test_empty_typed_contents_serve_an_empty_tensor() -> None:
    (tensor,) = decode_request(typed("FP32", [0, 4])).inputs
    assert tensor.array().shape == (0, 4)


def test_text_that_is_not_utf8_is_refused_with_its_index() -> None:
    with pytest.raises(InvalidRequest, match="element 1 is not valid UTF-8"):
        decode_request(typed("BYTES", [2], bytes_contents=[b"a", b"\xff"]))


X = Input(name="x", datatype="UINT8", shape=[1])
Y = Input(name="y", datatype="UINT8", shape=[1])
TYPED_X = Input(
    name="x", datatype="UINT8", shape=[1], contents=InferTensorContents(uint_contents=[1])
)


def region(**more: Any) -> dict[str, InferParameter]:
    return {"shared_memory_region": InferParameter(string_param="r"), **more}


def shared(**parameters: InferParameter) -> bytes:
    return message(Input(name="x", datatype="UINT8", shape=[1], parameters=parameters))


def output(**parameters: InferParameter) -> bytes:
    return message(outputs=(Output(name="y", parameters=parameters),))


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"\xff", InvalidRequest, "ModelInferRequest"),
        (message(X), InvalidRequest, "'x': expected data"),
        (message(X, Y, raw=(b"1",)), InvalidRequest, "'y': expected data .*1 raw entries for 2"),
        (message(X, raw=(b"1", b"2")), InvalidRequest, "each of 1 inputs, got 2"),
        (message(X, raw=(b"12",)), InvalidRequest, "'x': expected 1 bytes"),
        (message(TYPED_X, Y, raw=(b"1",)), InvalidRequest, "typed contents too"),
        (message(X, X, raw=(b"1", b"2")), InvalidRequest, "input 'x': expected each input once"),
        (message(outputs=(Output(name="y"),) * 2), InvalidRequest, "output 'y': .* twice"),
        (shared(**region()), Unsupported, "shared memory"),
        (
            shared(shared_memory_offset=InferParameter(int64_param=1)),
            InvalidRequest,
            "expected shared_memory_region beside it",
        ),
        (
            shared(shared_memory_region=InferParameter(int64_param=1)),
            InvalidRequest,
            "expected string_param, got int64_param",
        ),
        (output(**region()), Unsupported, "output 'y': shared memory"),
        (output(classification=InferParameter(int64_param=3)), Unsupported, "classification"),
        (output(classification=InferParameter(int64_param=0)), InvalidRequest, "above 0"),
        (output(classification=InferParameter(string_param="3")), InvalidRequest, "above 0"),
        (
            output(**region(classification=InferParameter(int64_param=3))),
            InvalidRequest,
            "got both",
        ),
        (with_parameter("triton_x", bool_param=True), InvalidRequest, "reserved"),
        (with_parameter("headers", string_param=""), InvalidRequest, "reserved"),
        (with_parameter("binary_data_output", bool_param=True), InvalidRequest, "reserved"),
        (with_parameter("mine"), InvalidRequest, "'mine': expected a value, got none"),
        (with_parameter("priority", int64_param=-1), InvalidRequest, "0 or more, got -1"),
        (with_parameter("priority", bool_param=True), InvalidRequest, "got bool_param"),
        (with_parameter("timeout", uint64_param=1), InvalidRequest, "got uint64_param"),
        (with_parameter("timeout", int64_param=-1), InvalidRequest, "0 or more, got -1"),
        (with_parameter("sequence_id", bool_param=True), InvalidRequest, "got bool_param"),
        (with_parameter("sequence_id", string_param="s" * 129), InvalidRequest, "got 129"),
        (with_parameter("sequence_start", int64_param=1), InvalidRequest, "got int64_param"),
    ],
)
def test_a_rule_that_is_broken_is_told(data: bytes, error: type[ServingError], text: str) -> None:
    with pytest.raises(error, match=text):
        decode_request(data)


@pytest.mark.parametrize(
    "data",
    [
        with_parameter("sequence_id", int64_param=7),
        with_parameter("sequence_id", string_param="seven"),
        with_parameter("sequence_start", bool_param=True),
        with_parameter("sequence_end", bool_param=False),
        with_parameter("triton_enable_empty_final_response", bool_param=True),
    ],
)
def test_parameters_for_other_kinds_of_models_are_accepted_and_ignored(data: bytes) -> None:
    assert decode_request(data).parameters == {}


def test_priority_comes_signed_or_unsigned() -> None:
    assert decode_request(with_parameter("priority", int64_param=2)).kind.priority == 2
    assert (
        decode_request(with_parameter("priority", uint64_param=2**64 - 1)).kind.priority
        == 2**64 - 1
    )


def test_deadline_and_retry_come_from_the_call() -> None:
    request = decode_request(message(), deadline=12.5, is_retry=True)
    assert (request.deadline, request.is_retry) == (12.5, True)


def test_raw_bytes_other_than_one_mean_true() -> None:
    data = message(Input(name="x", datatype="BOOL", shape=[3]), raw=(b"\x00\x02\xff",))
    assert decode_request(data).inputs[0].array().tolist() == [False, True, True]


def test_raw_text_is_read_element_by_element() -> None:
    raw = encode_bytes(np.array(["a", "", "ö"], object))
    data = message(Input(name="x", datatype="BYTES", shape=[3]), raw=(raw,))
    assert decode_request(data).inputs[0].array().tolist() == ["a", "", "ö"]
