"""What a refused request held is free once it is answered: no cycle keeps it for the collector."""

import gc
import gzip
import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final

import grpc
import numpy as np
import pytest
from stoker.request import InferRequest

from tests import models
from tests.calls import PATIENCE, Connect, GrpcClient, on_both_protocols
from tests.conftest import FREE_PORTS, RunningServer, Serving

LEAST_BYTES: Final = 128


def holds_a_request(each: object) -> bool:
    """Whether an object of the collector's holds what a client sent."""
    if isinstance(each, FrameType):
        return any(
            isinstance(value, bytes) and len(value) >= LEAST_BYTES
            for value in each.f_locals.values()
        )
    return isinstance(each, InferRequest)


@contextmanager
def no_request_is_left_in_a_cycle() -> Iterator[None]:
    """Keeps the collector off, and looks at what it would have had to find."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [each for each in gc.garbage if holds_a_request(each)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.fixture
def server(serve: Serving, tmp_path: Path) -> RunningServer:
    return serve(models.write_repository(tmp_path, {"m": models.fails_on_data()}))


REFUSED = {
    "wrong shape": ("m", np.ones((20, 3), np.int64)),
    "wrong datatype": ("m", np.ones((20, 1), np.float64)),
    "unknown model": ("nobody", np.ones((20, 1), np.int64)),
    "a run that fails": ("m", np.full((20, 1), 99)),
}


@on_both_protocols
@pytest.mark.parametrize(("model", "given"), REFUSED.values(), ids=REFUSED)
def test_a_refused_request_is_freed_with_its_answer(
    server: RunningServer, connect: Connect, model: str, given: np.ndarray
) -> None:
    with connect(server.at) as client, no_request_is_left_in_a_cycle():
        for _ in range(3):
            assert client.send(model, {"x": given}).answer().status != "OK"


def post(server: RunningServer, body: bytes, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.at.http_port, timeout=PATIENCE)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", "/v2/models/m/infer", body, named)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


LARGE = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"INT64","data":[' + b"1," * 200_000
BODIES = {
    "small": (b"{", {}, 400),
    "large": (LARGE, {}, 400),
    "large, of wrong count": (LARGE + b"1]}]}", {}, 400),
    "no gzip": (LARGE, {"content_encoding": "gzip"}, 400),
    "gzip of no JSON": (gzip.compress(LARGE), {"content_encoding": "gzip"}, 400),
    "too large a frame": (b'{"inputs":[],"a":[' + b"[]," * 200_000 + b"1]}", {}, 413),
}


@pytest.mark.parametrize(("body", "headers", "status"), BODIES.values(), ids=BODIES)
def test_a_body_that_is_refused_is_freed_with_its_answer_and_counted(
    server: RunningServer, body: bytes, headers: dict[str, str], status: int
) -> None:
    with no_request_is_left_in_a_cycle():
        for _ in range(3):
            assert post(server, body, **headers) == status
    reason = "malformed" if status == 400 else "too_large"
    assert server.at.metric("stoker_requests_unrouted_total", reason=reason) == 3


def test_a_body_that_inflates_beyond_the_budget_is_refused_and_counted(
    serve: Serving, tmp_path: Path
) -> None:
    settings = replace(FREE_PORTS, max_buffered_bytes=1 << 20, max_message_bytes=1 << 20)
    repository = models.write_repository(tmp_path, {"m": models.fails_on_data()})
    server = serve(repository, settings=replace(settings, max_json_bytes=1 << 19))
    bomb = gzip.compress(bytes(64 << 20))
    with no_request_is_left_in_a_cycle():
        assert post(server, bomb, content_encoding="gzip") == 413
        length = {"inference_header_content_length": "10"}
        assert post(server, bomb, content_encoding="gzip", **length) == 429
    assert server.at.metric("stoker_requests_unrouted_total", reason="too_large") == 2
    assert post(server, LARGE[:1000], content_encoding="identity") == 400


def test_members_of_gzip_that_follow_one_another_are_one_body(server: RunningServer) -> None:
    body = json.dumps(
        {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT64", "data": [1]}]}
    ).encode()
    for cut in (1, 20, len(body) - 1):
        members = gzip.compress(body[:cut]) + gzip.compress(body[cut:])
        assert post(server, members, content_encoding="gzip") == 200


def test_a_message_that_does_not_parse_is_freed_with_its_answer(server: RunningServer) -> None:
    with grpc.insecure_channel(server.at.grpc) as channel, no_request_is_left_in_a_cycle():
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer"
        )
        for _ in range(3):
            with pytest.raises(grpc.RpcError):
                infer(b"\0" * 1000)
    assert server.at.metric("stoker_requests_unrouted_total", reason="malformed") == 3


def test_a_grpc_message_that_the_budget_has_no_room_for_is_refused_and_counted(
    serve: Serving, tmp_path: Path
) -> None:
    settings = replace(FREE_PORTS, max_buffered_bytes=1 << 16, max_message_bytes=1 << 20)
    repository = models.write_repository(tmp_path, {"m": models.fails_on_data()})
    server = serve(repository, settings=settings)
    with GrpcClient(server.at) as client:
        answer = client.send("m", {"x": np.zeros((1 << 14, 1), np.int64)}).answer()
        assert answer.status == "RESOURCE_EXHAUSTED"
        assert "server buffers" in answer.error
        assert answer.retry_after == 1.0
        client.send("m", {"x": np.zeros((1, 1), np.int64)}).answer().output()
    assert server.at.metric("stoker_requests_unrouted_total", reason="too_large") == 1
