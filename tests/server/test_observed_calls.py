"""What is noted of a call is its own: not that of calls which share its connection or its stream."""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.calls import ServeFake
from tests.conftest import FREE_PORTS
from tests.spans import Receiver, receiving

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
