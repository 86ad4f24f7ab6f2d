"""Large JSON texts are read in pieces, and mean what they mean to the standard parser."""

import json
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stoker.errors import InvalidRequest, TooLarge
from stoker.tensor import DataType, Tensor
from stoker.transport.rest import json_data
from stoker.transport.rest.json_data import PIECES_FROM_BYTES
from stoker.transport.rest.json_frame import MAX_FRAME_BYTES, read_in_steps
from stoker.transport.rest.json_pieces import PIECE_BYTES, Pieces, check
from stoker.transport.steps import run_through

SIZE = 2 * PIECE_BYTES + 1000
"""Bytes of `data` that need several pieces."""

SCALARS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0, 1, True, False, None, math.nan, math.inf, -math.inf, 1e300, 255, 256]),
    st.text(max_size=8),
    st.sampled_from(['"', "\\", '\\"', "[", "{", "]},", "NaN", "a" * 300]),
)
ELEMENTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)


def text_of(data: list[Any], *, indent: int | None = None, ascii_only: bool = True) -> bytes:
    call = {
        "id": "1",
        "inputs": [{"name": "x", "data": data, "shape": [1], "note": {"data": [1, "["]}}],
        "parameters": {"a": 1},
    }
    return json.dumps(call, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def long(unit: list[Any], wrap: int) -> list[Any]:
    """The unit again and again until its text needs several pieces, in so many arrays."""
    size = max(1, len(json.dumps(unit)) - 1)
    data: list[Any] = unit * (SIZE // size + 1)
    for _ in range(wrap):
        data = [data]
    return data


def outcome(data: object, datatype: DataType, count: int) -> Tensor | str:
    try:
        return json_data.to_tensor("x", datatype, (count,), data)
    except InvalidRequest as error:
        return error.message


def count_of(data: Any) -> int:
    if not isinstance(data, list):
        return 1
    if not any(isinstance(each, list) for each in data):
        return len(data)
    return sum(map(count_of, data))


def assert_same(one: Tensor | str, other: Tensor | str) -> None:
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
        return
    left, right = one.array(), other.array()
    assert left.dtype == right.dtype
    np.testing.assert_array_equal(left, right)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(ELEMENTS, min_size=1, max_size=6),
    st.integers(0, 3),
    st.sampled_from([each for each in DataType if json_data.has_json(each)]),
    st.sampled_from([None, 1]),
    st.integers(-1, 1),
)
def test_data_in_pieces_is_the_tensor_or_the_refusal_of_the_whole_list(
    unit: list[Any], wrap: int, datatype: DataType, indent: int | None, off: int
) -> None:
    data = long(unit, wrap)
    text = text_of(data, indent=indent)
    assert len(text) >= PIECES_FROM_BYTES
    try:
        value: Any = json_data.load(text)
    except InvalidRequest:  # halves of surrogate pairs, spelled as escapes, are text to `json`
        assert b"\\ud" in text
        return
    pieces = value["inputs"][0].pop("data")
    assert isinstance(pieces, Pieces)
    expected = json.loads(text)
    whole = expected["inputs"][0].pop("data")
    assert value == expected
    count = max(0, count_of(whole) + off)
    got, wanted = outcome(pieces, datatype, count), outcome(whole, datatype, count)
    if pieces.object_at >= 0 and off:  # two reasons: nothing behind an object is counted
        assert isinstance(got, str)
        assert isinstance(wanted, str)
        return
    assert_same(got, wanted)


NUMBERS = [1.5, -2, 1e-3, 7]


@pytest.mark.parametrize("literal", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("datatype", [DataType.FP32, DataType.FP64])
def test_literals_among_many_numbers_stand_in_their_places(
    literal: float, datatype: DataType
) -> None:
    data = long(NUMBERS, 0)
    places = [0, 1, len(data) // 2, len(data) - 1]
    for place in places:
        data[place] = literal
    value: Any = json_data.load(text_of(data))
    tensor = json_data.to_tensor("x", datatype, (len(data),), value["inputs"][0]["data"])
    np.testing.assert_array_equal(tensor.array(), np.array(data, datatype.numpy))


def read_whole(text: bytes) -> Any:
    """The value, after its data was read for nothing."""
    value: Any = json_data.load(text)
    for each in value.get("inputs", []):
        if isinstance(each.get("data"), Pieces):
            run_through(check(each["data"]))
    return value


def test_a_damaged_text_is_refused_unless_it_is_json_to_the_standard_parser_too() -> None:
    chance = random.Random(5)
    unit = [1, 2.5, [3, 'a\\"b', []], "[{", "é"]
    sound = text_of(long(unit, 1))
    refused = 0
    for _ in range(300):
        text = bytearray(sound)
        for _ in range(chance.randint(1, 3)):
            at = chance.choice([chance.randrange(len(text)), chance.randrange(80)])
            text[at] = chance.choice(b'[]{},:"\\ 0eN-')
        try:
            expected: Any = json.loads(bytes(text))
        except (ValueError, RecursionError):
            refused += 1
            with pytest.raises(InvalidRequest):
                read_whole(bytes(text))
        else:
            assert read_whole(bytes(text)).keys() == expected.keys()
    assert refused > 100


def test_what_becomes_python_objects_is_bounded_and_data_is_not() -> None:
    numbers = long([1], 0)
    assert len(text_of(numbers * 8)) > MAX_FRAME_BYTES
    json_data.load(text_of(numbers * 8))
    for key in ("parameters", "outputs", "unknown"):
        text = json.dumps({"inputs": [], key: [[]] * (MAX_FRAME_BYTES // 8)}).encode()
        with pytest.raises(TooLarge, match="besides the inputs' data"):
            json_data.load(text)


def test_no_step_takes_more_than_a_piece() -> None:
    """Between two steps the GIL is free and a cancelled call ends: so there must be many."""
    text = text_of(long([1, 2, 3], 0) * 20)
    steps = sum(1 for _ in read_in_steps(text))
    assert steps >= len(text) // PIECE_BYTES


def test_a_shape_that_promises_more_than_the_text_holds_takes_no_memory() -> None:
    value: Any = json_data.load(text_of(long([1], 0)))
    with pytest.raises(InvalidRequest, match="expected 1099511627776 elements"):
        json_data.to_tensor("x", DataType.FP32, (1 << 40,), value["inputs"][0]["data"])
