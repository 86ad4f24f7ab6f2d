"""Whether a node works on data or on shapes, read from the model's file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from stoker.runtime.node_data import AssignedNode, node_data
from stoker.tensor import DataType

from tests.models import build, tensor, write_model

INT64, FLOAT = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT


def on_data(folder: Path, *nodes: onnx.NodeProto, **weights: np.ndarray) -> dict[str, bool]:
    """Of these nodes by their names; inputs are `x` FP32, `ids` INT64 and `text` BYTES."""
    model = build(
        list(nodes),
        [
            tensor("x", DataType.FP32, ("batch", 4)),
            tensor("ids", DataType.INT64, ("batch", 4)),
            tensor("text", DataType.BYTES, ("batch", 4)),
        ],
        [tensor("y", DataType.FP32, None)],
        weights,
    )
    found = node_data(write_model(folder / "model.onnx", model))
    assert found is not None
    return found.by_name


def node(
    operator: str, *inputs: str, name: str, out: str = "", **attributes: int
) -> onnx.NodeProto:
    made = helper.make_node(operator, list(inputs), [out or name], name=name)
    made.attribute.extend(helper.make_attribute(key, each) for key, each in attributes.items())
    return made


def test_a_sum_of_data_works_on_data_and_one_of_shapes_does_not(tmp_path: Path) -> None:
    found = on_data(
        tmp_path,
        node("Shape", "x", name="shape"),
        node("Gather", "shape", "first", name="rows"),
        node("Add", "rows", "rows", name="twice"),
        node("MatMul", "x", "x", name="product"),
        node("Add", "product", "x", name="sum", out="y"),
        first=np.array([0]),
    )
    assert found == {"shape": False, "rows": False, "twice": False, "product": True, "sum": True}


def test_what_comes_from_shapes_alone_is_no_data_though_it_is_no_whole_number(
    tmp_path: Path,
) -> None:
    found = on_data(
        tmp_path,
        node("Shape", "x", name="shape"),
        node("Cast", "shape", name="real", to=FLOAT),
        node("Mul", "real", "half", name="scaled"),
        node("Mul", "scaled", "x", name="mixed", out="y"),
        half=np.array([0.5], np.float32),
    )
    assert found == {"shape": False, "real": False, "scaled": False, "mixed": True}


def test_whole_numbers_and_truths_made_of_data_are_index_arithmetic(tmp_path: Path) -> None:
    found = on_data(
        tmp_path,
        node("Add", "ids", "ids", name="moved"),
        node("Equal", "x", "x", name="same"),
        node("Where", "same", "moved", "ids", name="chosen"),
        node("Where", "same", "x", "x", name="data"),
        node("ArgMax", "x", name="best"),
        node("Concat", "best", "ids", name="joined", axis=0),
        node("Gather", "text", "ids", name="words"),
    )
    assert found == {
        "moved": False,
        "same": False,
        "chosen": False,
        "data": True,
        "best": False,
        "joined": False,
        "words": True,
    }


def test_a_cast_and_a_constant_say_their_types_themselves(tmp_path: Path) -> None:
    value = onnx.numpy_helper.from_array(np.array([1.0], np.float32))
    found = on_data(
        tmp_path,
        node("Cast", "x", name="to int", out="int", to=INT64),
        node("Cast", "ids", name="to float", out="float", to=FLOAT),
        helper.make_node("Constant", [], ["c"], name="constant", value=value),
        node("Add", "int", "int", name="ints"),
        node("Add", "float", "c", name="floats"),
        node("Add", "c", "c", name="constants"),
        node("TopK", "x", "one", name="best", out="values"),
        one=np.array([1]),
    )
    assert [name for name, is_data in found.items() if is_data] == ["to float", "floats", "best"]


def test_nodes_of_graphs_within_graphs_see_what_is_around_them(tmp_path: Path) -> None:
    def branch(name: str, read: str) -> onnx.GraphProto:
        inner = node("Add", read, read, name=name, out=f"{name} out")
        return helper.make_graph([inner], name, [], [tensor(f"{name} out", DataType.FP32, None)])

    chosen = helper.make_node(
        "If",
        ["same"],
        ["y"],
        name="if",
        then_branch=branch("of data", "x"),
        else_branch=branch("of indices", "ids"),
    )
    found = on_data(tmp_path, node("Equal", "x", "x", name="same"), chosen)
    assert (found["of data"], found["of indices"]) == (True, False)


def test_nodes_without_a_name_are_told_apart_by_their_number(tmp_path: Path) -> None:
    model = build(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Add", ["s", "s"], ["t"]),
            helper.make_node("Add", ["x", "x"], ["y"]),
        ],
        [tensor("x", DataType.FP32, ("batch", 4))],
        [tensor("y", DataType.FP32, ("batch", 4))],
    )
    found = node_data(write_model(tmp_path / "model.onnx", model))
    assert found is not None
    one, two = [AssignedNode("Add")], [AssignedNode("Add")] * 2
    assert found.on_data(one) == ()
    assert found.on_data(two) == ("Add",)
    assert found.on_data([AssignedNode("Add", "put in by ONNX Runtime")]) == ()


@pytest.mark.parametrize("content", [b"", b"no model", b"\x3a\xff"])
def test_a_file_that_is_no_model_tells_nothing(tmp_path: Path, content: bytes) -> None:
    assert node_data(write_model(tmp_path / "model.onnx", content)) is None
