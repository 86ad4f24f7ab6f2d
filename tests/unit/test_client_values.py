"""What `stoker infer --input` makes of what a person writes."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from stoker.client.connection import ClientError
from stoker.client.images import layout_of, read_image
from stoker.client.output import values
from stoker.client.values import build_inputs, to_bf16, to_tensor
from stoker.tensor import DataType, Tensor, TensorSpec

FP32 = DataType.FP32


def spec(datatype: DataType, *shape: int, name: str = "x") -> TensorSpec:
    return TensorSpec(name, datatype, shape)


def build(
    *arguments: str, specs: list[TensorSpec], stdin: str = "", scale: float = 1.0
) -> tuple[Tensor, ...]:
    return build_inputs(arguments, specs, stdin=io.StringIO(stdin), scale=scale)


def one(argument: str, wanted: TensorSpec, stdin: str = "") -> npt.NDArray[Any]:
    (tensor,) = build(argument, specs=[wanted], stdin=stdin)
    assert tensor.shape == tensor.array().shape
    assert tensor.array().dtype == wanted.datatype.numpy
    return tensor.array()


def test_the_body_of_a_rest_request_gives_its_inputs() -> None:
    listed = [
        {"name": "a", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]},
        {"name": "b", "shape": [1, 2], "datatype": "BYTES", "data": [["p", "q"]]},
    ]
    specs = [spec(FP32, -1, 2, name="a"), spec(DataType.BYTES, -1, 2, name="b")]
    a, b = build("@-", specs=specs, stdin=json.dumps({"inputs": listed}))
    np.testing.assert_array_equal(a.array(), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(b.array(), [["p", "q"]])


def test_an_input_called_inputs_is_no_body() -> None:
    (given,) = build("@-", specs=[spec(FP32, 2, name="inputs")], stdin='{"inputs": [1, 2]}')
    np.testing.assert_array_equal(given.array(), [1, 2])


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([1], "expected inputs with name, shape and data"),
        ([{"name": "x", "shape": [1]}], "input 'x': expected data as JSON, got none"),
        ([{"name": "x", "shape": [3], "data": [1, 2]}], "expected data that fills its shape"),
    ],
)
def test_a_body_that_is_none_is_told(listed: list[object], message: str) -> None:
    with pytest.raises(ClientError, match=message):
        build("@-", specs=[spec(FP32, -1)], stdin=json.dumps({"inputs": listed}))


@pytest.mark.parametrize(
    ("argument", "wanted", "expected"),
    [
        ("x=1,2,3", spec(FP32, 3), [1, 2, 3]),
        ("1,2,3", spec(FP32, -1, 3), [[1, 2, 3]]),
        ("x=[[1,2],[3,4]]", spec(DataType.INT64, -1, 2), [[1, 2], [3, 4]]),
        ("x=1,2,3,4", spec(DataType.INT64, -1, 2), [[1, 2], [3, 4]]),
        ("x=5", spec(DataType.UINT8), 5),
        ("x=5", spec(DataType.UINT8, -1, 1), [[5]]),
        ("x=[]", spec(FP32, -1), []),
        ("x=2.0", spec(DataType.INT8, 1), [2]),
        ("x=true,false", spec(DataType.BOOL, 2), [True, False]),
        ("x=0,1", spec(DataType.BOOL, 2), [False, True]),
        ("x=NaN", spec(FP32, 1), [np.nan]),
        ("x=18446744073709551615", spec(DataType.UINT64, 1), [2**64 - 1]),
        ("x=hello, world", spec(DataType.BYTES, 1), ["hello, world"]),
        ("x=5", spec(DataType.BYTES, -1, 1), [["5"]]),
        ('x=["a","b"]', spec(DataType.BYTES, -1), ["a", "b"]),
        ("x=[not json", spec(DataType.BYTES, 1), ["[not json"]),
        ("x=a=b", spec(DataType.BYTES, 1), ["a=b"]),
    ],
)
def test_a_value_takes_the_inputs_datatype_and_shape(
    argument: str, wanted: TensorSpec, expected: object
) -> None:
    np.testing.assert_array_equal(one(argument, wanted), np.array(expected, wanted.datatype.numpy))


@pytest.mark.parametrize(
    ("argument", "wanted", "message"),
    [
        ("x=1.5", spec(DataType.INT32, 1), "got 1.5, which is not a whole number"),
        ("x=300", spec(DataType.UINT8, 1), "expected UINT8 from 0 to 255, got 300"),
        ("x=-1", spec(DataType.UINT8, 1), "got -1"),
        ("x=18446744073709551616", spec(DataType.UINT64, 1), "integers that need more bits"),
        ("x=1e9", spec(DataType.FP16, 1), "1e+09 is beyond what FP16 holds"),
        ("x=1e39", spec(DataType.BF16, 1), "1e+39 is beyond what BF16 holds"),
        ("x=hello", spec(FP32, 1), "expected JSON, numbers separated by commas, or @FILE"),
        ('x="hello"', spec(FP32, 1), "expected FP32, got text"),
        ("x=[1]", spec(DataType.BYTES, 1), "expected BYTES, got int64"),
        ("x=2,3", spec(DataType.BOOL, 2), "expected BOOL, got int64"),
        ("x=true", spec(DataType.INT32, 1), "expected INT32, got bool"),
        ("x=[[1],[2,3]]", spec(FP32, -1), "expected lists of equal lengths"),
        ("x=null", spec(FP32, 1), "got null"),
        ('x={"a": 1}', spec(FP32, 1), 'got {"a": 1}'),
        ("x=1,2,3", spec(FP32, -1, 2), "expected FP32 [-1,2], got int64 [3]"),
        ("x=1,2,3", spec(FP32, -1, -1, 2), "expected FP32 [-1,-1,2], got int64 [3]"),
        ("y=1", spec(FP32, 1), "unknown input 'y'; the model takes x FP32 [1]"),
        ("x=@/nowhere/a.npy", spec(FP32, 1), "cannot read /nowhere/a.npy"),
        ("x=@/nowhere/a.json", spec(FP32, 1), "cannot read JSON from /nowhere/a.json"),
        ("x=@/nowhere/a.png", spec(FP32, 1, 8, 8), "cannot read /nowhere/a.png"),
        ("x=@/nowhere/a.txt", spec(DataType.BYTES, 1), "cannot read /nowhere/a.txt"),
    ],
)
def test_a_value_that_does_not_fit_says_why(
    argument: str, wanted: TensorSpec, message: str
) -> None:
    with pytest.raises(ClientError) as caught:
        build(argument, specs=[wanted])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_input_given_twice_and_a_nameless_one_of_two_are_refused() -> None:
    a, b = spec(FP32, 1, name="a"), spec(FP32, 1, name="b")
    with pytest.raises(ClientError, match="input 'a' is given twice"):
        build("a=1", "a=2", specs=[a, b])
    with pytest.raises(ClientError, match=r"expected --input NAME=\.\.\., the model takes a FP32"):
        build("1", specs=[a, b])


def test_a_json_object_gives_several_inputs_by_name() -> None:
    specs = [spec(FP32, 1, name="a"), spec(DataType.INT64, -1, 2, name="b")]
    a, b = build("@-", specs=specs, stdin='{"a": [1.5], "b": [1, 2]}')
    assert (a.name, a.array().tolist()) == ("a", [1.5])
    assert (b.name, b.array().tolist()) == ("b", [[1, 2]])
    with pytest.raises(
        ClientError, match="input 'a': expected a value or lists of values, got nul"
    ):
        build("@-", specs=specs, stdin='{"a": null}')


def test_files_of_numpy_json_and_text_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.int16).reshape(2, 3))
    (tmp_path / "a.json").write_text(json.dumps([1, 2, 3]))
    (tmp_path / "a.txt").write_text("grüezi")
    assert one(f"x=@{tmp_path}/a.npy", spec(FP32, -1, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert one(f"@{tmp_path}/a.json", spec(FP32, -1, 3)).tolist() == [[1, 2, 3]]
    assert one(f"@{tmp_path}/a.txt", spec(DataType.BYTES, -1, 1)).tolist() == [["grüezi"]]


def test_a_pickle_in_a_numpy_file_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(["a"], object), allow_pickle=True)
    with pytest.raises(ClientError, match="cannot read"):
        build(f"x=@{tmp_path}/a.npy", specs=[spec(DataType.BYTES, 1)])


def test_bytes_that_are_not_text_are_refused_with_their_index() -> None:
    with pytest.raises(ClientError, match="expected UTF-8 text, element 1 is not"):
        to_tensor(spec(DataType.BYTES, 2), np.array([b"a", b"\xff"]))


@given(st.floats(width=32))
def test_bf16_is_the_nearest_of_its_neighbours(number: float) -> None:
    single = np.array([number], np.float32)
    bits = to_bf16(single)
    (back,) = values(Tensor("x", DataType.BF16, (1,), bits)).tolist()
    if np.isnan(number):
        assert np.isnan(back)
    elif np.isinf(back):
        assert abs(number) > 3.38e38
    else:
        down, up = bits - np.uint16(1), bits + np.uint16(1)
        for other in (down, up):
            (neighbour,) = values(Tensor("x", DataType.BF16, (1,), other)).tolist()
            if np.isfinite(neighbour) and np.sign(neighbour) == np.sign(back):
                assert abs(back - number) <= abs(neighbour - number)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((-1, 3, 4, 6), (1, 3, 4, 6)),
        ((3, 4, 6), (3, 4, 6)),
        ((-1, 4, 6, 3), (1, 4, 6, 3)),
        ((1, 4, 6), (1, 4, 6)),
        ((-1, 1, 4, 6), (1, 1, 4, 6)),
        ((4, 6), (4, 6)),
        ((-1, 4, 6), (1, 4, 6)),
        ((4, 6, 1), (4, 6, 1)),
        ((-1, 25), (1, 25)),
        ((25,), (25,)),
        ((-1, 3, -1, -1), (1, 3, 5, 7)),
        ((-1, -1, -1, 1), (1, 5, 7, 1)),
    ],
)
def test_an_image_takes_the_inputs_size_and_layout(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (7, 5), (255, 0, 0)).save(path)
    assert one(f"@{path}", spec(FP32, *shape)).shape == expected


def test_the_colours_of_an_image_stay_in_their_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (2, 2), (255, 0, 51)).save(path)
    first = one(f"@{path}", spec(DataType.UINT8, 3, 2, 2))
    last = one(f"@{path}", spec(DataType.UINT8, 2, 2, 3))
    assert first[:, 0, 0].tolist() == last[0, 0].tolist() == [255, 0, 51]


def test_the_rows_of_an_image_stay_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 10], [20, 30]], np.uint8)).save(path)
    assert one(f"@{path}", spec(FP32, -1, 4)).tolist() == [[0, 10, 20, 30]]


def test_pixels_are_multiplied_by_the_scale(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (2, 2), 51).save(path)
    fraction = read_image(str(path), spec(FP32, 2, 2), scale=1 / 255)
    assert fraction == pytest.approx(np.full((2, 2), 0.2))
    whole = read_image(str(path), spec(DataType.UINT8, 2, 2), scale=16 / 255)
    assert whole.tolist() == [[3, 3], [3, 3]]


@pytest.mark.parametrize("shape", [(), (7,), (-1,), (-1, 2, 4, 4), (1, 2, 3, 4, 5)])
def test_a_shape_that_no_image_has_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ClientError, match="an image fits"):
        layout_of(spec(FP32, *shape))
