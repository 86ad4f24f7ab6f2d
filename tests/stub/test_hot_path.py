"""Fixed bindings and CUDA graphs on the real CUDA provider, whose device copies and no more.

The order of what ONNX Runtime and the hot path ask of CUDA is the real one; times are not.
"""

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.calls import GrpcClient, RestClient
from tests.conftest import PATIENCE, run_stoker
from tests.models import ModelEntry, write_repository
from tests.stub import stub_models
from tests.stub.libraries import ONE_GPU, Libraries, ask

WITHOUT_CUDNN = {"enable_cudnn": "0"}


@pytest.fixture
def environment(libraries: Libraries, tmp_path: Path) -> dict[str, str]:
    return {
        **libraries.preloaded(runtime=True),
        **ONE_GPU,
        "STUB_CUDA_CALLS": str(tmp_path / "calls"),
        "STUB_CUDA_GRAPHS": "1",
    }


def told(environment: dict[str, str], **request: object) -> dict[str, Any]:
    request = {"parameters": WITHOUT_CUDNN, **request}
    (answer,) = ask("hot_path_probe", [request], environment)
    assert "error" not in answer, answer
    return answer


def test_a_run_is_one_sequence_in_the_sessions_own_stream(environment: dict[str, str]) -> None:
    found = told(environment, rows=[3, 3, 8])
    assert found["stream"] > 0
    assert found["equal"] == [True, True, True]
    # 3 rows of 16 bytes in a bucket of 4; the middle copy is the model's. Only the end waits.
    assert found["calls"][1] == [
        "copy_in 48",
        "clear 16",
        "copy 64",
        "copy_out 48",
        "event_synchronize 0",
    ]
    assert found["calls"][2] == ["copy_in 128", "copy 128", "copy_out 128", "event_synchronize 0"]


def test_a_closed_session_waits_for_its_stream_and_unlocks_its_memory(
    environment: dict[str, str],
) -> None:
    closed = told(environment, rows=[3])["closed"]
    assert closed == ["stream_synchronize 0", "host_unregister 0", "host_unregister 0"]


def test_a_captured_graph_is_launched_in_the_place_of_the_models_nodes(
    environment: dict[str, str],
) -> None:
    found = told(environment, cuda_graphs=True, captures=True, rows=[3, 8])
    assert (found["graphs"], found["graph"]) == ("on", None)
    assert found["equal"] == [True, True]
    assert found["calls"][0] == [
        "copy_in 48",
        "clear 16",
        "graph_launch 1",
        "copy_out 48",
        "event_synchronize 0",
    ]


def test_buckets_are_captured_once_each_the_largest_first(environment: dict[str, str]) -> None:
    found = told(environment, cuda_graphs=True, prepares=True)
    assert found["graphs"] == "on"
    prepared = found["prepared"]
    begun = [at for at, call in enumerate(prepared) if call == "begin_capture 0"]
    copied = [prepared[:at][::-1] for at in begun]
    sizes = [next(call for call in before if call.startswith("copy_in")) for before in copied]
    assert sizes == ["copy_in 128", "copy_in 64", "copy_in 16"]
    # Twice without a graph, then captured: what ONNX Runtime does in the first run of a graph id.
    assert prepared[begun[0] - 3 : begun[0]] == ["copy 128", "copy 128", "stream_synchronize 0"]


def test_a_replay_that_is_wrong_ends_graphs_for_the_model(environment: dict[str, str]) -> None:
    environment["STUB_CUDA_GRAPHS"] = "2"
    found = told(environment, cuda_graphs=True, prepares=True, rows=[3])
    assert found["graphs"].startswith("not used: output 'y' of a replay differs from a run without")
    assert found["equal"] == [True]


def test_a_device_that_captures_nothing_ends_graphs_for_the_model(
    environment: dict[str, str],
) -> None:
    environment["STUB_CUDA_GRAPHS"] = "0"
    found = told(environment, cuda_graphs=True, prepares=True, rows=[3])
    assert found["graphs"].startswith("not used: the graph of 8 rows could not be captured:")
    assert "CUDA failure 900" in found["graphs"]
    assert found["equal"] == [True]


def test_a_model_that_computes_in_part_on_the_cpu_has_no_graphs(
    environment: dict[str, str],
) -> None:
    found = told(environment, cuda_graphs=True, model="partly")
    assert found["graphs"] == (
        "not used: Unique compute on the CPU, and a graph holds only what runs on the GPU"
    )


def test_a_model_excepts_itself_from_graphs(environment: dict[str, str]) -> None:
    parameters = {**WITHOUT_CUDNN, "cuda_graphs": "off"}
    assert told(environment, cuda_graphs=True, parameters=parameters)["graphs"] == "off"


CONFIG = """
max_batch_size: 8
dynamic_batching { }
instance_group [ { kind: KIND_GPU count: 2 } ]
parameters { key: "enable_cudnn" value { string_value: "0" } }
"""


def test_a_server_with_two_instances_and_graphs_gives_clients_their_own_rows(
    environment: dict[str, str], tmp_path: Path
) -> None:
    calls = Path(environment["STUB_CUDA_CALLS"])
    entry = ModelEntry(stub_models.passed(), CONFIG)
    folder = str(write_repository(tmp_path / "models", {"m": entry}))
    with run_stoker("--cuda-graphs", "true", folder, environment=environment) as server:
        with urllib.request.urlopen(f"{server.at.url}/v2/models/m", timeout=PATIENCE) as told:
            devices = json.load(told)["stoker_devices"]
        assert [each["cuda_graphs"] for each in devices] == ["on", "on"]
        assert calls.read_text().count("begin_capture") == 2 * len(("1", "2", "4", "8"))
        calls.unlink()
        with RestClient(server.at) as rest, GrpcClient(server.at) as grpc:
            sent = [
                ((rest, grpc)[number % 2], np.full((1 + number % 4, 4), number, np.float32))
                for number in range(40)
            ]
            pending = [client.send("m", {"x": given}) for client, given in sent]
            for call, (_, given) in zip(pending, sent, strict=True):
                np.testing.assert_array_equal(call.answer().output(), given)
        made = calls.read_text().splitlines()
        runs = server.at.metric("nv_inference_exec_count", model="m")
        assert made.count("graph_launch 1") == runs
        assert made.count("event_synchronize 0") == runs
        server.terminate()
        assert server.wait() == 0
