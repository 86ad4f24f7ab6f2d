"""A server on a stub GPU whose model asks for TensorRT: it serves by CUDA, and says what is
missing."""

import json
from pathlib import Path

import pytest

from tests.calls import wait_until
from tests.conftest import StokerProcess, run_stoker
from tests.models import ModelEntry, write_repository
from tests.stub import stub_models
from tests.stub.libraries import ONE_GPU, Libraries

CONFIG = """
max_batch_size: 4
optimization { execution_accelerators { gpu_execution_accelerator [ {
  name: "tensorrt" %s
} ] } }
parameters { key: "enable_cudnn" value: { string_value: "0" } }
"""
WITHOUT_NODES = 'parameters { key: "trt_op_types_to_exclude" value: "Relu" }'


def served(folder: Path, parameters: str, environment: dict[str, str]) -> StokerProcess:
    entry = ModelEntry(stub_models.relu(), CONFIG % parameters)
    repository = write_repository(folder / "models", {"m": entry})
    cache = {"STOKER_TRT_CACHE_DIR": str(folder / "cache")}
    return run_stoker(
        str(repository), "--device", "gpu", environment={**environment, **ONE_GPU, **cache}
    )


def details(server: StokerProcess) -> list[str]:
    status, body = server.at.probe("/readyz")
    assert status == 200
    found: list[str] = json.loads(body)["details"]
    return found


def test_a_server_without_tensorrt_is_ready_by_cuda_and_says_what_is_missing(
    libraries: Libraries, tmp_path: Path
) -> None:
    with served(tmp_path, "", libraries.preloaded(runtime=True)) as server:
        (said,) = details(server)
        assert said.startswith(
            "model 'm' v1: TensorRT: failed: libnvinfer.so.10, libnvonnxparser.so.10 could not be "
            "loaded"
        )
        at = server.at
        assert at.metric("stoker_tensorrt_state", model="m", state="failed") == 1
        assert at.metric("stoker_model_info", provider="CUDAExecutionProvider") == 1
        assert at.metric("stoker_ready") == 1


@pytest.mark.slow
def test_a_server_with_tensorrt_prepares_a_session_and_goes_on_without_it_where_it_fails(
    libraries: Libraries, tmp_path: Path
) -> None:
    environment = libraries.preloaded(runtime=True, tensorrt=True)
    with served(tmp_path, WITHOUT_NODES, environment) as server:
        at = server.at
        wait_until(
            lambda: at.metric("stoker_tensorrt_state", model="m", state="failed") == 1,
            "a preparation that failed",
        )
        (said,) = details(server)
        assert "TensorRT: failed: TensorRT took none of the nodes of 'm'" in said
        assert at.metric("stoker_tensorrt_cache_misses_total", model="m") == 1
        assert not list((tmp_path / "cache" / ".building").iterdir())
        server.terminate()
        assert server.wait() == 0
