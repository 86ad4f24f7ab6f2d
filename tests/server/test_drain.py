"""The server goes away without losing a request: SIGTERM under load, and every step of a drain.

REST clients keep the server saturated until it tells them to leave, on each connection's next
answer. gRPC clients pause within the drain delay, as a balancer makes them once health or endpoints
say so: grpcio cannot tell its connections to leave without refusing calls, and a saturated server
on it would lose the calls that are on their way when the delay is over (the docstring of
`transport/grpc/grpcio.py` has the reasons).
"""

import http.client
import logging
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton  # type: ignore[import-untyped]  # ships no types
from grpc_health.v1 import health_pb2, health_pb2_grpc
from stoker.settings import GrpcTransport

from tests import models
from tests.calls import (
    BATCHING,
    Connect,
    GrpcClient,
    RestClient,
    ServeFake,
    occupy,
    on_both_protocols,
    rest_answer,
    rest_request,
    rows,
    send_each,
    statistics,
    wait_until,
)
from tests.conftest import (
    FREE_PORTS,
    Endpoints,
    RunningServer,
    StokerProcess,
    run_stoker,
)
from tests.fake_runtime import FakeRuntime

CLIENTS = 8
DELAY_S = 3.0
GENEROUS_S = 10.0


def repository_of_double(folder: Path) -> Path:
    entry = models.ModelEntry(models.double(), BATCHING)
    return models.write_repository(folder / "repository", {"m": entry})


def run_draining(folder: Path, grpc_transport: GrpcTransport, delay: str) -> StokerProcess:
    """A process that serves the double over this transport, and drains for so long."""
    flags = ("--grpc-transport", grpc_transport, "--drain-delay", delay)
    return run_stoker(str(repository_of_double(folder)), *flags)


def rest_load(at: Endpoints, number: int, goes_on: Callable[[], bool]) -> tuple[int, bool]:
    """One keep-alive client that never rests. It follows `Connection: close`: it opens the next
    connection while `goes_on`, and leaves for another replica after that. Gives its good answers,
    and whether it was told to leave."""
    path, headers, body = rest_request("m", {"x": rows(number)})
    answers = 0
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", at.http_port, timeout=30)
        closes = False
        while not closes:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            answer = rest_answer(response, response.read())
            np.testing.assert_array_equal(answer.output(), rows(2 * number))
            answers += 1
            closes = answer.closes
        connection.close()
        if not goes_on():
            return answers, True


def grpc_load(at: Endpoints, number: int, goes_on: Callable[[], bool]) -> int:
    """One Triton client that never rests until its balancer takes it away. Gives its answers."""
    answers = 0
    given = triton.InferInput("x", [1, 4], "FP32")
    given.set_data_from_numpy(rows(number))
    with triton.InferenceServerClient(at.grpc) as client:
        while goes_on():
            result = client.infer("m", [given]).as_numpy("y")
            np.testing.assert_array_equal(result, rows(2 * number))
            answers += 1
    return answers


def is_ready(at: Endpoints) -> bool:
    return at.probe("/readyz")[0] == 200


@pytest.mark.slow
def test_sigterm_under_load_loses_no_request_and_exits_with_zero(
    grpc_transport: GrpcTransport, tmp_path: Path
) -> None:
    terminated = threading.Event()
    left: list[float] = []

    def goes_on() -> bool:
        return not terminated.is_set() or time.monotonic() < left[0]

    with (
        run_draining(tmp_path, grpc_transport, f"{DELAY_S}s") as process,
        ThreadPoolExecutor(2 * CLIENTS) as pool,
    ):
        at = process.at
        rest = [pool.submit(rest_load, at, number, goes_on) for number in range(CLIENTS)]
        triton_clients = [
            pool.submit(grpc_load, at, 100 + number, goes_on) for number in range(CLIENTS)
        ]
        wait_until(
            lambda: at.metric("nv_inference_request_success") > 2000, "the load to be under way"
        )
        left.append(time.monotonic() + DELAY_S / 2)
        terminated.set()
        process.terminate()
        answers = [done.result() for done in rest]
        assert all(told_to_leave for _, told_to_leave in answers)
        assert all(done.result() > 0 for done in triton_clients)
        assert process.wait() == 0


@pytest.mark.slow
def test_readiness_and_grpc_health_turn_at_once_while_everything_is_served(
    grpc_transport: GrpcTransport, tmp_path: Path
) -> None:
    with (
        run_draining(tmp_path, grpc_transport, "4s") as process,
        grpc.insecure_channel(process.at.grpc) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        process.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        status, reasons = process.at.probe("/readyz")
        assert (status, "draining" in reasons) == (503, True)
        check = health.Check(health_pb2.HealthCheckRequest(service="m"), timeout=30)
        assert check.status == health_pb2.HealthCheckResponse.NOT_SERVING
        for path in ("/v2/health/ready", "/v2/health/live"):
            connection = http.client.HTTPConnection("127.0.0.1", process.at.http_port, timeout=30)
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            assert response.status == (200 if path.endswith("live") else 503)
            connection.close()
        with RestClient(process.at) as rest, GrpcClient(process.at) as grpc_client:
            for client in (rest, grpc_client):
                for value in range(3):
                    answer = client.send("m", {"x": rows(value)}).answer()
                    np.testing.assert_array_equal(answer.output(), rows(2 * value))
                    assert answer.closes == (client is rest)
        assert process.wait() == 0


def test_a_second_sigterm_ends_the_process_at_once(tmp_path: Path) -> None:
    with run_stoker(str(repository_of_double(tmp_path)), "--drain-delay", "60s") as process:
        process.terminate()
        wait_until(lambda: not is_ready(process.at), "a server that is not ready")
        began = time.monotonic()
        process.terminate()
        assert process.wait() == 130
    assert time.monotonic() - began < GENEROUS_S


def free_ports(count: int) -> list[int]:
    plugs = [socket.socket() for _ in range(count)]
    for plug in plugs:
        plug.bind(("127.0.0.1", 0))
    ports = [plug.getsockname()[1] for plug in plugs]
    for plug in plugs:
        plug.close()
    return ports


@pytest.mark.slow
def test_sigterm_while_a_model_loads_ends_the_process_soon(tmp_path: Path) -> None:
    # Seconds a run at 64 rows: warm-up, proof and profile take far longer than this test waits.
    entry = models.ModelEntry(models.slow(width=3072, depth=300), "max_batch_size: 64\n")
    repository = models.write_repository(tmp_path / "repository", {"heavy": entry})
    ports = free_ports(3)
    command = [sys.executable, "-m", "stoker", "serve", "--host", "127.0.0.1", str(repository)]
    for flag, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        command += [f"--{flag}-port", str(port)]
    at = Endpoints(*ports)

    def is_loading() -> bool:
        try:
            status, reasons = at.probe("/startupz")
        except urllib.error.URLError:
            return False  # the port is not open yet
        return status == 503 and "loading" in reasons.lower()

    with subprocess.Popen(
        [*command, "--drain-delay", "0s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(is_loading, "a server that loads")
            began = time.monotonic()
            process.terminate()
            assert process.wait(60) == 0
            assert time.monotonic() - began < GENEROUS_S
        finally:
            process.kill()


# The steps, with a held model


@contextmanager
def draining(server: RunningServer) -> Iterator["Future[int]"]:
    """A drain under way: readiness has turned. Gives its outcome."""
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(server.drain)
        wait_until(lambda: not is_ready(server.at), "a server that is not ready")
        yield outcome


@on_both_protocols
def test_what_is_in_flight_finishes_within_the_drain_timeout(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    settings = replace(FREE_PORTS, drain_timeout_s=30.0)
    server = serve_fake(settings=settings)
    with connect(server.at) as client:
        calls = [occupy(client, runtime), *send_each(client, range(1, 6), server)]
        with draining(server) as outcome:
            runtime.release()
            for value, call in enumerate(calls):
                np.testing.assert_array_equal(call.answer().output(), rows(2 * value))
            assert outcome.result(30) == 0


def test_the_log_says_how_many_requests_were_in_flight_when_the_drain_began(
    serve_fake: ServeFake, runtime: FakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve_fake()
    with caplog.at_level(logging.INFO), RestClient(server.at) as client:
        calls = [occupy(client, runtime), *send_each(client, range(1, 6), server)]
        with draining(server):
            runtime.release()
            for call in calls:
                call.answer().output()
    (began,) = [
        each.__dict__["stoker_fields"]
        for each in caplog.records
        if getattr(each, "stoker_event", "") == "drain_started"
    ]
    assert began["in_flight"] == len(calls)


@on_both_protocols
def test_what_is_left_after_the_drain_timeout_is_told_so(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    settings = replace(FREE_PORTS, drain_timeout_s=0.1)
    server = serve_fake(settings=settings)
    with connect(server.at) as client:
        calls = [occupy(client, runtime), *send_each(client, range(1, 6), server)]
        assert server.drain() == len(calls)
        for call in calls:
            answer = call.answer()
            assert answer.status == connect.statuses["DRAINING"]
            assert "shutting down" in answer.error
        assert statistics(server).in_flight == 0
        runtime.release()


def connect_to(server: RunningServer) -> socket.socket:
    plug = socket.create_connection(("127.0.0.1", server.at.http_port))
    plug.settimeout(30)
    return plug


def test_idle_connections_are_closed_and_new_ones_refused_once_the_delay_is_over(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with RestClient(server.at) as client, connect_to(server) as idle, connect_to(server) as used:
        used.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: stoker\r\n\r\n")
        assert used.recv(1 << 16).startswith(b"HTTP/1.1 200")
        running = occupy(client, runtime)
        with draining(server) as outcome:
            assert idle.recv(1) == b""
            assert used.recv(1) == b""
            with pytest.raises(ConnectionRefusedError):
                connect_to(server)
            assert not outcome.done()
            runtime.release()
            np.testing.assert_array_equal(running.answer().output(), rows(0))
            assert outcome.result(30) == 0


def test_an_upload_under_way_when_the_delay_is_over_is_answered(serve_fake: ServeFake) -> None:
    server = serve_fake()
    path, headers, body = rest_request("m", {"x": rows(1)})
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
    with connect_to(server) as upload, connect_to(server) as idle:
        upload.sendall(head.encode() + body[:10])
        idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: stoker\r\n\r\n")
        assert idle.recv(1 << 16).startswith(b"HTTP/1.1 200")
        with draining(server) as outcome:
            assert idle.recv(1) == b""
            upload.sendall(body[10:])
            response = http.client.HTTPResponse(upload, method="POST")
            response.begin()
            answer = rest_answer(response, response.read())
            np.testing.assert_array_equal(answer.output(), rows(2))
            assert answer.closes
            assert outcome.result(30) == 0


def test_every_answer_of_the_drain_delay_tells_its_connection_to_close(
    serve_fake: ServeFake,
) -> None:
    settings = replace(FREE_PORTS, drain_delay_s=1.5)
    server = serve_fake(settings=settings)
    with RestClient(server.at) as client:
        assert not client.send("m", {"x": rows(1)}).answer().closes
        with draining(server):
            for _ in range(3):
                answer = client.send("m", {"x": rows(1)}).answer()
                answer.output()
                assert answer.closes
