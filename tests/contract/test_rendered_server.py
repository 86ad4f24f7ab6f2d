"""The server, started with exactly what a rendered Deployment says, answers the rendered probes.

Arguments, variables and ConfigMap are those of the manifest; only ports are replaced by free ones
and the mounted file's path by one of the test's.
"""

import ctypes
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.contract.manifests import (
    config_map,
    container,
    environment,
    objects,
    pod,
    ports,
    probes,
    text,
    the,
)
from tests.contract.rendered_process import PATIENCE_S, RenderedServer, free_ports, running

INTERRUPTED_TWICE: Final = 130
DEMO: Final = Path(__file__).resolve().parents[2] / "server" / "stoker" / "demo" / "models"
PORT_KEYS: Final = {"http_port": "http", "grpc_port": "grpc", "metrics_port": "management"}
"""The settings that hold a port, and the container port that publishes it."""


def mounted(target: str, folder: Path, here: dict[int, int]) -> dict[str, str]:
    """Lays the ConfigMap's files into `folder`, ports replaced; container path -> our path."""
    maps = [each["name"] for each in objects(pod(target), "spec", "volumes") if "configMap" in each]
    mounts = objects(container(target), "volumeMounts")
    (at,) = [text(each, "mountPath") for each in mounts if each["name"] in maps]
    files = {}
    for name, contents in config_map(target).items():
        for key, port in PORT_KEYS.items():
            line = rf"(?m)^{key}: \d+$"
            contents, count = re.subn(line, f"{key}: {here[ports(target)[port]]}", contents)
            assert count == 1, f"expected one {key} in {name}, got {count}"
        folder.joinpath(name).write_text(contents)
        files[f"{at}/{name}"] = str(folder / name)
    return files


@contextmanager
def started(target: str, folder: Path, *, models: Path | None = None) -> Iterator[RenderedServer]:
    """The process of a rendered Deployment, with `models` mounted at /models."""
    numbers = list(ports(target).values())
    here = dict(zip(numbers, free_ports(len(numbers)), strict=True))
    replaced = {**mounted(target, folder, here), **({"/models": str(models)} if models else {})}
    arguments = container(target)["args"]
    assert isinstance(arguments, list)
    words = [replaced.get(str(each), str(each)) for each in arguments]
    with running(words, environment(target), folder, here) as server:
        yield server


def has_gpu_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def statuses(target: str, server: RenderedServer) -> dict[str, int]:
    """What each probe gets."""
    return {name: server.get(path, port).status_code for name, path, port in probes(target)}


def test_the_rendered_server_passes_every_rendered_probe(tmp_path: Path) -> None:
    with started("overlays/dev", tmp_path) as server:
        server.wait_for("ready")
        assert set(statuses("overlays/dev", server).values()) == {200}


@pytest.mark.parametrize(
    "target", ["components/models-pvc", "components/models-s3", "components/models-image-volume"]
)
def test_a_pod_with_models_serves_them_and_no_demo(target: str, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(DEMO / "simple", models / "simple")
    with started(target, tmp_path, models=models) as server:
        server.wait_for("ready")
        http = ports(target)["http"]
        assert server.get("/v2/models/simple/ready", http).status_code == 200
        assert server.get("/v2/models/digits", http).status_code == 404


def test_a_rendered_server_that_drains_is_alive_and_not_ready(tmp_path: Path) -> None:
    with started("overlays/dev", tmp_path) as server:
        server.wait_for("ready")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("drain_started")
        got = statuses("overlays/dev", server)
        assert (got["readinessProbe"], got["livenessProbe"]) == (503, 200)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == INTERRUPTED_TWICE


def test_a_gpu_pod_without_a_gpu_is_alive_and_says_why_it_is_not_ready(tmp_path: Path) -> None:
    if has_gpu_driver():
        pytest.skip("needs a machine without an NVIDIA driver")
    with started("overlays/gpu", tmp_path) as server:
        server.wait_for("model_failed")
        got = statuses("overlays/gpu", server)
        assert (got["readinessProbe"], got["livenessProbe"]) == (503, 200)
        readiness = next(each for each in probes("overlays/gpu") if each[0] == "readinessProbe")
        assert "GPU" in server.get(*readiness[1:]).text


def test_the_rendered_monitor_finds_the_metrics_of_the_rendered_autoscaler(tmp_path: Path) -> None:
    (endpoint,) = objects(the("overlays/gpu", "PodMonitor"), "spec", "podMetricsEndpoints")
    scaled_on = objects(the("overlays/gpu", "HorizontalPodAutoscaler"), "spec", "metrics")
    with started("overlays/dev", tmp_path) as server:
        server.wait_for("ready")
        port = ports("overlays/dev")[text(endpoint, "port")]
        scraped = server.get(text(endpoint, "path"), port).text
    for metric in scaled_on:
        assert f"\n{text(metric, 'pods', 'metric', 'name')} " in scraped
