"""TensorRT on hardware: engines are built while CUDA serves, agree with it, and come again from the
cache. Needs a GPU and TensorRT 10."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from stoker.runtime.tensorrt_library import look
from stoker.tensor import DataType

from tests.calls import wait_until
from tests.conftest import StokerProcess, run_stoker
from tests.models import ModelEntry, conv, dynamic, mlp, write_repository
from tests.triton_client import Given, TritonClient

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1200)]

BUILD_S = 600.0
"""Of such small models, with room for a cold GPU."""

CONFIG = """
max_batch_size: 8
optimization { execution_accelerators { gpu_execution_accelerator [ {
  name: "tensorrt"
  parameters { key: "trt_min_subgraph_size" value: "1" }
  %s
} ] } }
"""


@pytest.fixture(autouse=True)
def tensorrt() -> str:
    """TensorRT's version; skips where there is none."""
    found = look()
    if found.problem:
        pytest.skip(found.problem)
    return found.version


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], StokerProcess]]:
    """Starts a server of the repository below `tmp_path`; all of them share one cache."""
    running: list[StokerProcess] = []

    def start(*arguments: str) -> StokerProcess:
        cache = {"STOKER_TRT_CACHE_DIR": str(tmp_path / "cache")}
        server = run_stoker(
            str(tmp_path / "models"), "--device", "gpu", *arguments, environment=cache
        )
        running.append(server)
        return server

    yield start
    for server in running:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
    for folder in tmp_path.rglob("*"):  # published engines cannot be written to
        if folder.is_dir():
            folder.chmod(0o755)


def details(server: StokerProcess) -> list[str]:
    found: list[str] = json.loads(server.at.probe("/readyz")[1]).get("details", [])
    return found


def wait_until_it_serves(server: StokerProcess) -> None:
    at = server.at

    def has_ended() -> bool:
        return bool(
            at.metric("stoker_tensorrt_state", model="m", state="serving")
            or at.metric("stoker_tensorrt_state", model="m", state="failed")
        )

    wait_until(has_ended, "the end of a build", timeout=BUILD_S)
    assert at.metric("stoker_tensorrt_state", model="m", state="serving") == 1, details(server)


def engines(folder: Path) -> dict[str, tuple[int, float]]:
    """Size and time of change of each file below the cache."""
    return {
        str(each.relative_to(folder)): (each.stat().st_size, each.stat().st_mtime)
        for each in folder.rglob("*")
        if each.is_file()
    }


@pytest.mark.parametrize("precision", ["FP32", "FP16"])
@pytest.mark.parametrize("model", [mlp(), conv()], ids=["mlp", "conv"])
def test_an_engine_takes_over_agrees_and_comes_from_the_cache_the_next_time(
    tmp_path: Path,
    serve: Callable[[], StokerProcess],
    record_property: Callable[[str, object], None],
    tensorrt: str,
    model: object,
    precision: str,
) -> None:
    parameters = f'parameters {{ key: "precision_mode" value: "{precision}" }}'
    entry = ModelEntry(model, CONFIG % parameters)  # type: ignore[arg-type]  # a parameter of the test
    write_repository(tmp_path / "models", {"m": entry})
    first = serve()
    client = TritonClient("grpc", first.at)
    shape = client.call("get_model_metadata", "m")["inputs"][0]["shape"]
    item = [4, *(int(size) for size in shape[1:])]
    rows = np.random.default_rng(3).standard_normal(item).astype(np.float32)
    given = {"x": Given(rows, DataType.FP32)}
    by_cuda = client.infer("m", given).outputs["y"]
    began = time.monotonic()
    wait_until_it_serves(first)
    record_property("TensorRT", tensorrt)
    record_property("seconds until it serves", round(time.monotonic() - began, 1))
    record_property("details", details(first))
    taken = first.at.metric("stoker_tensorrt_device_bytes", model="m")
    record_property("device bytes", taken)
    assert taken > 0
    by_tensorrt = client.infer("m", given).outputs["y"]
    allowed = 5e-3 if precision == "FP32" else 2e-2
    assert np.abs(by_tensorrt - by_cuda).max() <= allowed * np.abs(by_cuda).max()
    assert first.at.metric("stoker_tensorrt_cache_misses_total", model="m") == 1
    first.terminate()
    assert first.wait() == 0
    built = engines(tmp_path / "cache")
    assert any(name.endswith(".engine") for name in built)
    assert not any(".attempt-" in name for name in built)

    second = serve()
    wait_until_it_serves(second)
    at = second.at
    assert at.metric("stoker_tensorrt_cache_hits_total", model="m") == 1
    assert at.metric("stoker_tensorrt_build_seconds_total", model="m") == 0
    again = TritonClient("grpc", at).infer("m", given).outputs["y"]
    np.testing.assert_allclose(again, by_tensorrt, rtol=1e-5, atol=1e-5)
    second.terminate()
    assert second.wait() == 0
    assert engines(tmp_path / "cache") == built  # nothing was built, and nothing written


def test_lengths_outside_of_the_declared_range_are_cudas_and_build_nothing(
    tmp_path: Path, serve: Callable[[], StokerProcess]
) -> None:
    parameters = 'parameters { key: "trt_dimension_ranges" value: "length=1..16" }'
    write_repository(tmp_path / "models", {"m": ModelEntry(dynamic(), CONFIG % parameters)})
    server = serve()
    wait_until_it_serves(server)
    client = TritonClient("grpc", server.at)
    built = engines(tmp_path / "cache")
    for length in (1, 16, 17, 64, 7):
        rows = np.ones((3, length), np.float32)
        answer = client.infer("m", {"x": Given(rows, DataType.FP32)})
        np.testing.assert_array_equal(answer.outputs["y"], 2 * rows)
    assert engines(tmp_path / "cache") == built
    assert server.at.metric("stoker_tensorrt_state", model="m", state="serving") == 1


def test_a_server_that_is_told_to_stop_does_not_wait_for_a_build(
    tmp_path: Path, serve: Callable[..., StokerProcess]
) -> None:
    slow = 'parameters { key: "trt_builder_optimization_level" value: "5" }'
    write_repository(tmp_path / "models", {"m": ModelEntry(conv(), CONFIG % slow)})
    server = serve("--drain-delay", "0s")
    wait_until(
        lambda: server.at.metric("stoker_tensorrt_state", model="m", state="waiting") == 0,
        "the beginning of a build",
    )
    began = time.monotonic()
    server.terminate()
    assert server.wait() == 0
    assert time.monotonic() - began < 15


def test_a_server_that_is_killed_in_a_build_is_remembered_by_the_next_one_which_builds(
    tmp_path: Path, serve: Callable[..., StokerProcess]
) -> None:
    slow = 'parameters { key: "trt_builder_optimization_level" value: "5" }'
    write_repository(tmp_path / "models", {"m": ModelEntry(conv(), CONFIG % slow)})
    killed = serve()
    wait_until(lambda: any((tmp_path / "cache").rglob("*.attempt-1")), "the beginning of a build")
    killed.process.kill()
    killed.process.wait()
    server = serve()
    wait_until(
        lambda: server.at.metric("stoker_tensorrt_crashed_builds", model="m") == 1,
        "a build that knows of the earlier one",
    )
    wait_until_it_serves(server)
    assert not any((tmp_path / "cache").rglob("*.attempt-*"))
