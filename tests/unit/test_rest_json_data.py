"""JSON numbers and texts to tensors and back."""

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stoker.errors import InvalidRequest
from stoker.tensor import DataType, Tensor
from stoker.transport.rest.json_data import (
    PIECES_FROM_BYTES,
    SIMD_FROM_BYTES,
    load,
    to_json,
    to_tensor,
)

PADDING = " " * SIMD_FROM_BYTES
"""Makes a text large enough for the fast parser."""

WITH_JSON = [each for each in DataType if each not in (DataType.FP16, DataType.BF16)]


def read(data: str, datatype: DataType, shape: tuple[int, ...], padding: str = "") -> Tensor:
    top = load(f'{{"inputs":[{{"data":{data}}}]{padding}}}'.encode())
    assert isinstance(top, dict)
    return to_tensor("x", datatype, shape, top["inputs"][0]["data"])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(WITH_JSON))
    shape = draw(st.lists(st.integers(0, 4), max_size=3).map(tuple))
    count = math.prod(shape)
    elements: st.SearchStrategy[object]
    if datatype is DataType.BYTES:
        elements = st.text(max_size=5)
    elif datatype is DataType.BOOL:
        elements = st.booleans()
    elif datatype in (DataType.FP32, DataType.FP64):
        elements = st.floats(width=32 if datatype is DataType.FP32 else 64)
    else:
        limits = np.iinfo(datatype.numpy)
        elements = st.integers(int(limits.min), int(limits.max))
    flat = draw(st.lists(elements, min_size=count, max_size=count))
    array = np.empty(count, datatype.numpy)
    array[:] = flat
    return Tensor("x", datatype, shape, array.reshape(shape))


@given(tensors(), st.sampled_from(["", PADDING]))
@settings(max_examples=60, deadline=None)
def test_a_printed_tensor_reads_back_the_same(tensor: Tensor, padding: str) -> None:
    back = read(to_json(tensor).decode(), tensor.datatype, tensor.shape, padding)
    np.testing.assert_array_equal(back.array(), tensor.array())
    assert back.array().dtype == tensor.array().dtype


@given(st.text(max_size=40) | st.binary(max_size=40), st.sampled_from(["", PADDING]))
@settings(max_examples=60, deadline=None)
def test_any_text_gives_a_value_or_an_invalid_request(text: str | bytes, padding: str) -> None:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    try:
        load(raw + padding.encode())
    except InvalidRequest:
        pass


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=2), each, max_size=2)
    ),
    max_leaves=6,
)


@given(
    JSON_VALUES,
    st.sampled_from(list(DataType)),
    st.lists(st.integers(0, 3), max_size=2).map(tuple),
    st.sampled_from(["", PADDING]),
)
@settings(max_examples=80, deadline=None)
def test_any_data_gives_a_tensor_or_an_invalid_request(
    data: object, datatype: DataType, shape: tuple[int, ...], padding: str
) -> None:
    try:
        tensor = read(json.dumps(data), datatype, shape, padding)
    except InvalidRequest:
        return
    assert tensor.array().shape == shape


@pytest.mark.parametrize("padding", ["", PADDING])
@pytest.mark.parametrize("data", ["[1,2,3,4]", "[[1,2],[3,4]]", "[[[1]],[2,[3]],4]"])
def test_nesting_is_ignored(data: str, padding: str) -> None:
    assert read(data, DataType.INT32, (2, 2), padding).array().tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("padding", ["", PADDING])
def test_64_bits_are_kept(padding: str) -> None:
    top = (1 << 64) - 1
    assert read(f"[{top}]", DataType.UINT64, (1,), padding).array().tolist() == [top]
    low = -(1 << 63) + 1
    assert read(f"[{low}]", DataType.INT64, (1,), padding).array().tolist() == [low]


@pytest.mark.parametrize("padding", ["", PADDING])
def test_nan_and_infinity_are_numbers(padding: str) -> None:
    array = read("[NaN, Infinity, -Infinity, 1]", DataType.FP32, (4,), padding).array()
    np.testing.assert_array_equal(array, np.array([np.nan, np.inf, -np.inf, 1], np.float32))
    assert to_json(Tensor("y", DataType.FP32, (4,), array)) == b"[NaN,Infinity,-Infinity,1.0]"


@pytest.mark.parametrize("padding", ["", PADDING])
@pytest.mark.parametrize(
    ("data", "datatype", "words"),
    [
        (
            "[1, 300]",
            DataType.UINT8,
            "element 1: expected an integer in the range of UINT8, got 300",
        ),
        (
            "[-1, 1]",
            DataType.UINT64,
            "element 0: expected an integer in the range of UINT64, got -1",
        ),
        ("[1, 9223372036854775808]", DataType.INT64, "element 1"),
        ("[1, 2.5]", DataType.INT32, r"element 1: expected an integer .INT32., got 2.5"),
        ("[true, 1]", DataType.INT32, "element 0: expected an integer .INT32., got true"),
        ("[1, true]", DataType.FP32, "element 1: expected a number .FP32., got true"),
        ('["1", 1]', DataType.FP32, 'element 0: expected a number .FP32., got "1"'),
        ("[1, null]", DataType.FP32, "element 1: expected a number .FP32., got null"),
        ("[1, {}]", DataType.FP64, "element 1: expected a number .FP64., got an object"),
        ("[1, 1e39]", DataType.FP32, "element 1: expected a number .*FP32.*, got 1e.39"),
        ("[2, 1]", DataType.BOOL, "element 0: expected true, false, 0 or 1, got 2"),
        ("[1, true]", DataType.BYTES, "element 0: expected a string .BYTES., got 1"),
        ('["\\ud800", "a"]', DataType.BYTES, "element 0: expected text of valid Unicode"),
        ("[1]", DataType.FP32, "expected 2 elements for FP32 .2., got 1"),
        ("[]", DataType.BYTES, "expected 2 elements for BYTES .2., got 0"),
        ("3", DataType.FP32, "expected `data` to be an array, got an integer"),
        ("{}", DataType.FP32, "expected `data` to be an array, got an object"),
        ("[1, 2]", DataType.FP16, "expected FP16 as binary data"),
        ("[1, 2]", DataType.BF16, "expected BF16 as binary data"),
        ("[" * 101 + "]" * 101, DataType.FP32, "input 'x'"),
        ("[0, " * 101 + "0" + "]" * 101, DataType.FP32, "input 'x'"),
    ],
)
def test_data_that_does_not_fit_is_refused_with_what_came(
    data: str, datatype: DataType, words: str, padding: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read(data, datatype, (2,), padding)


@pytest.mark.parametrize("padding", ["", PADDING, " " * PIECES_FROM_BYTES])
@pytest.mark.parametrize("datatype", [DataType.FP32, DataType.FP64, DataType.INT64])
@pytest.mark.parametrize("number", ["1e400", "-1.5e309"])
def test_a_number_beyond_all_doubles_is_refused_and_no_infinity(
    number: str, datatype: DataType, padding: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"element 1: .* in the range of {datatype.wire}"):
        read(f"[1, {number}]", datatype, (2,), padding)


def test_the_largest_double_and_the_smallest_are_numbers() -> None:
    array = read("[NaN, 1.7976931348623157e308, 1e-400]", DataType.FP64, (3,)).array()
    assert array.tolist()[1:] == [sys.float_info.max, 0.0]


@pytest.mark.parametrize("padding", ["", PADDING, " " * PIECES_FROM_BYTES])
def test_a_byte_order_mark_is_refused_whatever_the_size_of_the_text(padding: str) -> None:
    with pytest.raises(InvalidRequest, match="expected a JSON text"):
        load('\ufeff{"inputs":[]'.encode() + padding.encode() + b"}")


@pytest.mark.parametrize("padding", ["", PADDING])
def test_of_a_key_that_comes_twice_the_last_counts(padding: str) -> None:
    text = '{"a":1,"a":2,"inputs":[{"data":[1],"data":[2]}]' + padding + "}"
    assert load(text.encode()) == {"a": 2, "inputs": [{"data": [2]}]}


def test_bool_takes_0_and_1() -> None:
    assert read("[true, 0, 1]", DataType.BOOL, (3,)).array().tolist() == [True, False, True]


def test_an_integer_too_large_for_a_double_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="element 0"):
        read("[1" + "0" * 400 + "]", DataType.FP64, (1,))


def test_text_nested_deeper_than_any_parser_goes_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="expected a JSON text"):
        load(b"[" * 100_000)


def test_outputs_that_json_cannot_carry_are_refused() -> None:
    element = np.array([b"ok", b"\xff"], object)
    with pytest.raises(InvalidRequest, match="BYTES element 1"):
        to_json(Tensor("y", DataType.BYTES, (2,), element))
    with pytest.raises(InvalidRequest, match="FP16 has no JSON form"):
        to_json(Tensor("y", DataType.FP16, (1,), b"\0\0"))


def test_outputs_in_any_memory_order_are_printed_in_row_major_order() -> None:
    array = np.arange(6, dtype=np.int32).reshape(3, 2).T
    assert to_json(Tensor("y", DataType.INT32, (2, 3), array)) == b"[0,2,4,1,3,5]"
