"""What is noted of calls, whatever shares their connection, and of those the server ends."""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, PingAckReceived
from stoker.settings import GrpcTransport

from tests.calls import ServeFake
from tests.conftest import FREE_PORTS
from tests.grpc_call import SERVICE, grpc_status
from tests.spans import Receiver, receiving
from tests.stream_client import open_stream, request

TRACED = replace(FREE_PORTS, tracing=True, trace_sampling=1.0)
UNASKED = replace(FREE_PORTS, tracing=True, trace_sampling=0.0)
"""Only what a caller wants to be traced is."""
TRACEPARENT = f"traceparent: 00-{'a' * 32}-{'b' * 16}-01\r\n"
INPUT = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}


@pytest.fixture(scope="module")
def process() -> Iterator[Receiver]:
    """The receiver of all tests of the file."""
    with receiving() as made:
        yield made


@pytest.fixture
def receiver(process: Receiver, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """A receiver that servers of the test export to."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", process.grpc)
    process.take()  # of a test before
    return process


def infer(model: str, id: str, head: str = "") -> bytes:
    """A request of HTTP/1.1 as it is sent."""
    body = json.dumps({"id": id, "inputs": [INPUT]})
    return (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: a\r\n{head}"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def test_a_call_that_is_not_traced_adds_nothing_to_the_span_of_the_one_before_it(
    serve_fake: ServeFake, receiver: Receiver
) -> None:
    server = serve_fake(settings=UNASKED)
    # More than are read at once: those behind are read when the first ones' answers are written.
    pipeline = [
        infer("nobody", "traced", TRACEPARENT),
        *[infer("m", "other")] * 99,
        infer("m", "last", "Connection: close\r\n"),
    ]
    with socket.create_connection(("127.0.0.1", server.at.http_port)) as client:
        client.sendall(b"".join(pipeline))
        answers = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert answers.count(b"HTTP/1.1 200") == 100
    server.stop()
    (call,) = receiver.take().calls
    assert call.attributes["error.type"] == "MODEL_NOT_FOUND"
    assert call.attributes.keys().isdisjoint(("stoker.model.name", "stoker.id", "stoker.rows"))


def test_a_stream_that_the_transport_ends_has_one_span_that_says_why(
    serve_fake: ServeFake, receiver: Receiver, grpc_transport: GrpcTransport
) -> None:
    if grpc_transport == "grpcio":
        pytest.skip("gRPC core refuses large messages by itself and tells nobody")
    server = serve_fake(settings=replace(TRACED, max_message_bytes=20_000))
    with open_stream(server.at) as stream:
        stream.send(request(1))
        stream.read()
        stream.send(b"x" * 30_000)
        assert stream.end() is grpc.StatusCode.RESOURCE_EXHAUSTED
    server.stop()
    (call,) = receiver.take().calls
    assert call.attributes["rpc.response.status_code"] == "RESOURCE_EXHAUSTED"
    assert call.attributes["error.type"] == "TOO_LARGE"
    assert call.names == ["request"]


def test_a_stream_that_the_server_ends_says_that_it_drained(
    serve_fake: ServeFake, receiver: Receiver
) -> None:
    server = serve_fake(settings=TRACED)
    with open_stream(server.at) as stream:
        stream.send(request(1))
        stream.read()
        server.drain()
        assert stream.end() is grpc.StatusCode.UNAVAILABLE
    server.stop()
    (call,) = receiver.take().calls
    assert call.attributes["error.type"] == "DRAINING"


def test_a_call_that_is_never_whole_is_traced_when_the_server_ends_it_and_a_watch_is_not(
    serve_fake: ServeFake, receiver: Receiver, grpc_transport: GrpcTransport
) -> None:
    if grpc_transport == "grpcio":
        pytest.skip("gRPC core hands over whole calls")
    server = serve_fake(settings=replace(TRACED, drain_timeout_s=0.0))
    client = H2Connection(H2Configuration(client_side=True))
    with socket.create_connection(("127.0.0.1", server.at.grpc_port)) as connection:
        client.initiate_connection()
        for stream, path in ((1, SERVICE + "ModelInfer"), (3, "/grpc.health.v1.Health/Watch")):
            head = [
                (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"),
                ("content-type", "application/grpc"), ("te", "trailers"),
            ]  # fmt: skip
            client.send_headers(stream, head)
        client.send_data(1, b"\0\0\0\0\x64" + b"a part")
        client.send_data(3, b"\0\0\0\0\0", end_stream=True)
        client.ping(b"a round.")
        connection.sendall(client.data_to_send())
        seen: list[type[Event]] = []
        while PingAckReceived not in seen:
            seen += [type(each) for each in client.receive_data(connection.recv(1 << 16))]
        server.stop()
    (call,) = receiver.take().calls
    assert call.name == "inference.GRPCInferenceService/ModelInfer"
    assert call.attributes["error.type"] == "DRAINING"


def test_names_of_spans_are_none_that_a_client_made_up(
    serve_fake: ServeFake, receiver: Receiver, grpc_transport: GrpcTransport
) -> None:
    if grpc_transport == "grpcio":
        pytest.skip("gRPC core refuses unknown methods by itself and tells nobody")
    server = serve_fake(settings=TRACED)
    made_up = "/made.up/" + "A" * 1000
    assert grpc_status(server.at, made_up, b"")[0] == "UNIMPLEMENTED"
    with socket.create_connection(("127.0.0.1", server.at.http_port)) as client:
        client.sendall(b"MADEUP / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 501")
    server.stop()
    grpc_call, http_call = receiver.take().calls
    assert (grpc_call.name, grpc_call.attributes["rpc.method"]) == ("grpc", "_OTHER")
    assert grpc_call.attributes["rpc.method_original"] == made_up[1:257]
    assert (http_call.name, http_call.attributes["http.request.method"]) == ("HTTP", "_OTHER")


def test_a_request_that_is_never_whole_is_traced_when_the_server_ends_it(
    serve_fake: ServeFake, receiver: Receiver
) -> None:
    server = serve_fake(settings=replace(TRACED, drain_timeout_s=0.0))
    with socket.create_connection(("127.0.0.1", server.at.http_port)) as client:
        client.sendall(
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\n"
            b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 100")
        server.stop()
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 503")
    (call,) = receiver.take().calls
    assert (call.attributes["url.path"], call.attributes["error.type"]) == (
        "/v2/models/m/infer",
        "DRAINING",
    )
