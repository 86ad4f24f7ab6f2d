"""A GPU that breaks for good: clients are told, the server is not ready, and the process ends with
code 70 within seconds, whatever hangs. Real processes and sockets; the GPU is the fake runtime's.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args

import grpc
import numpy as np
import pytest
from stoker.errors import RESTART_S, DeviceFailed, Reach
from stoker.lifecycle.device_fault import LEAVE_WITHIN_S
from stoker.protocol.health_pb2 import HealthCheckRequest, HealthCheckResponse
from stoker.runtime.cuda_graphs import GraphSupport
from stoker.runtime.session import Placement
from stoker.settings import GrpcTransport

from tests import models
from tests.calls import (
    BATCHING,
    Call,
    Connect,
    GrpcClient,
    RestClient,
    occupy,
    on_both_protocols,
    rows,
    send_each,
    wait_until,
)
from tests.conftest import FREE_PORTS, Serving, StokerProcess, run_stoker
from tests.fake_runtime import FakeModel, FakeRuntime
from tests.faulty_server import GOOD, HANGS, SENTENCE, STICKY, WAITS

SLACK_S = 3.0
"""For the machine, beside what the server promises."""

on_each_transport = pytest.mark.parametrize("transport", get_args(GrpcTransport))


@contextmanager
def process(folder: Path, *arguments: str) -> Iterator[StokerProcess]:
    """A server with the models `m` and `other` on a GPU and `cpu` on the CPU."""
    entry = models.ModelEntry(b"fake", BATCHING)
    repository = models.write_repository(
        folder / "repository", dict.fromkeys(("m", "other", "cpu"), entry)
    )
    with run_stoker(
        str(repository), *arguments, module="tests.faulty_server", stderr=subprocess.PIPE
    ) as running:
        yield running


def health(at: str) -> int:
    """What gRPC health says of the server."""
    with grpc.insecure_channel(at) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        return int(check(HealthCheckRequest(), timeout=10).status)


def ended(running: StokerProcess, began: float) -> tuple[int, list[dict[str, object]]]:
    """Exit code and log of a process that must end in time."""
    _, log = running.process.communicate(timeout=60)
    assert time.monotonic() - began < LEAVE_WITHIN_S + SLACK_S
    return running.process.returncode, [json.loads(line) for line in log.splitlines()]


@on_both_protocols
@on_each_transport
def test_a_sticky_fault_answers_everyone_retryably_and_ends_the_process_with_70(
    tmp_path: Path, connect: Connect, transport: GrpcTransport
) -> None:
    with process(tmp_path, "--grpc-transport", transport) as running, connect(running.at) as client:
        waiting: list[Call] = [client.send("other", {"x": rows(HANGS)})]
        wait_until(
            lambda: running.at.metric("stoker_model_requests_in_flight", model="other") == 1,
            "a run on the same GPU",
        )
        began = time.monotonic()
        waiting.append(client.send("m", {"x": rows(STICKY)}))
        for call in waiting:
            answer = call.answer()
            assert answer.status == connect.statuses["DEVICE_FAILED"]
            assert SENTENCE in answer.error
            assert answer.retry_after == RESTART_S
        code, log = ended(running, began)
    assert code == 70
    (fault,) = [record for record in log if record.get("event") == "device_failed"]
    assert (fault["model"], fault["version"], fault["level"]) == ("m", 1, "critical")
    assert fault["devices"] == ["cuda:0"]
    assert fault["rows"] == 1
    assert fault["shapes"] == ["x FP32 [1,4]"]
    assert SENTENCE in str(fault["reason"])


@on_each_transport
def test_readiness_and_grpc_health_are_false_while_the_last_answers_leave(
    tmp_path: Path, transport: GrpcTransport
) -> None:
    with process(tmp_path, "--grpc-transport", transport) as running:
        at = running.at
        assert (at.probe("/readyz")[0], health(at.grpc)) == (200, HealthCheckResponse.SERVING)
        with RestClient(at) as client, grpc.insecure_channel(at.grpc) as channel:
            watch = channel.unary_stream(
                "/grpc.health.v1.Health/Watch",
                request_serializer=HealthCheckRequest.SerializeToString,
                response_deserializer=HealthCheckResponse.FromString,
            )(HealthCheckRequest(), timeout=30)
            assert next(watch).status == HealthCheckResponse.SERVING
            slow = client.send("cpu", {"x": rows(WAITS)})  # keeps the process for as long as it may
            wait_until(
                lambda: at.metric("stoker_model_requests_in_flight", model="cpu") == 1, "a run"
            )
            began = time.monotonic()
            broken = client.send("m", {"x": rows(STICKY)})
            assert broken.answer().status == "503"
            status, reasons = at.probe("/readyz")
            assert status == 503
            assert SENTENCE in reasons
            assert at.probe("/livez")[0] == 200
            assert next(watch).status == HealthCheckResponse.NOT_SERVING
            answer = slow.answer()
            assert (answer.status, "shutting down" in answer.error) == ("503", True)
        code, _ = ended(running, began)
    assert code == 70


def test_a_run_that_hangs_on_a_gpu_ends_the_process_with_70(tmp_path: Path) -> None:
    with process(tmp_path, "--hung-run-timeout", "500ms") as running:
        with GrpcClient(running.at) as client:
            np.testing.assert_array_equal(
                client.send("m", {"x": rows(GOOD)}).answer().output(), rows(2 * GOOD)
            )
            answer = client.send("m", {"x": rows(HANGS)}).answer()
            began = time.monotonic()
            assert answer.status == "UNAVAILABLE"
            assert "has not ended" in answer.error
        code, log = ended(running, began)
    assert code == 70
    assert [record["model"] for record in log if record["event"] == "hung_run"] == ["m"]
    (fault,) = [record for record in log if record.get("event") == "device_failed"]
    assert fault["last_good_run_s_ago"] is not None


def test_a_run_that_hangs_on_the_cpu_is_told_and_ends_nothing(tmp_path: Path) -> None:
    with process(tmp_path, "--hung-run-timeout", "500ms", "--drain-delay", "0s") as running:
        at = running.at
        with RestClient(at) as client:
            client.send("cpu", {"x": rows(WAITS)})
            wait_until(lambda: at.metric("stoker_hung_runs_total", model="cpu") == 1, "a word")
            assert at.probe("/readyz")[0] == 200
            assert client.send("m", {"x": rows(GOOD)}).answer().status == "OK"


def death(anything: object) -> DeviceFailed:
    return DeviceFailed(SENTENCE, reach=Reach.PROCESS)


@pytest.mark.parametrize(
    "model",
    [
        FakeModel(fail=death),
        FakeModel(graphs=GraphSupport(is_wanted=True), capture_error=death),
    ],
    ids=["warm-up", "capture"],
)
def test_a_model_that_breaks_the_gpu_while_it_is_loaded_ends_the_process(
    model: FakeModel, serve: Serving, tmp_path: Path
) -> None:
    runtime = FakeRuntime(models={"bad": model}, placements=(Placement("cuda:0", 1, 1),))
    entry = models.ModelEntry(b"fake", BATCHING)
    server = serve(
        models.write_repository(tmp_path / "repository", {"bad": entry}), runtime=runtime
    )
    assert server.on_loop(lambda its: its.device_faults.has_struck)
    assert SENTENCE in server.at.probe("/readyz")[1]
    assert not any(session.closed for session in runtime.sessions), "freeing may hang"


LOADING_HANGS = replace(FREE_PORTS, hung_load_timeout_s=0.1)


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_a_warm_up_that_hangs_on_a_gpu_ends_the_process_and_on_the_cpu_is_counted(
    serve: Serving, tmp_path: Path, device: str
) -> None:
    runtime = FakeRuntime(placements=(Placement(device, 1, 1),))
    entry = models.ModelEntry(b"fake", BATCHING)
    repository = models.write_repository(tmp_path / "repository", {"bad": entry})
    runtime.hold()
    try:
        server = serve(repository, runtime=runtime, settings=LOADING_HANGS, wait=False)
        wait_until(
            lambda: server.at.metric("stoker_hung_load_runs_total", model="bad") == 1, "a word"
        )
        has_struck = server.on_loop(lambda its: its.device_faults.has_struck)
        assert has_struck is (device != "cpu")
        said = "a run of the warm-up of 'bad' v1 on cuda:0 has not ended"
        assert (said in server.at.probe("/readyz")[1]) is has_struck
    finally:
        runtime.release()


@on_both_protocols
def test_a_fault_of_one_model_on_a_gpu_leaves_the_process_alone(
    serve: Serving, tmp_path: Path, connect: Connect
) -> None:
    broken = FakeModel()
    runtime = FakeRuntime(models={"m": broken}, placements=(Placement("cuda:0", 1, 1),))
    entry = models.ModelEntry(b"fake", BATCHING)
    repository = models.write_repository(
        tmp_path / "repository", dict.fromkeys(("m", "other"), entry)
    )
    server = serve(repository, runtime=runtime)
    with connect(server.at) as client:
        try:
            running = occupy(client, runtime)
            queued = send_each(client, range(1, 5), server)
            broken.fail = lambda feeds: DeviceFailed("no kernel image", reach=Reach.MODEL)
        finally:
            runtime.release()
        for call in (running, *queued):
            assert call.answer().status == connect.statuses["DEVICE_FAILED"]
        assert client.send("other", {"x": rows(1)}).answer().status == "OK"
    assert not server.on_loop(lambda its: its.device_faults.has_struck)
