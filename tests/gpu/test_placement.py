"""Where models really run: the gate, the assignment of nodes, several GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from stoker.model import ModelConfig
from stoker.runtime.onnx import OnnxRuntime

from tests.calls import wait_until
from tests.conftest import PATIENCE, run_stoker
from tests.gpu import checks, networks
from tests.gpu.child import run_child
from tests.gpu.conftest import Record
from tests.gpu.cudart import Cudart
from tests.gpu.hardware import Hardware
from tests.gpu.served import open_on
from tests.models import write_model, write_repository

pytestmark = pytest.mark.gpu


def test_a_model_that_asks_for_the_gpu_runs_there(tmp_path: Path, record_property: Record) -> None:
    session = open_on("cuda:0", tmp_path, networks.cnn())

    record_property("device", session.device)
    assert session.device == "cuda:0"
    session.close()


def test_a_hidden_gpu_is_refused_with_the_reason(record_property: Record) -> None:
    result = run_child("hidden_gpu", {"CUDA_VISIBLE_DEVICES": ""})

    record_property("ONNX Runtime alone", result.facts.get("onnxruntime"))
    record_property("server", result.facts.get("server"))
    assert result.code == 0, result
    assert result.facts["refused"]
    assert "there is no usable GPU" in result.facts["server"]


@pytest.mark.parametrize(
    ("name", "model", "on_cpu"),
    [
        ("cnn", networks.cnn(), frozenset()),
        ("transformer", networks.transformer(), checks.SHAPE_OPERATORS),
    ],
    ids=["cnn", "transformer"],
)
def test_only_computations_of_shapes_stay_on_the_cpu(
    tmp_path: Path,
    record_property: Record,
    name: str,
    model: onnx.ModelProto,
    on_cpu: frozenset[str],
) -> None:
    found = checks.operators_by_provider(
        checks.open_session(write_model(tmp_path / f"{name}.onnx", model), "cuda")
    )

    for provider, operators in found.items():
        record_property(provider, dict(operators))
    assert found[checks.CUDA].total() > 0
    assert set(found.get(checks.CPU, {})) <= on_cpu


def test_a_model_without_instance_group_takes_the_gpu() -> None:
    placements = OnnxRuntime("auto").place(ModelConfig("m", 4, (), (), None))

    assert {placement.device for placement in placements} >= {"cuda:0"}


def test_a_model_on_the_second_gpu_takes_memory_there_only(
    gpu: Hardware, cuda: Cudart, tmp_path: Path, record_property: Record
) -> None:
    if len(gpu.gpus) < 2:
        pytest.skip(f"needs two GPUs, {len(gpu.gpus)} is here")
    used = {}
    for device in (0, 1):
        cuda.set_device(device)
        used[device] = checks.used_bytes(cuda)

    session = open_on("cuda:1", tmp_path, networks.heavy(256))
    session.run({"x": np.zeros((1, 1024), np.float32)}, ["y"])

    risen = {}
    for device in (0, 1):
        cuda.set_device(device)
        risen[device] = checks.used_bytes(cuda) - used[device]
    record_property("MiB on GPU 0", risen[0] / 2**20)
    record_property("MiB on GPU 1", risen[1] / 2**20)
    session.close()
    assert risen[1] >= 256 << 20
    assert risen[0] < 64 << 20


def test_a_server_that_insists_on_a_gpu_serves_from_it(
    tmp_path: Path, record_property: Record
) -> None:
    folder = write_repository(tmp_path, {"m": networks.cnn()})
    with run_stoker(str(folder), "--device", "gpu", "--drain-delay", "0") as server:
        total = "nv_gpu_memory_total_bytes"
        wait_until(lambda: server.at.metric(total) > 0, "a reading of the GPU")
        record_property(total, server.at.metric(total))
        assert server.at.probe("/readyz")[0] == 200
        server.terminate()
        assert server.wait() == 0


def test_a_server_that_insists_on_a_hidden_gpu_says_why_it_is_not_ready(
    tmp_path: Path, record_property: Record
) -> None:
    folder = write_repository(tmp_path, {"m": networks.increment()})
    ports = [f"--{port}-port=0" for port in ("http", "grpc", "metrics")]
    done = subprocess.run(
        [sys.executable, "-m", "stoker", "serve", str(folder), "--device=gpu", "--exit-on-error",
         "--log-format=json", *ports],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    record_property("exit code", done.returncode)
    assert done.returncode == 3
    assert "no usable GPU" in done.stderr
