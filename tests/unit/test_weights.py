"""What the constant tensors of a model take, summed over its file."""

from pathlib import Path

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stoker.runtime.weights import Weights, weights
from stoker.tensor import DataType

from tests import models


def sizes(tmp_path: Path, model: onnx.ModelProto) -> Weights:
    return weights(models.write_model(tmp_path / "model.onnx", model))


def with_weights(*tensors: onnx.TensorProto) -> onnx.ModelProto:
    model = models.double()
    model.graph.initializer.extend(tensors)
    return model


def test_weights_count_as_their_shape_and_datatype_say(tmp_path: Path) -> None:
    helper, kind = onnx.helper, onnx.TensorProto
    before = sizes(tmp_path, with_weights()).total
    as_raw = onnx.numpy_helper.from_array(np.zeros((3, 5), np.float32), "raw")
    as_list = helper.make_tensor("list", kind.FLOAT16, [7], [0.0] * 7)
    packed = helper.make_tensor("int4", kind.INT4, [3], [1, 2, 3])
    empty = helper.make_tensor("empty", kind.DOUBLE, [0, 9], [])
    scalar = helper.make_tensor("scalar", kind.INT64, [], [1])
    text = onnx.numpy_helper.from_array(np.array(["abc", "de"], object), "text")
    found = sizes(tmp_path, with_weights(as_raw, as_list, packed, empty, scalar, text))
    assert found == Weights(before + 60 + 14 + 2 + 0 + 8 + 5)


def test_weights_in_other_files_count_though_the_files_are_not_there(tmp_path: Path) -> None:
    assert sizes(tmp_path, models.external()).external == 16


def test_weights_of_constants_and_of_graphs_within_graphs_count(tmp_path: Path) -> None:
    helper = onnx.helper
    value = onnx.numpy_helper.from_array(np.zeros(10, np.float32), "value")
    constant = helper.make_node("Constant", [], ["c"], value=value)
    inner = helper.make_graph(
        [constant, helper.make_node("Identity", ["c"], ["z"])],
        "inner",
        [],
        [models.tensor("z", DataType.FP32, [10])],
        initializer=[onnx.numpy_helper.from_array(np.zeros(3, np.float64), "w")],
    )
    branch = helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=inner)
    model = models.build(
        [branch],
        [models.tensor("b", DataType.BOOL, [])],
        [models.tensor("y", DataType.FP32, [10])],
    )
    assert sizes(tmp_path, model) == Weights(2 * (40 + 24))


def test_the_weights_of_a_real_model_are_those_of_its_arrays(tmp_path: Path) -> None:
    model = models.mlp(hidden=50)
    arrays = [onnx.numpy_helper.to_array(each) for each in model.graph.initializer]
    assert sizes(tmp_path, model) == Weights(sum(array.nbytes for array in arrays))


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_have_some_weights_or_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert weights(path).total >= 0
