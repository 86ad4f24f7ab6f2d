"""What the file itself declares, read without any ONNX library."""

from pathlib import Path

import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stoker.runtime.graph_scan import Declaration, count_operators, has_external_data, scan
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
