"""The stock Triton clients, HTTP and gRPC, synchronous and asyncio, against a real server.

The protocol's conformance checklist but for datatypes (test_datatypes.py, test_bytes.py), the forms
of REST bodies (test_rest_bodies.py) and refusals (test_errors.py).
"""

from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
import pytest
import stoker
import tritonclient.grpc as triton_grpc  # type: ignore[import-untyped]  # ships no types
import tritonclient.http as triton_http  # type: ignore[import-untyped]  # ships no types
from google.protobuf import json_format
from stoker.app import DEMO
from stoker.protocol.model_config_pb2 import ModelConfig
from stoker.tensor import Array, DataType

from tests.conftest import PATIENCE, Endpoints, Serving
from tests.models import (
    SIMPLE_CONFIG,
    ModelEntry,
    double,
    identity,
    simple,
    write_model,
    write_repository,
)
from tests.triton_client import CLIENTS, PROTOCOLS, Given, Refused, TritonClient

DURATIONS: Final = {
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
}


@pytest.fixture(scope="module")
def at(serve_module: Serving) -> Endpoints:
    return serve_module(DEMO).at


@pytest.fixture(params=CLIENTS)
def client(at: Endpoints, request: pytest.FixtureRequest) -> TritonClient:
    return TritonClient(request.param, at)


def sixteen(first: int = 0, rows: int = 1) -> Array:
    return (np.arange(rows * 16, dtype=np.int32) + first).reshape(rows, 16)


def operands(rows: int = 1, first: int = 0, *, is_binary: bool = True) -> dict[str, Given]:
    """INPUT0 and INPUT1 of `simple`."""
    return {
        "INPUT0": Given(sixteen(first, rows), DataType.INT32, is_binary),
        "INPUT1": Given(sixteen(1, rows), DataType.INT32, is_binary),
    }


def test_a_fresh_server_is_live_and_ready(client: TritonClient) -> None:
    assert client.call("is_server_live") is True
    assert client.call("is_server_ready") is True
    for model in ("simple", "digits", "echo"):
        assert client.call("is_model_ready", model) is True
    assert client.call("is_model_ready", "simple", "1") is True
    assert client.call("is_model_ready", "nope") is False
    assert client.call("is_model_ready", "simple", "7") is False


def test_the_server_names_what_it_serves(client: TritonClient) -> None:
    metadata = client.call("get_server_metadata")
    assert (metadata["name"], metadata["version"]) == ("stoker", stoker.__version__)
    assert metadata["extensions"] == [
        "schedule_policy",
        "model_configuration",
        "binary_tensor_data",
        "parameters",
        "statistics",
    ]


def test_metadata_have_the_batch_dimension_in_front(client: TritonClient) -> None:
    metadata = client.call("get_model_metadata", "simple")
    assert (metadata["name"], metadata["versions"]) == ("simple", ["1"])
    assert metadata["platform"] == "onnxruntime_onnx"
    for side, names in (
        ("inputs", ["INPUT0", "INPUT1"]),
        ("outputs", ["OUTPUT0", "OUTPUT1"]),
    ):
        assert [each["name"] for each in metadata[side]] == names
        for each in metadata[side]:
            assert each["datatype"] == "INT32"
            assert [int(size) for size in each["shape"]] == [-1, 16]


def test_the_configuration_is_the_completed_one(client: TritonClient) -> None:
    answer = client.call("get_model_config", "simple")
    config = answer if client.is_http else answer["config"]
    assert (config["name"], config["backend"]) == ("simple", "onnxruntime")
    assert (config["max_batch_size"], config["default_model_filename"]) == (8, "model.onnx")
    assert config["version_policy"] == {"latest": {"num_versions": 1}}
    assert config["dynamic_batching"]["preferred_batch_size"] == [8]
    assert config["instance_group"][0]["kind"] == "KIND_CPU"
    assert [each["data_type"] for each in config["input"]] == ["TYPE_INT32"] * 2


def test_both_protocols_show_the_same_configuration(at: Endpoints) -> None:
    for model in ("digits", "echo", "simple"):
        by_rest = TritonClient("http", at).call("get_model_config", model)
        by_grpc = TritonClient("grpc", at).call("get_model_config", model)["config"]
        assert (
            json_format.ParseDict(by_rest, ModelConfig()).SerializeToString()
            == json_format.ParseDict(by_grpc, ModelConfig()).SerializeToString()
        )


def test_many_calls_of_one_client_are_under_way_at_once(at: Endpoints) -> None:
    """`async_infer` of the synchronous clients: answers by handle over HTTP, by call-back over
    gRPC."""
    inputs: dict[Any, list[Any]] = {module: [] for module in (triton_http, triton_grpc)}
    for module, given in inputs.items():
        for name, each in operands(3).items():
            tensor = module.InferInput(name, [3, 16], "INT32")
            given.append(tensor.set_data_from_numpy(each.array))
    answers: list[Any] = []
    with triton_http.InferenceServerClient(at.http, concurrency=8) as client:
        handles = [
            client.async_infer("simple", inputs[triton_http], request_id=str(number))
            for number in range(40)
        ]
        answers += [handle.get_result() for handle in handles]
    done: SimpleQueue[Any] = SimpleQueue()
    with triton_grpc.InferenceServerClient(at.grpc) as client:
        for number in range(40):
            client.async_infer(
                "simple",
                inputs[triton_grpc],
                callback=lambda result, error: done.put(error or result),
                request_id=str(number),
            )
        answers += [done.get(timeout=PATIENCE) for _ in range(40)]
    for answer in answers:
        assert np.array_equal(answer.as_numpy("OUTPUT0"), sixteen(0, 3) + sixteen(1, 3))
    ids = [answer.get_response()["id"] for answer in answers[:40]]
    assert ids == [str(number) for number in range(40)]
    assert sorted(int(answer.get_response().id) for answer in answers[40:]) == list(range(40))


def test_the_index_lists_every_model_with_its_state(client: TritonClient) -> None:
    answer = client.call("get_model_repository_index")
    models = answer if client.is_http else answer["models"]
    assert models == [
        {"name": name, "version": "1", "state": "READY"} for name in ("digits", "echo", "simple")
    ]


def test_sum_and_difference_are_right_for_one_row_and_a_full_batch(client: TritonClient) -> None:
    for rows in (1, 8):
        given = operands(rows, first=5)
        answer = client.infer("simple", given)
        assert (answer.model, answer.version, answer.id) == ("simple", "1", "")
        left, right = (each.array for each in given.values())
        assert list(answer.outputs) == ["OUTPUT0", "OUTPUT1"]
        assert np.array_equal(answer.outputs["OUTPUT0"], left + right)
        assert np.array_equal(answer.outputs["OUTPUT1"], left - right)


@pytest.mark.parametrize(
    "names", [["OUTPUT0"], ["OUTPUT1"], ["OUTPUT0", "OUTPUT1"], ["OUTPUT1", "OUTPUT0"]]
)
def test_exactly_the_outputs_that_are_asked_for_come_in_that_order(
    client: TritonClient, names: list[str]
) -> None:
    given = operands()
    left, right = (each.array for each in given.values())
    expected = {"OUTPUT0": left + right, "OUTPUT1": left - right}
    answer = client.infer("simple", given, names)
    assert list(answer.outputs) == names
    for name in names:
        assert np.array_equal(answer.outputs[name], expected[name])


def test_an_unknown_output_is_refused(client: TritonClient) -> None:
    with pytest.raises(Refused, match="out of OUTPUT0, OUTPUT1, got 'OUTPUT2'"):
        client.infer("simple", operands(), ["OUTPUT0", "OUTPUT2"])


def test_an_id_is_echoed_and_absent_when_there_is_none(client: TritonClient) -> None:
    assert client.infer("simple", operands(), request_id="é-7").id == "é-7"
    assert client.infer("simple", operands()).id == ""


def test_custom_parameters_of_every_type_are_taken(client: TritonClient) -> None:
    parameters = {"text": "a", "switch": True, "number": -7, "real": 0.5}
    answer = client.infer("simple", operands(), parameters=parameters, priority=2, timeout=10**9)
    assert list(answer.outputs) == ["OUTPUT0", "OUTPUT1"]


def test_sequence_parameters_are_ignored_by_a_model_without_sequences(
    client: TritonClient,
) -> None:
    for sequence_id in (2**63 - 1, "a"):
        answer = client.infer(
            "simple", operands(), sequence_id=sequence_id, sequence_start=True, sequence_end=True
        )
        assert answer.id == ""


def test_an_unknown_model_is_named_in_every_refusal(client: TritonClient) -> None:
    for call in (
        lambda: client.infer("nope", operands()),
        lambda: client.call("get_model_metadata", "nope"),
        lambda: client.call("get_model_config", "nope"),
        lambda: client.call("get_inference_statistics", "nope"),
        lambda: client.infer("simple", operands(), model_version="7"),
    ):
        with pytest.raises(Refused) as refused:
            call()
        assert refused.value.message().startswith("Request for unknown model")
        assert refused.value.status() in ("404", "StatusCode.NOT_FOUND")


@pytest.mark.parametrize("kind", CLIENTS)
def test_what_is_not_served_yet_says_so(at: Endpoints, kind: str) -> None:
    client = TritonClient(kind, at)
    for method, arguments in (
        ("load_model", ["simple"]),
        ("unload_model", ["simple"]),
        ("get_system_shared_memory_status", []),
        ("get_cuda_shared_memory_status", []),
        ("get_trace_settings", []),
        ("get_log_settings", []),
    ):
        with pytest.raises(Refused, match="does not serve it") as refused:
            client.call(method, *arguments)
        assert refused.value.status() in ("501", "StatusCode.UNIMPLEMENTED")


@pytest.mark.parametrize("kind", CLIENTS)
def test_each_version_answers_for_itself_and_the_highest_by_default(
    serve: Serving, tmp_path: Path, kind: str
) -> None:
    repository = write_repository(
        tmp_path, {"m": ModelEntry(identity(), "version_policy { all {} }", versions=(1, 3))}
    )
    write_model(repository / "m" / "10" / "model.onnx", double())
    client = TritonClient(kind, serve(repository).at)
    assert client.call("get_model_metadata", "m")["versions"] == ["1", "3", "10"]
    assert client.call("get_model_metadata", "m", "3")["versions"] == ["3"]
    row = {"x": Given(np.ones((1, 4), np.float32), DataType.FP32)}
    for asked, used, expected in (("", "10", 2), ("1", "1", 1), ("3", "3", 1), ("10", "10", 2)):
        answer = client.infer("m", row, model_version=asked)
        assert (answer.version, answer.outputs["y"][0, 0]) == (used, expected)


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_a_request_over_the_largest_batch_is_split_and_answered_as_one(
    serve: Serving, tmp_path: Path, kind: str
) -> None:
    at = serve(write_repository(tmp_path, {"m": double()})).at
    client = TritonClient(kind, at)
    rows = np.arange(40, dtype=np.float32).reshape(10, 4)
    answer = client.infer("m", {"x": Given(rows, DataType.FP32)})
    assert np.array_equal(answer.outputs["y"], rows * 2)
    (counted,) = client.call("get_inference_statistics", "m")["model_stats"]
    assert int(counted["inference_stats"]["success"]["count"]) == 1
    assert int(counted["inference_count"]) == 10
    assert at.metric("nv_inference_request_success", model="m") == 1


@pytest.mark.parametrize("kind", CLIENTS)
def test_statistics_count_what_was_asked_and_agree_with_the_metrics(
    serve: Serving, tmp_path: Path, kind: str
) -> None:
    repository = write_repository(
        tmp_path, {"simple": ModelEntry(simple(), SIMPLE_CONFIG), "idle": double()}
    )
    at = serve(repository).at
    client = TritonClient(kind, at)
    for rows in (1, 3, 3):
        client.infer("simple", operands(rows))
    with pytest.raises(Refused):
        client.infer("simple", {"INPUT0": operands()["INPUT0"]})

    (counted,) = client.call("get_inference_statistics", "simple")["model_stats"]
    everything = client.call("get_inference_statistics")["model_stats"]

    assert [each["name"] for each in everything] == ["idle", "simple"]
    assert (counted["name"], counted["version"]) == ("simple", "1")
    assert int(counted["inference_count"]) == 7
    assert int(counted["execution_count"]) == 3
    assert int(counted["last_inference"]) > 1_700_000_000_000
    durations = counted["inference_stats"]
    assert set(durations) == DURATIONS
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert int(durations[name]["count"]) == 3, name
    assert int(durations["success"]["ns"]) >= int(durations["compute_infer"]["ns"]) > 0
    batches = {int(each["batch_size"]): each for each in counted["batch_stats"]}
    assert {size: int(each["compute_infer"]["count"]) for size, each in batches.items()} == {
        1: 1,
        3: 2,
    }
    for metric, value in (
        ("nv_inference_request_success", 3),
        ("nv_inference_count", 7),
        ("nv_inference_exec_count", 3),
        ("nv_inference_request_duration_us", int(durations["success"]["ns"]) // 1000),
        ("nv_inference_compute_infer_duration_us", int(durations["compute_infer"]["ns"]) // 1000),
    ):
        assert at.metric(metric, model="simple", version="1") == pytest.approx(value, abs=1), metric
