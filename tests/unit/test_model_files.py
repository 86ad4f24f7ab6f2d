"""The digest of a model is that of all its bytes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from stoker.runtime.external_data import external_locations
from stoker.runtime.model_files import digest, model_files

from tests import models


def written(folder: Path, location: str = "weights.bin") -> Path:
    path = models.write_model(folder / "model.onnx", models.external(location))
    (folder / location).write_bytes(models.EXTERNAL_WEIGHTS)
    return path


def outside(name: str) -> onnx.TensorProto:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", name
    return tensor


def test_a_models_files_are_the_onnx_file_and_its_external_data(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert model_files(path) == (path, tmp_path / "weights.bin")


def test_the_same_bytes_elsewhere_have_the_same_digest(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert digest(written(one)) == digest(written(other))


@pytest.mark.parametrize("changed", ["model.onnx", "weights.bin"])
def test_any_other_byte_gives_another_digest(tmp_path: Path, changed: str) -> None:
    path = written(tmp_path)
    before = digest(path)
    file = tmp_path / changed
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert digest(path) != before


def test_external_data_are_found_in_attributes_inner_graphs_sparse_tensors_and_functions(
    tmp_path: Path,
) -> None:
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=outside("attribute"))],
        "inner",
        [],
        [],
        [outside("inner")],
    )
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    function = helper.make_function(
        "local",
        "F",
        [],
        ["c"],
        [helper.make_node("Constant", [], ["c"], value=outside("function"))],
        [helper.make_opsetid("", 21)],
    )
    graph = helper.make_graph([node], "graph", [], [], [outside("top")])
    sparse = graph.sparse_initializer.add()
    sparse.values.CopyFrom(outside("sparse"))
    model = helper.make_model(graph, functions=[function])
    path = models.write_model(tmp_path / "model.onnx", model)
    assert external_locations(path) == {"attribute", "inner", "function", "top", "sparse"}


def test_a_model_without_external_data_names_none(tmp_path: Path) -> None:
    path = models.write_model(tmp_path / "model.onnx", models.mlp())
    assert external_locations(path) == frozenset()
    assert external_locations(tmp_path / "none.onnx") == frozenset()


def test_a_digest_stops_when_told(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        digest(written(tmp_path), proceed=lambda: False)


def test_a_large_file_is_read_in_blocks(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.zeros(3 << 20, np.uint8).tobytes())
    answers = iter([True] * 4)  # the model, and three blocks of weights
    digest(path, proceed=lambda: next(answers))
    assert next(answers, None) is None
