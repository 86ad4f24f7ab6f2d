"""The server, started as KServe would from a rendered runtime, serves what lies at /mnt/models.

Arguments and variables are those of the manifest for an InferenceService `my-model`; only ports and
the mount's path are replaced. Each layout that a storageUri can have is asked over REST and gRPC.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from stoker.tensor import DataType

from tests.conftest import Endpoints
from tests.contract.manifests import number, text
from tests.contract.rendered_process import RenderedServer, free_ports, running
from tests.contract.test_kserve import arguments, container, settings, variables
from tests.triton_client import PROTOCOLS, Given, Refused, TritonClient, same_bits

SERVICE: Final = "my-model"
DEMO: Final = Path(__file__).resolve().parents[2] / "server" / "stoker" / "demo" / "models"
ONNX: Final = DEMO / "simple" / "1" / "model.onnx"


def at_the_root(mount: Path) -> None:
    """A file of any name, as a storageUri of one object gives it."""
    shutil.copy(ONNX, mount / "exported-by-training.onnx")


def in_a_version(mount: Path) -> None:
    """VERSION/model.onnx."""
    mount.joinpath("3").mkdir()
    shutil.copy(ONNX, mount / "3" / "model.onnx")


def in_a_repository(mount: Path) -> None:
    """MODEL/VERSION/model.onnx, with the name that the model had elsewhere."""
    shutil.copytree(DEMO / "simple", mount / "simple")


LAYOUTS: Final = (at_the_root, in_a_version, in_a_repository)

every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)


@contextmanager
def started(runtime: str, mount: Path, home: Path) -> Iterator[RenderedServer]:
    """The process of a runtime's container, with the models mounted here."""
    served = settings(runtime)
    numbers = sorted({served.http_port, served.grpc_port, served.metrics_port})
    here = dict(zip(numbers, free_ports(len(numbers)), strict=True))
    words = []
    for word in arguments(runtime, SERVICE):
        flag, _, value = word.partition("=")
        ours = here.get(int(value)) if flag.endswith("-port") else None
        words.append(f"{flag}={ours}" if ours else word.replace("/mnt/models", str(mount)))
    with running(words, variables(runtime), home, here) as server:
        yield server


def client(protocol: str, runtime: str, server: RenderedServer) -> TritonClient:
    """A stock client of the service."""
    served = settings(runtime)
    ports = (served.http_port, served.grpc_port, served.metrics_port)
    return TritonClient(protocol, Endpoints(*(server.here[port] for port in ports)))


def answers_as_the_service(asking: TritonClient) -> bool:
    """Whether the model answers under the service's name, and rightly."""
    numbers = np.arange(1, 17, dtype=np.int32).reshape(1, 16)
    given = {name: Given(numbers, DataType.INT32) for name in ("INPUT0", "INPUT1")}
    answer = asking.infer(SERVICE, given)
    described = asking.call("get_model_metadata", SERVICE)["name"]
    assert (answer.model, described) == (SERVICE, SERVICE)
    return same_bits(answer.outputs["OUTPUT0"], numbers + numbers)


def probe_statuses(runtime: str, server: RenderedServer) -> list[int]:
    """What the kubelet gets from the three probes."""
    found = []
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = text(container(runtime), probe, "httpGet", "path")
        port = number(container(runtime), probe, "httpGet", "port")
        found.append(server.get(path, port).status_code)
    return found


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """What KServe's storage initializer fills."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@every_layout
def test_every_layout_is_served_under_the_name_of_the_service(
    layout: Callable[[Path], None], mount: Path, tmp_path: Path
) -> None:
    layout(mount)
    with started("stoker", mount, tmp_path) as server:
        server.wait_for("ready")
        for protocol in PROTOCOLS:
            assert answers_as_the_service(client(protocol, "stoker", server))
        assert probe_statuses("stoker", server) == [200, 200, 200]


def test_rest_and_grpc_share_the_one_port_of_knative(mount: Path, tmp_path: Path) -> None:
    at_the_root(mount)
    with started("stoker-knative-grpc", mount, tmp_path) as server:
        server.wait_for("ready")
        for protocol in PROTOCOLS:
            assert answers_as_the_service(client(protocol, "stoker-knative-grpc", server))
        assert probe_statuses("stoker-knative-grpc", server) == [200, 200, 200]


def test_without_a_model_the_pod_is_alive_and_not_ready(mount: Path, tmp_path: Path) -> None:
    with started("stoker", mount, tmp_path) as server:
        server.wait_for("repository")
        assert probe_statuses("stoker", server) == [200, 503, 200]
        with pytest.raises(Refused):
            client("grpc", "stoker", server).infer(SERVICE, {})
