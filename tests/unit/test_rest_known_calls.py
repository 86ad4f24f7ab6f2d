"""JSON calls of a known layout: read as the codec reads a call of which nothing is known."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stoker.errors import ServingError
from stoker.request import InferRequest
from stoker.tensor import DataType
from stoker.transport.rest import known_calls
from stoker.transport.rest.codec import decode
from stoker.transport.rest.envelope import Decoded

LIMIT = 1 << 20
X: dict[str, Any] = {"name": "x", "shape": [1, 4], "datatype": "FP32"}


@pytest.fixture(autouse=True)
def nothing_is_known() -> None:
    known_calls.forget()


def call(data: object = (0, 0.5, 1, 2), **top: Any) -> bytes:
    return json.dumps({"inputs": [{**X, "data": data}], **top}).encode()


def told_twice(text: bytes) -> None:
    for _ in range(2):
        decode("m", "", text, None, LIMIT)


def is_known(text: bytes) -> bool:
    return known_calls.read("m", "", text) is not None


def verdict(text: bytes | memoryview) -> tuple[object, ...] | str:
    """All that a call says, or what is wrong with it. A view is read as if nothing were known."""
    try:
        request, forms = decode("m", "", text, None, LIMIT)
    except ServingError as error:
        return f"{type(error).__name__}: {error.message}"
    kind = request.kind
    return (
        (kind.model, kind.version, request.id, kind.inputs, kind.requested_outputs),
        (kind.priority, kind.timeout_us, dict(request.parameters), request.deadline),
        (dict(forms.listed), forms.is_binary_by_default, forms.all_binary, forms.all_json),
        [(each.array().dtype, each.array().tobytes()) for each in request.inputs if plain(each)],
        [each.array().tolist() for each in request.inputs if not plain(each)],
    )


def plain(tensor: Any) -> bool:
    return not tensor.array().dtype.hasobject


def assert_same(text: bytes) -> None:
    assert verdict(text) == verdict(memoryview(text)), text


def test_the_third_call_of_a_layout_is_known_and_is_the_same_kind() -> None:
    first, second, third = (call([n, 1, 2, 3], outputs=[{"name": "third"}]) for n in range(3))
    requests: list[InferRequest] = []
    for text in (first, second):
        assert not is_known(text)
        requests.append(decode("m", "", text, None, LIMIT)[0])
    assert is_known(third)
    request, forms = decode("m", "", third, None, LIMIT)
    assert request.kind is requests[0].kind
    assert request.data == (np.array([2, 1, 2, 3], np.float32).tobytes(),)
    assert not forms.is_binary("third")


def test_a_known_layout_may_be_sent_to_any_model_and_version() -> None:
    text = call(parameters={"any": 1})
    told_twice(text)
    known = known_calls.read("other", "7", text)
    assert known is not None
    assert (known[0].kind.model, known[0].kind.version) == ("other", "7")


@pytest.mark.parametrize("id", ["", "a", "8 c-[]{}#~"])
def test_an_id_at_the_beginning_may_differ(id: str) -> None:
    for each in ("first", "second"):
        decode("m", "", b'{"id":"%b",%b' % (each.encode(), call(ids=1)[1:]), None, LIMIT)
    for begin in ('{"id":"', '{"id": "'):
        text = f'{begin}{id}", '.encode() + call(ids=1)[1:]
        known = known_calls.read("m", "", text)
        assert known is not None
        assert known[0].id == id
        assert_same(text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"id":"a","id":"b","inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}],"id":"at the end"}',
        b'{"inputs":[{"data":[2],"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1],"data":[2]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data" :[1]}]}',
        b'{"parameters":{"data":"x"},"inputs":[{"name":"x","shape":[0],"datatype":"FP32","data":[]}]}',
        b'{"a":{"data":[1]},"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}',
        b'{"inputs":0,"inputs":[{"name":"x","shape":[0],"datatype":"FP32","data":[]}],"inputs":[]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}],"b":"%b"}'
        % bytes(5000),
    ],
)
def test_a_layout_whose_holes_are_not_the_data_is_not_learned(text: bytes) -> None:
    before = verdict(memoryview(text))
    for _ in range(4):
        assert verdict(text) == before
    assert not is_known(text)


def test_the_longest_end_that_fits_is_taken() -> None:
    for top in ({}, {"outputs": [{"name": "longest"}]}):
        told_twice(call(**top))
        told_twice(call(**top))
    request, _ = decode("m", "", call(outputs=[{"name": "longest"}]), None, LIMIT)
    assert request.kind.requested_outputs == ("longest",)
    assert_same(call())


@pytest.mark.parametrize(
    "data",
    [
        "[0,true,1,2]",
        "[0,false,1,2]",
        "[0,null,1,2]",
        '[0,"1",1,2]',
        "[[0,1],[2,3]]",
        "[[0,1],[2]]",
        "[0,1,2]",
        "[0,1,2,3,4]",
        "[0,1,NaN,-Infinity]",
        "[0,1,2,3e38]",
        "[0,1,2,4e38]",
        "[0,1,2,1e400]",
        "[0,1,2,18446744073709551616]",
        "[-0,-0.0,1E2,1e-50]",
        "[0,1,2,03]",
        "[0,1,2,3,]",
        "[0,1,2,3",
        "[0,1,2,3]]",
        "[0,1,2,3],4",
        "{}",
        '{"0":1,"1":1,"2":1,"3":1}',
        '"four"',
        "null",
        "7",
        "",
        " [ 0 , 1 , 2 , 3 ] ",
        '[0,1,2,3],"data":[4,5,6,7]',
    ],
)
@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT8", "UINT64", "BOOL", "BYTES"])
@pytest.mark.parametrize("padding", ["", " " * 1200])
def test_data_of_a_known_layout_is_judged_as_any_data(
    data: str, datatype: str, padding: str
) -> None:
    good = {"BOOL": "[true,0,1,false]", "BYTES": '["a","b","c","d"]'}.get(datatype, "[1,2,3,4]")

    def with_data(text: str) -> bytes:
        return (
            f'{{"inputs":[{{"name":"{datatype}","shape":[2,2],"datatype":"{datatype}",'
            f'"data":{padding}{text}}}]}}'
        ).encode()

    told_twice(with_data(good))
    assert is_known(with_data(good))
    assert_same(with_data(good))
    assert_same(with_data(data))


NUMBERS = st.one_of(
    st.integers(-300, 300),
    st.integers(-(1 << 65), 1 << 65),
    st.floats(width=32),
    st.floats(),
    st.booleans(),
)
ELEMENTS = st.one_of(NUMBERS, st.text(max_size=4), st.none())


@st.composite
def calls(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A call that is right, and others of its layout, right or wrong."""
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    names = draw(st.lists(st.text(max_size=3), min_size=1, max_size=3, unique=True))
    inputs: list[dict[str, Any]] = []
    for name in names:
        datatype = draw(st.sampled_from([each for each in DataType if each.size or each.numpy]))
        shape = draw(st.sampled_from([[], [0], [1], [3], [2, 2], [1, 80]]))
        size = int(np.prod(shape))
        good: Any = ["a" if datatype is DataType.BYTES else 1] * size
        entry = {"name": name, "datatype": datatype.wire, "shape": shape, "data": good}
        order = draw(st.permutations(list(entry)))
        inputs.append({key: entry[key] for key in order})
    top: dict[str, Any] = {"inputs": inputs}
    if draw(st.booleans()):
        top["outputs"] = [
            {"name": "y", "parameters": {"binary_data": draw(st.booleans())}},
            {"name": draw(st.text(max_size=2))},
        ]
    if draw(st.booleans()):
        top["parameters"] = draw(
            st.dictionaries(
                st.sampled_from(["priority", "timeout", "binary_data_output", "c"]),
                st.one_of(st.booleans(), st.integers(0, 5)),
            )
        )
    top = {key: top[key] for key in draw(st.permutations(list(top)))}

    def text(id: str | None) -> bytes:
        whole = top if id is None else {"id": id, **top}
        return json.dumps(whole, separators=separators).encode()

    right = text(draw(st.none() | st.text(max_size=5)))
    others = []
    for _ in range(2):
        for entry in inputs:
            size = int(np.prod(entry["shape"]))
            flat = st.lists(
                draw(st.sampled_from([NUMBERS, st.integers(0, 9), st.text(max_size=2), ELEMENTS])),
                min_size=size,
                max_size=size + draw(st.sampled_from([0, 0, 0, 1])),
            )
            data: Any = draw(flat)
            if draw(st.sampled_from([False, False, True])):
                data = [data[: size // 2], data[size // 2 :]]
            entry["data"] = data
        others.append(text(draw(st.none() | st.text(max_size=5))))
    return right, others


@given(calls())
@settings(max_examples=60, deadline=None)
def test_what_is_known_changes_no_verdict(drawn: tuple[bytes, list[bytes]]) -> None:
    right, others = drawn
    for _ in range(3):
        assert_same(right)
    for each in others:
        assert_same(each)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_change_of_a_known_text_is_judged_as_if_nothing_were_known(data: st.DataObject) -> None:
    base = data.draw(st.sampled_from(BASES))
    told_twice(base)
    text = bytearray(base)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        until = at + data.draw(st.sampled_from([0, 0, 1, 1, 5]))
        text[at:until] = data.draw(
            st.sampled_from([b"", b"]", b"[", b'"', b",", b"0", b"-", b" ", b"}", b"\\"])
            | st.binary(max_size=2)
            | st.sampled_from([b'"data":', b'],"data":[', b"true", b"NaN", b"}]}", b'{"id":"a",'])
        )
        if not text:
            break
    assert_same(bytes(text))


BASES = [
    call(),
    call(outputs=[{"name": "y"}], parameters={"p": "q"}),
    b'{"id":"an id",' + call()[1:],
    json.dumps(
        {
            "inputs": [
                {"name": name, "shape": [2], "datatype": datatype, "data": data}
                for name, datatype, data in (
                    ("a", "FP32", [0.5, 2]),
                    ("b", "INT64", [1, 2]),
                    ("c", "BYTES", ["x", "y"]),
                    ("d", "BOOL", [True, 0]),
                )
            ]
        },
        separators=(",", ":"),
    ).encode(),
    json.dumps({"inputs": [{**X, "shape": [2, 100], "data": [[0.25] * 100, [3] * 100]}]}).encode(),
]


def test_more_layouts_than_are_kept_are_read_all_the_same() -> None:
    def read(index: int) -> Decoded:
        text = call(index=[index]) if index % 2 else b'{"n":%d,%b' % (index, call()[1:])
        return decode("m", "", text, None, LIMIT)

    for index in range(600):
        for _ in range(2):
            assert read(index)[0].kind.inputs[0].shape == (1, 4)


def test_a_client_whose_calls_end_differently_each_time_keeps_no_other_from_being_known() -> None:
    lasting = call(outputs=[{"name": "y"}])
    for index in range(20):
        told_twice(call(parameters={"ends": index}))
    decode("m", "", lasting, None, LIMIT)
    assert not is_known(lasting)
    for index in range(2000):
        decode("m", "", lasting if index % 5 else call(parameters={"ends": -index}), None, LIMIT)
        assert is_known(lasting) or index < 600
