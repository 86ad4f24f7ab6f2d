"""What the file itself declares, read without any ONNX library."""

from pathlib import Path

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stoker.runtime.graph_scan import (
    Declaration,
    Weights,
    count_operators,
    has_external_data,
    scan,
    weights,
)
from stoker.tensor import DataType

from tests import models


def test_sizes_symbols_scalars_and_missing_ranks_are_told_apart(tmp_path: Path) -> None:
    model = models.build(
        [
            onnx.helper.make_node("Identity", [name], [f"{name}_out"])
            for name in ("sized", "scalar", "free")
        ],
        [
            models.tensor("sized", DataType.FP32, ["batch", 3, None, 0]),
            models.tensor("scalar", DataType.INT64, []),
            models.tensor("free", DataType.BYTES, None),
        ],
        [
            models.tensor("sized_out", DataType.FP32, ["batch", 3, None, 0]),
            models.tensor("scalar_out", DataType.INT64, []),
            models.tensor("free_out", DataType.BYTES, None),
        ],
    )
    found = scan(models.write_model(tmp_path / "model.onnx", model))
    assert found["sized"] == Declaration((-1, 3, -1, 0), ("batch", None, None, None))
    assert found["scalar"] == Declaration((), ())
    assert found["free"] == Declaration(None)
    assert set(found) == {
        f"{name}{end}" for name in ("sized", "scalar", "free") for end in ("", "_out")
    }


def test_weights_are_stepped_over(tmp_path: Path) -> None:
    path = models.write_model(tmp_path / "model.onnx", models.slow())
    assert scan(path)["x"] == Declaration((-1, 256), ("batch", None))


def test_types_that_are_no_tensors_have_no_shape(tmp_path: Path) -> None:
    path = models.write_model(tmp_path / "model.onnx", models.map_output())
    assert scan(path)["y"] == Declaration(None)


def test_a_missing_file_declares_nothing(tmp_path: Path) -> None:
    assert scan(tmp_path / "none.onnx") == {}


def test_a_cut_file_declares_nothing(tmp_path: Path) -> None:
    whole = models.mlp().SerializeToString()
    path = models.write_model(tmp_path / "model.onnx", whole[: len(whole) // 2])
    assert scan(path) == {}


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_bytes_are_scanned_without_an_error(tmp_path: Path, content: bytes) -> None:
    scan(models.write_model(tmp_path / "model.onnx", content))


def test_operators_are_counted_in_sub_graphs_too(tmp_path: Path) -> None:
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["x"], ["z"])],
        "inner",
        [],
        [models.tensor("z", DataType.FP32, (1,))],
    )
    model = models.build(
        [
            onnx.helper.make_node("Neg", ["x"], ["a"]),
            onnx.helper.make_node("Abs", ["a"], ["b"]),
            onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        ],
        [models.tensor("x", DataType.FP32, (1,)), models.tensor("c", DataType.BOOL, ())],
        [models.tensor("y", DataType.FP32, (1,)), models.tensor("b", DataType.FP32, (1,))],
    )
    path = models.write_model(tmp_path / "model.onnx", model)
    assert count_operators(path, {"Neg"}) == 3
    assert count_operators(path, {"Neg", "Abs"}) == 4
    assert count_operators(path, {"Ne", "Negs"}) == 0
    assert count_operators(tmp_path / "nothing.onnx", {"Neg"}) == 0


def test_weights_in_other_files_are_noticed(tmp_path: Path) -> None:
    entry = models.external()
    models.write_repository(tmp_path, {"m": entry})
    assert has_external_data(tmp_path / "m" / "1" / "model.onnx")
    inside = models.write_model(tmp_path / "model.onnx", models.slow())
    assert not has_external_data(inside)


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
