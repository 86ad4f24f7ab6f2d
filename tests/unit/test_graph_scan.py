"""What the file itself declares, read without any ONNX library."""

from pathlib import Path

import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stoker.runtime.graph_scan import Declaration, scan
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
