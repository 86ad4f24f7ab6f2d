"""The raw clients of the benchmarks against our server: statuses, large bodies, and the accounts
that hold a load tool's count against the server's."""

import os
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
from stoker.tensor import DataType

from benchmarks.accounts import audited
from benchmarks.bodies import binary_headers, framed, grpc_request, rest_request
from benchmarks.call_headers import grpc_fields, repeated
from benchmarks.generator import closed_loop, open_loop
from benchmarks.raw_http1 import Http1Client, request
from benchmarks.raw_http2 import HTTP_STATUS, Http2Client
from benchmarks.serving import Endpoint
from benchmarks.targets import connected
from tests.conftest import RunningServer, Serving
from tests.models import double, identity, write_repository

X = np.arange(4, dtype=np.float32).reshape(1, 4)
NOT_FOUND = 5


def endpoint(server: RunningServer) -> Endpoint:
    at = server.at
    return Endpoint(at.http_port, at.grpc_port, at.metrics_port, os.getpid())


@pytest.fixture
def at(serve: Serving, tmp_path: Path) -> Endpoint:
    return endpoint(serve(write_repository(tmp_path, {"m": double()})))


def call_over_grpc(at: Endpoint, model: str, due: list[float]) -> tuple[dict[int, int], float]:
    """The codes of calls that were due at these moments, and the longest latency."""
    body = framed(grpc_request(model, x=X))
    with connected(lambda: Http2Client(at.grpc, 16), 2) as clients:
        scripts = [repeated(each, grpc_fields(at.grpc), body) for each in clients]
        outcome = open_loop(clients, scripts, due)
    assert outcome.unanswered == 0
    return dict(outcome.codes), max(max(each) for each in outcome.latencies.values())


def test_codes_are_those_of_the_calls_over_grpc(at: Endpoint) -> None:
    assert call_over_grpc(at, "m", [0.0] * 40)[0] == {0: 40}
    assert call_over_grpc(at, "missing", [0.0] * 40)[0] == {NOT_FOUND: 40}


def test_codes_are_those_of_the_calls_over_rest(at: Endpoint) -> None:
    body, length = rest_request(x=X)
    codes = []
    for model in ("m", "missing"):
        call = request(f"/v2/models/{model}/infer", body, binary_headers(length))
        with connected(lambda: Http1Client(at.http), 4) as clients:
            codes.append(dict(open_loop(clients, [repeat(call)] * 4, [0.0] * 20).codes))
    assert codes == [{0: 20}, {HTTP_STATUS + 404: 20}]


def test_latency_counts_from_the_moment_a_call_was_due(at: Endpoint) -> None:
    assert call_over_grpc(at, "m", [-0.5])[1] > 0.5


def test_a_body_larger_than_the_first_windows_arrives(serve: Serving, tmp_path: Path) -> None:
    x = np.ones((1, 1 << 19), np.float32)
    network = identity(DataType.FP32, ["batch", 1 << 19])
    at = endpoint(serve(write_repository(tmp_path, {"large": network})))
    with connected(lambda: Http2Client(at.grpc, 2), 2) as clients:
        body = framed(grpc_request("large", x=x))
        scripts = [repeated(each, grpc_fields(at.grpc), body) for each in clients]
        outcome = closed_loop(clients, scripts, 0.2).all_good()
    assert outcome.good


def test_a_count_that_the_server_does_not_share_ends_the_benchmark(at: Endpoint) -> None:
    with audited(at) as account:
        account.counted = sum(call_over_grpc(at, "m", [0.0] * 10)[0].values())
    assert account.server["nv_inference_request_success"] == 10
    with pytest.raises(SystemExit, match="counted 10 answers"), audited(at) as account:
        account.counted = sum(call_over_grpc(at, "m", [0.0] * 9)[0].values()) + 1


def test_failures_that_h2load_would_count_end_the_benchmark(at: Endpoint) -> None:
    with pytest.raises(SystemExit, match="unrouted"), audited(at) as account:
        account.counted = sum(call_over_grpc(at, "missing", [0.0] * 10)[0].values())
