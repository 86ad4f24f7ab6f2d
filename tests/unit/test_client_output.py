"""How an answer is printed: text, JSON, NumPy."""

import io
import json

import numpy as np
import pytest
from stoker.client.connection import ClientError
from stoker.client.output import print_response
from stoker.request import InferResponse
from stoker.tensor import DataType, Tensor

Y = Tensor("y", DataType.FP32, (1, 2), np.array([[1.5, -2]], np.float32))
T = Tensor("t", DataType.BYTES, (2,), np.array(["a", "ü"], object))
B = Tensor("b", DataType.BF16, (1,), np.array([0x3FC0], np.uint16))


class Output(io.TextIOWrapper):
    def __init__(self, *, terminal: bool = False) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding="utf-8", write_through=True)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def test_text_names_each_output_above_its_values() -> None:
    stream = io.StringIO()
    print_response(InferResponse.of("m", "1", "", (Y, T, B)), "text", stream)
    assert stream.getvalue() == (
        "y FP32 1x2\n[[ 1.5, -2. ]]\nt BYTES 2\n['a', 'ü']\nb BF16 1\n[1.5]\n"
    )


def test_json_is_one_object_with_nested_values() -> None:
    stream = io.StringIO()
    print_response(InferResponse.of("m", "1", "", (Y, T)), "json", stream)
    assert json.loads(stream.getvalue()) == {
        "model_name": "m",
        "model_version": "1",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [[1.5, -2.0]]},
            {"name": "t", "datatype": "BYTES", "shape": [2], "data": ["a", "ü"]},
        ],
    }


@pytest.mark.parametrize(("tensor", "expected"), [(Y, [[1.5, -2.0]]), (T, ["a", "ü"]), (B, [1.5])])
def test_npy_is_a_file_that_numpy_reads_without_pickles(tensor: Tensor, expected: object) -> None:
    stream = Output()
    print_response(InferResponse.of("m", "1", "", (tensor,)), "npy", stream)
    stream.bytes.seek(0)
    assert np.load(stream.bytes, allow_pickle=False).tolist() == expected


def test_npy_needs_one_output_and_no_terminal() -> None:
    with pytest.raises(ClientError, match="choose one with --output: y, t"):
        print_response(InferResponse.of("m", "1", "", (Y, T)), "npy", Output())
    with pytest.raises(ClientError, match="redirect them into a file"):
        print_response(InferResponse.of("m", "1", "", (Y,)), "npy", Output(terminal=True))
