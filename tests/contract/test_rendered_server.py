"""The server, started with exactly what a rendered Deployment says, answers the rendered probes.

Arguments, variables and ConfigMap are those of the manifest; only ports are replaced by free ones
and the mounted file's path by one of the test's.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from tests.contract.manifests import (
    JsonObject,
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

PATIENCE_S: Final = 60.0
INTERRUPTED_TWICE: Final = 130


@dataclass(frozen=True, slots=True)
class RenderedServer:
    """A running process and the addresses of its ready line, by the manifest's port number."""

    process: subprocess.Popen[str]
    address_of: dict[int, str]

    def get(self, path: str, port: int) -> httpx.Response:
        """What the kubelet or Prometheus would get from this path of this container port."""
        return httpx.get(f"http://{self.address_of[port]}{path}", timeout=PATIENCE_S)


def mounted(target: str, folder: Path) -> dict[str, Path]:
    """Lays the ConfigMap's files into `folder`, ports replaced; container path -> our path."""
    volume = next(each for each in objects(pod(target), "spec", "volumes") if "configMap" in each)
    mounts: list[JsonObject] = objects(container(target), "volumeMounts")
    at = next(text(each, "mountPath") for each in mounts if each["name"] == volume["name"])
    files = {}
    for name, contents in config_map(target).items():
        lines = [
            f"{line.partition(':')[0]}: 0" if "_port:" in line else line
            for line in contents.splitlines()
        ]
        folder.joinpath(name).write_text("\n".join(lines))
        files[f"{at}/{name}"] = folder / name
    return files


@contextmanager
def started(target: str, folder: Path) -> Iterator[RenderedServer]:
    """The process once it has said that it is ready."""
    replaced = mounted(target, folder)
    arguments = container(target)["args"]
    assert isinstance(arguments, list)
    command = [sys.executable, "-m", "stoker"]
    command += [str(replaced.get(str(each), each)) for each in arguments]
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder), **environment(target)}
    log = folder / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=variables
        ) as process,
    ):
        watchdog = threading.Timer(PATIENCE_S, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"expected a ready line, got none; the log says:\n{log.read_text()}"
            yield RenderedServer(process, addresses(target, json.loads(line)))
        finally:
            watchdog.cancel()
            process.kill()


def addresses(target: str, said: dict[str, str]) -> dict[int, str]:
    """The manifest's port numbers -> where the ready line says that they are."""
    name_of = {"http": "http", "grpc": "grpc", "management": "metrics"}
    return {
        number: f"127.0.0.1:{said[name_of[name]].rpartition(':')[2]}"
        for name, number in ports(target).items()
    }


def test_the_rendered_server_passes_every_rendered_probe(tmp_path: Path) -> None:
    with started("overlays/dev", tmp_path) as server:
        answers = {
            path: server.get(path, port).status_code for _, path, port in probes("overlays/dev")
        }
        assert answers == {"/startupz": 200, "/readyz": 200, "/livez": 200}


def test_a_rendered_server_that_drains_is_alive_and_not_ready(tmp_path: Path) -> None:
    with started("overlays/dev", tmp_path) as server:
        asked = {probe: (path, port) for probe, path, port in probes("overlays/dev")}
        server.process.send_signal(signal.SIGTERM)
        while server.get(*asked["readinessProbe"]).status_code == httpx.codes.OK:
            pass  # until the signal has arrived; the test's time limit ends it otherwise
        assert server.get(*asked["readinessProbe"]).status_code == 503
        assert server.get(*asked["livenessProbe"]).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == INTERRUPTED_TWICE


def test_the_rendered_monitor_finds_the_metrics_of_the_rendered_autoscaler(tmp_path: Path) -> None:
    (endpoint,) = objects(the("overlays/gpu", "PodMonitor"), "spec", "podMetricsEndpoints")
    scaled_on = objects(the("overlays/gpu", "HorizontalPodAutoscaler"), "spec", "metrics")
    with started("overlays/dev", tmp_path) as server:
        port = ports("overlays/dev")[text(endpoint, "port")]
        scraped = server.get(text(endpoint, "path"), port).text
    for metric in scaled_on:
        assert f"\n{text(metric, 'pods', 'metric', 'name')} " in scraped
