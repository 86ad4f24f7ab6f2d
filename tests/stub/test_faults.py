"""A GPU that fails while it serves: what ONNX Runtime's real CUDA provider says then, and what the
server makes of it. The failures come from a CUDA runtime that stands in; no kernel computes."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from stoker.lifecycle.device_fault import LEAVE_WITHIN_S
from stoker.tensor import DataType

from tests.calls import Answer, Connect, GrpcClient, RestClient, on_both_protocols
from tests.conftest import PATIENCE, StokerProcess, run_stoker
from tests.models import ModelEntry, build, tensor, write_repository
from tests.stub import stub_models
from tests.stub.libraries import ONE_GPU, Libraries, free_memory

CONFIG = """
max_batch_size: 4
parameters { key: "enable_cudnn" value { string_value: "0" } }
parameters { key: "batching_proof" value { string_value: "off" } }
"""
SLACK_S = 3.0


@contextmanager
def serving(
    libraries: Libraries,
    folder: Path,
    name: str,
    value: int,
    *,
    model: onnx.ModelProto | None = None,
) -> Iterator[StokerProcess]:
    """A server with the model `m` whose GPU will answer with `value` at calls of kind `name`."""
    environment = {
        **libraries.preloaded(runtime=True),
        **ONE_GPU,
        **free_memory(60 << 30),
        "BREAK_NAME": name,
        "BREAK_VALUE": str(value),
    }
    repository = write_repository(folder, {"m": ModelEntry(model or stub_models.relu(), CONFIG)})
    with run_stoker(
        *("--device", "gpu", str(repository)),
        environment=environment,
        module="tests.stub.breaking_server",
        stderr=subprocess.PIPE,
    ) as server:
        yield server


def call(server: StokerProcess, connect: Connect, width: int = 4) -> Answer:
    with connect(server.at) as client:
        return client.send("m", {"x": np.ones((1, width), np.float32)}).answer()


def break_down(server: StokerProcess) -> None:
    server.process.send_signal(signal.SIGUSR1)
    server.at.probe("/livez")  # the loop has turned since: the signal was handled


@on_both_protocols
def test_an_illegal_address_ends_the_process_with_70(
    libraries: Libraries, tmp_path: Path, connect: Connect
) -> None:
    with serving(libraries, tmp_path, "STUB_CUDA_LAUNCH", 700) as server:
        assert call(server, connect).status == "OK"
        break_down(server)
        began = time.monotonic()
        answer = call(server, connect)
        assert answer.status == connect.statuses["DEVICE_FAILED"]
        assert "CUDA failure 700" in answer.error
        assert "hostname" not in answer.error
        _, log = server.process.communicate(timeout=60)
        assert time.monotonic() - began < LEAVE_WITHIN_S + SLACK_S
        assert server.process.returncode == 70
    records = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    (fault,) = [record for record in records if record.get("event") == "device_failed"]
    assert fault["devices"] == ["cuda:0"]
    assert fault["driver"] == "for CUDA 13.5"
    assert fault["memory_total_bytes"] == 80 << 30
    assert fault["memory_used_bytes"] == 20 << 30


def test_a_failure_of_which_the_device_knows_nothing_is_tried_again_and_ends_nothing(
    libraries: Libraries, tmp_path: Path
) -> None:
    product = stub_models.product()
    with serving(libraries, tmp_path, "STUB_CUBLAS_COMPUTE", 13, model=product) as server:
        break_down(server)
        answer = call(server, RestClient)
        assert answer.status == "503"
        assert "CUBLAS failure 13" in answer.error
        assert "the device answers well" in answer.error
        assert server.at.metric("stoker_device_retries_total", model="m") == 1
        server.process.send_signal(signal.SIGUSR2)
        server.at.probe("/livez")
        assert call(server, RestClient).status == "OK"
        assert server.at.probe("/readyz")[0] == 200


def test_memory_that_runs_out_on_the_gpu_is_the_requests_affair(
    libraries: Libraries, tmp_path: Path
) -> None:
    free = build(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        [tensor("x", DataType.FP32, ("batch", "n"))],
        [tensor("y", DataType.FP32, ("batch", "n"))],
    )
    with serving(libraries, tmp_path, "STUB_CUDA_MALLOC", 2, model=free) as server:
        assert call(server, GrpcClient).status == "OK"
        break_down(server)
        large = call(server, GrpcClient, width=1 << 20)
        assert large.status == "RESOURCE_EXHAUSTED", large
        assert "did not fit into memory" in large.error
        assert call(server, GrpcClient).status == "OK"
        assert server.at.metric("stoker_out_of_memory_total", model="m") >= 1
        assert server.at.probe("/readyz")[0] == 200


def test_the_arena_is_capped_at_what_the_gpu_has_left_of_its_share(
    libraries: Libraries, tmp_path: Path
) -> None:
    with serving(libraries, tmp_path, "NONE", 0) as server:
        url = f"{server.at.url}/v2/models/m"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            (device,) = json.load(answer)["stoker_devices"]
    assert device["options"]["gpu_mem_limit"] == str(int(0.9 * (80 << 30)) - (20 << 30))


def test_a_model_that_does_not_fit_beside_what_is_there_is_refused_with_the_numbers(
    libraries: Libraries, tmp_path: Path
) -> None:
    repository = write_repository(tmp_path, {"m": ModelEntry(stub_models.product(), CONFIG)})
    free = (8 << 30) + 63  # the share of models leaves 8 GiB, and the weights take 64 bytes
    done = subprocess.run(
        [*(sys.executable, "-m", "stoker", "check", "--device", "gpu"), str(repository)],
        env={
            **os.environ,
            **libraries.preloaded(runtime=True),
            **ONE_GPU,
            **free_memory(free),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "its weights take 64 bytes" in done.stdout
    assert "cuda:0 has 63 bytes left of 80.0 GiB" in done.stdout
