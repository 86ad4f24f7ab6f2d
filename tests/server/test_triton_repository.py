"""A Triton repository with `config.pbtxt` files as people write them, served to stock clients.

One repository, every file in its own style: lists and blocks, comments, commas, semicolons, what is
left to be completed and what is not.
"""

from typing import Any, Final

import numpy as np
import pytest
from onnx import helper
from stoker.tensor import Array, DataType

from tests.conftest import Endpoints, Serving
from tests.models import (
    EXTERNAL_WEIGHTS,
    SIMPLE_CONFIG,
    ModelEntry,
    build,
    conv,
    double,
    external,
    identity,
    label,
    mlp,
    overridable,
    simple,
    string_concat,
    tensor,
    write_model,
    write_repository,
)
from tests.triton_client import PROTOCOLS, Given, Refused, TritonClient

DELAYED: Final = """\
# gathers for a millisecond
backend: "onnxruntime"
max_batch_size : 16
input { name: "x" data_type: TYPE_FP32 dims: 4 }
output { name: "y" data_type: TYPE_FP32 dims: 4 }
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 1000
  priority_levels: 2, default_priority_level: 2
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 5000000
                         allow_timeout_override: true max_queue_size: 64 }
  priority_queue_policy [ { key: 1 value: { max_queue_size: 8 } } ]
}
instance_group [ { kind: KIND_CPU count: 2 } ]
"""

RESHAPED: Final = """\
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 192 ]
          reshape { shape: [ 3, 8, 8 ] } } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1, 4 ] reshape { shape: [ 4 ] } } ]
"""

DENSENET: Final = """\
name: "densenet_onnx"
platform: "onnxruntime_onnx"
max_batch_size : 0
input [
  {
    name: "x"
    data_type: TYPE_FP32
    format: FORMAT_NCHW
    dims: [ 3, 8, 8 ]
    reshape { shape: [ 1, 3, 8, 8 ] }
  }
]
output [
  {
    name: "y"
    data_type: TYPE_FP32
    dims: [ 192 ]
    reshape { shape: [ 1, 3, 8, 8 ] }
    label_filename: "labels.txt"
  }
]
"""

WARMED: Final = """\
max_batch_size: 4
input [ { name: "x", data_type: TYPE_FP32, dims: [ 4 ] } ]
output [ { name: "y", data_type: TYPE_FP32, dims: [ 3 ] } ]
dynamic_batching { },
model_warmup [
  { name: "zeros" batch_size: 1
    inputs: { key: "x" value: { data_type: TYPE_FP32 dims: 4 zero_data: true } } },
  { name: "noise" batch_size: 4 count: 3
    inputs: { key: "x" value: { data_type: TYPE_FP32 dims: 4 random_data: true } } },
  { name: "file" batch_size: 2
    inputs: { key: "x" value: { data_type: TYPE_FP32 dims: 4 input_data_file: "row" } } }
]
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
parameters [ { key: "execution_mode", value: { string_value: "0" } } ]
optimization { graph { level: 1 } }
metric_tags { key: "team" value: "search" }
"""

OPTIONAL: Final = """\
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] },
        { name: "scale" data_type: TYPE_FP32 dims: [ 4 ] optional: true } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]
"""

PARTIAL: Final = """\
max_batch_size: 32
output [ { name: "label" data_type: TYPE_INT64 dims: [ 1 ] } ]
"""

TEXT: Final = """\
max_batch_size: 8;
input { name: "a"; data_type: TYPE_STRING; dims: [ 1 ] };
input { name: "b"; data_type: TYPE_STRING; dims: [ 1 ] };
output [ { name: "y" data_type: TYPE_STRING dims: [ 1 ] } ];
instance_group [ { count: 1 kind: KIND_AUTO } ];
"""


def scalar_times_row() -> Any:
    """FP32 x [batch] -> y [batch] = 2x: a row without dimensions."""
    return build(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [tensor("x", DataType.FP32, ["batch"])],
        [tensor("y", DataType.FP32, ["batch"])],
    )


@pytest.fixture(scope="module")
def at(serve_module: Serving, tmp_path_factory: pytest.TempPathFactory) -> Endpoints:
    folder = tmp_path_factory.mktemp("triton")
    write_repository(
        folder,
        {
            "simple": ModelEntry(simple(), SIMPLE_CONFIG),
            "delayed": ModelEntry(double(), DELAYED),
            "reshaped": ModelEntry(conv(), RESHAPED),
            "densenet_onnx": ModelEntry(
                double((1, 3, 8, 8)), DENSENET, files={"labels.txt": b"a\nb\n"}
            ),
            "warmed": ModelEntry(
                mlp(), WARMED, files={"warmup/row": np.arange(4, dtype="<f4").tobytes()}
            ),
            "optional": ModelEntry(overridable(), OPTIONAL),
            "partial": ModelEntry(label(), PARTIAL),
            "text": ModelEntry(string_concat(), TEXT),
            "renamed": ModelEntry(
                double(),
                'default_model_filename: "weights-7.onnx"\n'
                "version_policy: { latest { num_versions: 2 }}",
                versions=(1, 2, 3, 12),
                filename="weights-7.onnx",
            ),
            "chosen": ModelEntry(
                identity(), "version_policy { specific { versions: [ 1, 3 ] } }", versions=(1, 2, 3)
            ),
            "weights": ModelEntry(
                external(), "max_batch_size: 2", files={"1/weights.bin": EXTERNAL_WEIGHTS}
            ),
            "row_of_one": ModelEntry(scalar_times_row(), "max_batch_size: 4"),
            "no_config": double(),
        },
    )
    write_model(folder / "folder_model" / "1" / "model.onnx" / "model.onnx", double())
    (folder / "README.md").write_text("not a model")
    (folder / "simple" / "configs").mkdir()
    return serve_module(folder).at


@pytest.fixture(params=PROTOCOLS)
def client(at: Endpoints, request: pytest.FixtureRequest) -> TritonClient:
    return TritonClient(request.param, at)


def given(array: Array) -> dict[str, Given]:
    return {"x": Given(array, DataType.FP32)}


def config(client: TritonClient, model: str) -> Any:
    answer = client.call("get_model_config", model)
    return answer if client.is_http else answer["config"]


def shapes(client: TritonClient, model: str) -> list[list[int]]:
    """Of all inputs and outputs as the metadata tell them."""
    metadata = client.call("get_model_metadata", model)
    return [
        [int(size) for size in each["shape"]] for each in metadata["inputs"] + metadata["outputs"]
    ]


ROWS: Final = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_every_model_is_ready_in_the_versions_that_its_policy_chooses(
    client: TritonClient,
) -> None:
    answer = client.call("get_model_repository_index")
    models = answer if client.is_http else answer["models"]
    versions: dict[str, list[str]] = {}
    for each in models:
        assert each["state"] == "READY", each
        versions.setdefault(each["name"], []).append(each["version"])
    assert versions.pop("renamed") == ["3", "12"]
    assert versions.pop("chosen") == ["1", "3"]
    assert len(versions) == 12
    assert all(each == ["1"] for each in versions.values()), versions
    assert client.call("is_server_ready") is True


def test_versions_outside_of_the_policy_are_unknown(client: TritonClient) -> None:
    assert client.infer("renamed", given(ROWS)).version == "12"
    assert client.infer("renamed", given(ROWS), model_version="3").version == "3"
    for model, version in (("renamed", "2"), ("chosen", "2")):
        with pytest.raises(Refused, match="Request for unknown model"):
            client.infer(model, given(ROWS), model_version=version)


def test_dynamic_batching_is_shown_as_it_was_written(client: TritonClient) -> None:
    shown = config(client, "delayed")
    batching = shown["dynamic_batching"]
    assert (shown["max_batch_size"], batching["preferred_batch_size"]) == (16, [4, 8])
    assert int(batching["max_queue_delay_microseconds"]) == 1000
    assert int(batching["priority_levels"]) == 2
    assert int(batching["default_queue_policy"]["default_timeout_microseconds"]) == 5_000_000
    assert batching["priority_queue_policy"]["1"]["max_queue_size"] == 8
    assert shown["instance_group"][0]["count"] == 2
    for priority in (0, 1, 2, 9):
        answer = client.infer("delayed", given(ROWS), priority=priority)
        assert np.array_equal(answer.outputs["y"], ROWS * 2)


def test_clients_see_dims_and_the_model_its_reshape(client: TritonClient) -> None:
    assert shapes(client, "reshaped") == [[-1, 192], [-1, 1, 4]]
    assert shapes(client, "densenet_onnx") == [[3, 8, 8], [192]]
    image = np.random.default_rng(1).standard_normal((3, 8, 8)).astype(np.float32)
    rows = np.stack([image.reshape(192)] * 2)
    batched = client.infer("reshaped", given(rows)).outputs["y"]
    assert batched.shape == (2, 1, 4)
    assert np.array_equal(batched[0], batched[1])
    doubled = client.infer("densenet_onnx", given(image)).outputs["y"]
    assert np.array_equal(doubled, image.reshape(192) * 2)


def test_warm_up_runs_are_in_no_statistics(client: TritonClient, at: Endpoints) -> None:
    assert len(config(client, "warmed")["model_warmup"]) == 3
    before = at.metric("nv_inference_count", model="warmed")
    assert client.infer("warmed", given(ROWS)).outputs["y"].shape == (2, 3)
    assert at.metric("nv_inference_count", model="warmed") == before + 2
    assert before in (0, 2)  # of this very test by the other protocol


def test_metric_tags_become_labels(at: Endpoints) -> None:
    assert at.metric("nv_model_load_duration_secs", model="warmed", _team="search") > 0


def test_an_optional_input_may_be_left_out(client: TritonClient) -> None:
    assert np.array_equal(client.infer("optional", given(ROWS)).outputs["y"], ROWS * 3)
    scaled = {**given(ROWS), "scale": Given(np.full(4, 5, np.float32), DataType.FP32)}
    assert np.array_equal(client.infer("optional", scaled).outputs["y"], ROWS * 5)


def test_what_a_file_leaves_out_is_completed_from_the_model(client: TritonClient) -> None:
    shown = config(client, "partial")
    (scores,) = shown["input"]
    assert (scores["name"], scores["data_type"]) == ("scores", "TYPE_FP32")
    assert [int(size) for size in scores["dims"]] == [5]
    assert shown["dynamic_batching"]["preferred_batch_size"] == [32]
    table = {"scores": Given(np.eye(5, dtype=np.float32)[[3, 0]], DataType.FP32)}
    assert client.infer("partial", table).outputs["label"].tolist() == [[3], [0]]


def test_complete_inputs_and_outputs_are_left_alone(client: TritonClient) -> None:
    shown = config(client, "optional")
    assert shown.get("max_batch_size", 0) == 0
    assert "dynamic_batching" not in shown
    assert shapes(client, "optional") == [[-1, 4], [4], [-1, 4]]


def test_texts_are_joined(client: TritonClient) -> None:
    texts = {
        "a": Given(np.array([["é"], [""]], object), DataType.BYTES),
        "b": Given(np.array([["x"], ["y"]], object), DataType.BYTES),
    }
    assert client.infer("text", texts).outputs["y"].tolist() == [["éx".encode()], [b"y"]]


@pytest.mark.parametrize("model", ["no_config", "folder_model"])
def test_a_model_without_configuration_gets_tritons_defaults(
    client: TritonClient, model: str
) -> None:
    shown = config(client, model)
    assert shown["max_batch_size"] == 4
    assert shown["dynamic_batching"]["preferred_batch_size"] == [4]
    assert np.array_equal(client.infer(model, given(ROWS)).outputs["y"], ROWS * 2)


def test_weights_beside_the_model_are_found(client: TritonClient) -> None:
    added = np.frombuffer(EXTERNAL_WEIGHTS, np.float32)
    assert np.array_equal(client.infer("weights", given(ROWS)).outputs["y"], ROWS + added)


def test_a_row_without_dimensions_has_one(client: TritonClient) -> None:
    assert shapes(client, "row_of_one") == [[-1, 1], [-1, 1]]
    column = np.arange(3, dtype=np.float32).reshape(3, 1)
    assert np.array_equal(client.infer("row_of_one", given(column)).outputs["y"], column * 2)
