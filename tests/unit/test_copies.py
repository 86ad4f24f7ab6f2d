"""Which models have the copies in their graph counted, and what a written graph tells."""

import os
from pathlib import Path

import onnx
from stoker.runtime.copies import LARGEST_BYTES, count, may_count
from stoker.tensor import DataType

from tests import models


def test_copies_in_a_written_graph_are_counted(tmp_path: Path) -> None:
    names = ["MemcpyToHost", "Unique", "MemcpyFromHost", "Relu", "MemcpyFromHost"]
    nodes = [onnx.helper.make_node(name, ["x"], [f"y{i}"]) for i, name in enumerate(names)]
    outputs = [models.tensor(f"y{i}", DataType.FP32, (1,)) for i in range(len(names))]
    model = models.build(nodes, [models.tensor("x", DataType.FP32, (1,))], outputs)
    assert count(models.write_model(tmp_path / "graph.onnx", model)) == 3
    assert count(models.write_model(tmp_path / "plain.onnx", models.double())) == 0


def test_a_graph_that_was_not_written_has_no_count(tmp_path: Path) -> None:
    assert count(tmp_path / "graph.onnx") is None


def test_large_models_and_those_with_weights_elsewhere_are_not_written(tmp_path: Path) -> None:
    small = models.write_model(tmp_path / "model.onnx", models.double())
    assert may_count(small)
    large = tmp_path / "large.onnx"
    large.write_bytes(b"")
    os.truncate(large, LARGEST_BYTES + 1)
    assert not may_count(large)
    models.write_repository(tmp_path, {"m": models.external()})
    assert not may_count(tmp_path / "m" / "1" / "model.onnx")
