"""Live at once, ready when the models are, and the reason in plain words when they are not.

Readiness on every port that tells of it: probes, REST, gRPC, and gRPC health.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import numpy as np
import pytest
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from stoker.app import Server, open_repository
from stoker.protocol import inference_pb2 as pb
from stoker.tensor import DataType

from tests.conftest import FREE_PORTS, PATIENCE, Endpoints, RunningServer, Serving
from tests.fake_runtime import FakeModel, FakeRuntime
from tests.grpc_call import SERVICE, grpc_call, grpc_status
from tests.models import NOT_A_MODEL, ModelEntry, double, fails_on_data, write_repository
from tests.rest_call import get, post
from tests.triton_client import PROTOCOLS, Given, Refused, TritonClient

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

ROW: Final = {"x": Given(np.ones((1, 4), np.float32), DataType.FP32)}
WARMED_WITH_99: Final = """
max_batch_size: 1
model_warmup { name: "99" batch_size: 1 inputs { key: "x" value {
    data_type: TYPE_INT64 dims: 1 input_data_file: "99" } } }
"""
FOLDERS: Final = {"slow": double(), "good": double()}


@contextmanager
def health(at: Endpoints) -> Iterator[Any]:
    """A stub of the standard health service."""
    with grpc.insecure_channel(at.grpc) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def check(at: Endpoints, service: str = "") -> int:
    with health(at) as stub:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
        return int(answer.status)


def wait_until_serving(at: Endpoints, service: str = "") -> None:
    """Watches until the service serves."""
    with health(at) as stub:
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
        for answer in watch:
            if answer.status == SERVING:
                watch.cancel()
                return


def reasons(at: Endpoints, path: str = "/readyz") -> list[str]:
    """Why the probe says no."""
    status, body = at.probe(path)
    assert status == 503, body
    answer = json.loads(body)
    assert answer["ok"] is False
    assert answer["error"] == "; ".join(answer["reasons"])
    return [str(each) for each in answer["reasons"]]


def is_ready(at: Endpoints) -> bool:
    """What all who can be asked say; they must agree."""
    rest = get(at, "/v2/health/ready")
    answers = {
        at.probe("/readyz")[0] == 200,
        rest.status_code == 200,
        rest.json()["ready"],
        grpc_call(at, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready,
        check(at) == SERVING,
        check(at, "inference.GRPCInferenceService") == SERVING,
        bool(at.metric("stoker_ready")),
    }
    assert len(answers) == 1
    return bool(answers.pop())


def index(at: Endpoints) -> list[tuple[str, str, str]]:
    """Name, state and reason of each entry."""
    models = post(at, "/v2/repository/index").json()
    return [(each["name"], each["state"], each.get("reason", "")) for each in models]


@pytest.fixture
def loading(serve: Serving, tmp_path: Path) -> Iterator[tuple[RunningServer, threading.Event]]:
    """A server whose model `good` serves and whose model `slow` is being opened until told."""
    gate = threading.Event()
    runtime = FakeRuntime(models={"slow": FakeModel(may_open=gate)})
    server = serve(write_repository(tmp_path, FOLDERS), runtime=runtime, wait=False)
    try:
        wait_until_serving(server.at, "good")
        yield server, gate
    finally:
        gate.set()


def test_ports_are_open_and_live_while_a_model_still_loads(
    loading: tuple[RunningServer, threading.Event],
) -> None:
    at = loading[0].at
    assert at.probe("/livez") == (200, '{"ok":true}')
    assert get(at, "/v2/health/live").json() == {"live": True}
    assert grpc_call(at, "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert not is_ready(at)
    assert reasons(at) == ["model 'slow' v1 is LOADING"]
    assert reasons(at, "/startupz") == ["models are being loaded", "model 'slow' v1 is LOADING"]
    assert index(at) == [("good", "READY", ""), ("slow", "LOADING", "")]


def test_a_model_that_still_loads_is_unavailable_and_the_others_serve(
    loading: tuple[RunningServer, threading.Event],
) -> None:
    at = loading[0].at
    for kind in PROTOCOLS:
        client = TritonClient(kind, at)
        assert client.infer("good", ROW).outputs["y"].tolist() == [[2, 2, 2, 2]]
        assert client.call("is_model_ready", "slow") is False
        with pytest.raises(Refused, match="version 1 is LOADING") as refused:
            client.infer("slow", ROW)
        assert refused.value.status() in ("503", "StatusCode.UNAVAILABLE")
    assert get(at, "/v2/models/slow/ready").status_code == 503


def test_the_server_is_ready_once_the_last_model_is(
    loading: tuple[RunningServer, threading.Event],
) -> None:
    server, gate = loading
    gate.set()
    wait_until_serving(server.at)
    assert is_ready(server.at)
    wait_until_serving(server.at, "slow")
    assert check(server.at, "slow") == SERVING


def test_health_is_watched_per_model(loading: tuple[RunningServer, threading.Event]) -> None:
    server, gate = loading
    with health(server.at) as stub:
        watches = {
            name: stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE)
            for name in ("", "slow", "good", "nope")
        }
        first = {name: next(watch).status for name, watch in watches.items()}
        assert first == {
            "": NOT_SERVING,
            "slow": NOT_SERVING,
            "good": SERVING,
            "nope": SERVICE_UNKNOWN,
        }
        gate.set()
        assert next(watches["slow"]).status == SERVING
        assert next(watches[""]).status == SERVING
        for watch in watches.values():
            watch.cancel()


def test_a_check_of_an_unknown_service_is_not_found(
    loading: tuple[RunningServer, threading.Event],
) -> None:
    request = health_pb2.HealthCheckRequest(service="nope").SerializeToString()
    status, _ = grpc_status(loading[0].at, "/grpc.health.v1.Health/Check", request)
    assert status == "NOT_FOUND"


def test_a_model_is_known_before_its_load_begins(tmp_path: Path) -> None:
    settings = replace(FREE_PORTS, sources=(str(write_repository(tmp_path, FOLDERS)),))

    async def steps() -> tuple[httpx.Response, httpx.Response, str]:
        server = Server(settings, FakeRuntime(), open_repository(settings))
        ports = await server.start()
        at = Endpoints(ports.http, ports.grpc, ports.metrics)
        try:
            async with httpx.AsyncClient(timeout=PATIENCE) as client:
                infer = await client.post(f"{at.url}/v2/models/good/infer", json={"inputs": []})
                probe = await client.get(f"{at.management}/readyz")
            details = await asyncio.to_thread(
                grpc_status,
                at,
                SERVICE + "ModelMetadata",
                pb.ModelMetadataRequest(name="good").SerializeToString(),
            )
        finally:
            await server.close()
        return infer, probe, details[0]

    infer, probe, status = uvloop.run(steps())

    assert (infer.status_code, infer.json()["error"]) == (
        503,
        "model 'good' is not ready: its load has not begun",
    )
    assert probe.json()["reasons"] == [
        f"model '{name}' is not ready: its load has not begun" for name in ("good", "slow")
    ]
    assert status == "UNAVAILABLE"


def test_a_broken_model_keeps_the_server_unready_and_the_good_one_serving(
    serve: Serving, tmp_path: Path
) -> None:
    at = serve(write_repository(tmp_path, {"broken": NOT_A_MODEL, "good": double()})).at
    reason = "failed to load 'broken': load failed for model 'broken' version 1: "
    assert not is_ready(at)
    (why,) = reasons(at)
    assert why.startswith(f"model 'broken' v1 is UNAVAILABLE: {reason}")
    assert at.probe("/startupz")[0] == 200
    (broken, good) = index(at)
    assert broken[:2] == ("broken", "UNAVAILABLE")
    assert broken[2].startswith(reason)
    assert good == ("good", "READY", "")
    for kind in PROTOCOLS:
        assert TritonClient(kind, at).infer("good", ROW).outputs["y"].tolist() == [[2, 2, 2, 2]]
    assert (check(at, "good"), check(at, "broken")) == (SERVING, NOT_SERVING)
    assert at.metric("stoker_model_ready", model="good", version="1") == 1
    assert at.metric("stoker_model_ready", model="broken", version="1") == 0
    assert str(tmp_path) not in why


def test_a_warm_up_sample_that_fails_is_a_failed_load(serve: Serving, tmp_path: Path) -> None:
    bad = ModelEntry(
        fails_on_data(), WARMED_WITH_99, files={"warmup/99": (99).to_bytes(8, "little")}
    )
    at = serve(write_repository(tmp_path, {"bad": bad, "good": double()})).at
    assert not is_ready(at)
    assert "indices element out of data bounds, idx=99" in reasons(at)[0]


def test_without_strict_readiness_a_started_server_is_ready(serve: Serving, tmp_path: Path) -> None:
    at = serve(
        write_repository(tmp_path, {"broken": NOT_A_MODEL, "good": double()}),
        settings=replace(FREE_PORTS, strict_readiness=False),
    ).at
    assert is_ready(at)
    assert get(at, "/v2/models/broken/ready").status_code == 503


def test_without_strict_readiness_a_starting_server_is_not_ready(
    serve: Serving, tmp_path: Path
) -> None:
    gate = threading.Event()
    try:
        server = serve(
            write_repository(tmp_path, FOLDERS),
            runtime=FakeRuntime(models={"slow": FakeModel(may_open=gate)}),
            settings=replace(FREE_PORTS, strict_readiness=False),
            wait=False,
        )
        assert reasons(server.at) == ["the server is starting"]
    finally:
        gate.set()


def test_a_server_without_models_is_not_ready(serve: Serving, tmp_path: Path) -> None:
    at = serve(tmp_path).at
    assert not is_ready(at)
    assert reasons(at) == [f"'{tmp_path}': expected folders of models, found none"]
    assert index(at) == []


def test_a_source_that_is_not_there_is_the_reason(serve: Serving, tmp_path: Path) -> None:
    write_repository(tmp_path / "there", {"good": double()})
    at = serve(tmp_path / "there", tmp_path / "nope").at
    assert not is_ready(at)
    assert reasons(at) == [f"'{tmp_path / 'nope'}': no such file or folder"]


@pytest.mark.parametrize(
    ("required", "missing"),
    [
        (("good",), []),
        (("good", "nope"), ["model 'nope' is not ready: it is in none of the repositories"]),
    ],
)
def test_exactly_the_required_models_decide(
    serve: Serving, tmp_path: Path, required: tuple[str, ...], missing: list[str]
) -> None:
    at = serve(
        write_repository(tmp_path, {"broken": NOT_A_MODEL, "good": double()}),
        settings=replace(FREE_PORTS, required_models=required),
    ).at
    assert is_ready(at) is (not missing)
    if missing:
        assert reasons(at) == missing


def ended(*arguments: str, **ports: int) -> subprocess.CompletedProcess[str]:
    """`stoker serve` that ends by itself, with all that it said."""
    words = [sys.executable, "-m", "stoker", "serve", *arguments, "--host", "127.0.0.1"]
    for name in ("http", "grpc", "metrics"):
        words += [f"--{name}-port", str(ports.get(name, 0))]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "STOKER_LOG_FORMAT": "text"},
        check=False,
    )


@pytest.mark.parametrize("port", ["http", "grpc", "metrics"])
def test_a_taken_port_ends_the_process_with_code_2_and_one_line(port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        process = ended(**{port: number})
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert "cannot listen" in line
    assert str(number) in line


def test_with_exit_on_error_a_broken_model_ends_the_process_with_code_3(tmp_path: Path) -> None:
    folder = write_repository(tmp_path, {"broken": NOT_A_MODEL, "good": double()})
    process = ended(str(folder), "--exit-on-error")
    assert (process.returncode, process.stdout) == (3, "")
    assert "CRITICAL start_failed model 'broken' v1 is UNAVAILABLE" in process.stderr
    assert "Traceback" not in process.stderr


def test_with_exit_on_error_a_source_that_is_not_there_ends_the_process_with_code_3() -> None:
    process = ended("/no/such/place", "--exit-on-error")
    assert process.returncode == 3
    assert "'/no/such/place': no such file or folder" in process.stderr
