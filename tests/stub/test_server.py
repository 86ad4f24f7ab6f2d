"""`stoker serve --device gpu` as a process, on the real CUDA provider without a GPU."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from stoker.tensor import DataType

from tests.calls import GrpcClient, RestClient
from tests.conftest import PATIENCE, StokerProcess, run_stoker
from tests.models import ModelEntry, write_repository
from tests.stub import stub_models
from tests.stub.libraries import ONE_GPU, Libraries

CONFIG = """
parameters { key: "enable_cudnn" value { string_value: "0" } }
parameters { key: "batching_proof" value { string_value: "off" } }
"""


def repository(folder: Path, config: str = CONFIG) -> str:
    return str(write_repository(folder, {"m": ModelEntry(stub_models.relu(), config)}))


def test_a_model_on_a_gpu_is_ready_and_tells_where_it_runs(
    libraries: Libraries, tmp_path: Path
) -> None:
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU}
    with run_stoker("--device", "gpu", repository(tmp_path), environment=environment) as server:
        with urllib.request.urlopen(f"{server.at.url}/v2/models/m", timeout=PATIENCE) as answer:
            (device,) = json.load(answer)["stoker_devices"]
        assert (device["device"], device["provider"]) == ("cuda:0", "CUDAExecutionProvider")
        assert device["options"]["cudnn_conv_algo_search"] == "HEURISTIC"
        labels = {"model": "m", "device": "cuda:0", "provider": "CUDAExecutionProvider"}
        assert server.at.metric("stoker_model_info", **labels) == 1
        server.terminate()
        assert server.wait() == 0


def test_requests_are_batched_on_a_gpu_and_get_their_own_rows_back(
    libraries: Libraries, tmp_path: Path
) -> None:
    config = CONFIG.replace('"off"', '"on"') + "max_batch_size: 8"
    copies = ModelEntry(stub_models.copy_twice(DataType.FP32), config)
    source = str(write_repository(tmp_path, {"m": copies}))
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU}
    with run_stoker("--device", "gpu", source, environment=environment) as server:
        with RestClient(server.at) as rest, GrpcClient(server.at) as grpc:
            sent = [
                (np.full((1 + number % 3, 4), number, np.float32), (rest, grpc)[number % 2])
                for number in range(40)
            ]
            calls = [(client.send("m", {"x": rows}), rows) for rows, client in sent]
            for call, rows in calls:
                np.testing.assert_array_equal(call.answer().output(), rows)
        assert server.at.metric("nv_inference_count", model="m") == sum(
            len(rows) for rows, _ in sent
        )
        assert server.at.metric("stoker_model_info", model="m", device="cuda:0") == 1


def test_two_instances_on_a_gpu_are_two_sessions(libraries: Libraries, tmp_path: Path) -> None:
    config = CONFIG + "instance_group [ { kind: KIND_GPU count: 2 } ]"
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU}
    with run_stoker(repository(tmp_path, config), environment=environment) as server:
        with urllib.request.urlopen(f"{server.at.url}/v2/models/m", timeout=PATIENCE) as answer:
            devices = json.load(answer)["stoker_devices"]
        assert [each["device"] for each in devices] == ["cuda:0", "cuda:0"]


TWO_GPUS = {"STUB_CUDA_DEVICES": "2"}


def devices_of(server: StokerProcess, model: str) -> list[str]:
    with urllib.request.urlopen(f"{server.at.url}/v2/models/{model}", timeout=PATIENCE) as answer:
        return [each["device"] for each in json.load(answer)["stoker_devices"]]


def test_a_model_runs_on_each_of_two_gpus(libraries: Libraries, tmp_path: Path) -> None:
    copies = ModelEntry(stub_models.copy_twice(DataType.FP32), CONFIG)
    source = str(write_repository(tmp_path, {"m": copies}))
    environment = {**libraries.preloaded(runtime=True), **TWO_GPUS}
    with run_stoker(source, environment=environment) as server:
        assert devices_of(server, "m") == ["cuda:0", "cuda:1"]
        with RestClient(server.at) as client:
            sent = [np.full((1, 4), number, np.float32) for number in range(20)]
            for call, rows in [(client.send("m", {"x": rows}), rows) for rows in sent]:
                np.testing.assert_array_equal(call.answer().output(), rows)
        assert server.at.metric("stoker_model_info", model="m") == 2


def test_models_take_turns_on_two_gpus_beside_one_on_the_cpu(
    libraries: Libraries, tmp_path: Path
) -> None:
    relu = stub_models.relu()
    on_cpu = ModelEntry(relu, "instance_group [ { kind: KIND_CPU } ]")
    entries = {name: ModelEntry(relu, CONFIG) for name in ("a", "b")}
    source = str(write_repository(tmp_path, {**entries, "c": on_cpu}))
    environment = {**libraries.preloaded(runtime=True), **TWO_GPUS}
    with run_stoker("--gpu-placement", "round-robin", source, environment=environment) as server:
        placed = [devices_of(server, name) for name in ("a", "b")]
        assert sorted(placed) == [["cuda:0"], ["cuda:1"]]
        assert devices_of(server, "c") == ["cpu"]


@pytest.mark.parametrize(
    ("stub", "sentence"),
    [
        ({}, "the driver sees no GPU; give the container one"),
        ({**ONE_GPU, "STUB_CUDA_DRIVER_VERSION": "12040"}, "install a driver of branch R580"),
        ({**ONE_GPU, "STUB_CUDA_CAPABILITY": "10.0"}, "has compute capability 10.0, and onnx"),
    ],
)
def test_a_required_gpu_that_cannot_be_used_ends_the_server_that_shall_end(
    libraries: Libraries, tmp_path: Path, stub: dict[str, str], sentence: str
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "stoker", "serve", "--device", "gpu", "--exit-on-error"),
            *("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"),
            *("--host", "127.0.0.1", repository(tmp_path)),
        ],
        env={**os.environ, **libraries.preloaded(runtime=True), **stub},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout == ""
    assert sentence in done.stderr


def test_a_model_with_a_misspelt_option_is_refused_by_name(
    libraries: Libraries, tmp_path: Path
) -> None:
    config = """optimization { execution_accelerators { gpu_execution_accelerator [ {
      name: "cuda" parameters { key: "use_tf_32" value: "0" } } ] } }"""
    done = subprocess.run(
        [*(sys.executable, "-m", "stoker", "check"), repository(tmp_path, config)],
        env={**os.environ, **libraries.preloaded(runtime=True), **ONE_GPU},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "no such option; did you mean 'use_tf32'?" in done.stdout
