"""Traces over real sockets, as a receiver of OTLP gets them: spans, links, contexts, statuses."""

import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from stoker.errors import ExecutionFailed
from stoker.settings import Settings

from tests import models
from tests.calls import (
    BATCHING,
    Connect,
    GrpcClient,
    RestClient,
    ServeFake,
    occupy,
    on_both_protocols,
    rows,
    send_each,
    wait_for_in_flight,
    wait_for_queued,
)
from tests.conftest import FREE_PORTS, PATIENCE, RunningServer, Serving
from tests.fake_runtime import FakeRuntime
from tests.grpc_call import SERVICE, grpc_status
from tests.rest_call import get, post
from tests.spans import ERROR, INTERNAL, SERVER, UNSET, Receiver, Span, Spans, receiving
from tests.stream_client import WRONG, open_stream, request

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT: Mapping[str, str] = {
    "traceparent": f"00-{TRACE}-{SPAN}-01",
    "tracestate": "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
}
INFER = "/v2/models/m/infer"
REST_NAME = "POST /v2/models/{model}/infer"
GRPC_NAME = "inference.GRPCInferenceService/ModelInfer"
STREAM_NAME = "inference.GRPCInferenceService/ModelStreamInfer"
STEPS = ["receive", "queue", "run", "respond"]
TRACED = replace(FREE_PORTS, tracing=True, trace_sampling=1.0)
UNASKED = replace(FREE_PORTS, tracing=True, trace_sampling=0.0)
"""Only what a caller wants to be traced is."""


@pytest.fixture(scope="module")
def process() -> Iterator[Receiver]:
    """The receiver of all tests of the file."""
    with receiving() as made:
        yield made


@pytest.fixture
def receiver(process: Receiver, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """A receiver that servers of the test export to."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", process.grpc)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=stoker-0,k8s.namespace.name=a")
    process.take()  # of a test before
    return process


@pytest.fixture
def finish(receiver: Receiver) -> Callable[[RunningServer], Spans]:
    """Stops the server and gives what it exported."""

    def end(server: RunningServer) -> Spans:
        server.stop()
        return receiver.take()

    return end


@pytest.fixture(scope="module")
def refusing() -> Iterator[Receiver]:
    """A receiver that takes no spans."""
    with receiving("refusing") as made:
        yield made


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


Finish = Callable[[RunningServer], Spans]


def check_steps(call: Span, within: Span | None = None) -> None:
    """A call has the four steps, one after the other, all of it within the call."""
    assert call.names == STEPS
    receive, queue, run, respond = call.children
    assert call.start_ns == receive.start_ns
    assert receive.end_ns == queue.start_ns
    assert queue.end_ns == run.start_ns
    assert run.end_ns <= respond.start_ns <= respond.end_ns == call.end_ns
    assert {each.kind for each in call.children} == {INTERNAL}
    assert {each.trace_id for each in call.children} == {call.trace_id}


@on_both_protocols
def test_a_call_has_a_span_for_each_step_and_its_batch_is_linked_both_ways(
    serve_fake: ServeFake, finish: Finish, connect: Connect
) -> None:
    server = serve_fake(settings=TRACED)
    with connect(server.at) as client:
        client.send("m", {"x": rows(1, 2)}, headers=PARENT).answer().output()
    spans = finish(server)
    (call,) = spans.calls
    assert call.kind == SERVER
    assert (call.trace_id, call.parent_id) == (TRACE, SPAN)
    assert call.trace_state == PARENT["tracestate"]
    assert {each.trace_state for each in call.children} == {PARENT["tracestate"]}
    check_steps(call)
    (batch,) = spans.batches
    run = call.inside("run")
    assert run.links == [batch.identity]
    assert batch.links == [call.identity]
    assert (batch.parent_id, batch.name) == ("", "batch m")
    assert (batch.start_ns, batch.end_ns) == (run.start_ns, run.end_ns)
    assert batch.names == ["run"]
    inner = batch.inside("run")
    assert batch.start_ns <= inner.start_ns <= inner.end_ns <= batch.end_ns
    assert {each.status for each in spans.all} == {UNSET}


@on_both_protocols
def test_spans_say_what_was_called_and_how_it_ended(
    serve_fake: ServeFake, finish: Finish, connect: Connect
) -> None:
    server = serve_fake(settings=TRACED)
    with connect(server.at) as client:
        client.send("m", {"x": rows(1, 2)}, headers={"x-request-id": "r-1"}).answer().output()
    spans = finish(server)
    (call,) = spans.calls
    attributes = call.attributes
    assert attributes["stoker.model.name"] == "m"
    assert attributes["stoker.model.version"] == "1"
    assert attributes["stoker.rows"] == 2
    assert attributes["stoker.request_id"] == "r-1"
    assert attributes["client.address"] == "127.0.0.1"
    assert isinstance(attributes["client.port"], int)
    if connect is RestClient:
        assert call.name == REST_NAME
        assert attributes["http.request.method"] == "POST"
        assert attributes["url.path"] == INFER
        assert attributes["url.scheme"] == "http"
        assert attributes["http.route"] == "/v2/models/{model}/infer"
        assert attributes["http.response.status_code"] == 200
        assert attributes["network.protocol.version"] == "1.1"
        assert attributes["http.request.body.size"] > 32
    else:
        assert call.name == GRPC_NAME
        assert attributes["rpc.system"] == attributes["rpc.system.name"] == "grpc"
        assert attributes["rpc.method"] == GRPC_NAME
        assert attributes["rpc.response.status_code"] == "OK"
        assert attributes["rpc.grpc.status_code"] == 0
        assert attributes["stoker.request.bytes"] > 32
    (batch,) = spans.batches
    assert batch.attributes == {
        "stoker.model.name": "m",
        "stoker.model.version": "1",
        "stoker.batch.rows": 2,
        "stoker.batch.requests": 1,
        "stoker.device": "cpu",
    }
    assert call.resource["service.name"] == "stoker"
    assert call.resource["k8s.pod.name"] == "stoker-0"
    assert call.resource["k8s.namespace.name"] == "a"
    assert call.scope == "stoker"


def test_requests_of_one_batch_are_linked_to_one_span(
    serve_fake: ServeFake, runtime: FakeRuntime, finish: Finish
) -> None:
    server = serve_fake(settings=TRACED)
    with GrpcClient(server.at) as client:
        first = occupy(client, runtime)
        later = send_each(client, [1, 2, 3], server)
        runtime.release()
        for sent in (first, *later):
            sent.answer().output()
    spans = finish(server)
    alone, together = spans.batches
    assert (alone.attributes["stoker.batch.rows"], together.attributes["stoker.batch.rows"]) == (
        1, 3,
    )  # fmt: skip
    assert together.attributes["stoker.batch.requests"] == 3
    calls = spans.named(GRPC_NAME)
    assert sorted(together.links) == sorted(call.identity for call in calls[1:])
    assert len({call.trace_id for call in calls}) == 4
    for call in calls[1:]:
        assert call.inside("run").links == [together.identity]
        assert call.inside("queue").end_ns == together.start_ns


@on_both_protocols
def test_only_calls_that_are_sampled_are_linked_to_a_batch(
    serve_fake: ServeFake, runtime: FakeRuntime, finish: Finish, connect: Connect
) -> None:
    server = serve_fake(settings=UNASKED)
    with connect(server.at) as client:
        first = occupy(client, runtime)
        asked = client.send("m", {"x": rows(1)}, headers=PARENT)
        wait_for_queued(server, 1)
        others = send_each(client, [2, 3], server)
        runtime.release()
        for sent in (first, asked, *others):
            sent.answer().output()
    spans = finish(server)
    (call,) = spans.calls
    (batch,) = spans.batches
    assert call.trace_id == TRACE
    assert batch.links == [call.identity]
    assert batch.attributes["stoker.batch.requests"] == 3


@on_both_protocols
def test_a_caller_that_is_not_sampled_is_not_traced(
    serve_fake: ServeFake, finish: Finish, connect: Connect
) -> None:
    server = serve_fake(settings=TRACED)
    with connect(server.at) as client:
        unsampled = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
        client.send("m", {"x": rows(1)}, headers=unsampled).answer().output()
    assert finish(server).all == []


@on_both_protocols
def test_an_invalid_traceparent_is_as_none(
    serve_fake: ServeFake, finish: Finish, connect: Connect
) -> None:
    server = serve_fake(settings=TRACED)
    wrong = {**PARENT, "traceparent": f"00-{TRACE.upper()}-{SPAN}-01"}
    with connect(server.at) as client:
        client.send("m", {"x": rows(1)}, headers=wrong).answer().output()
    (call,) = finish(server).calls
    assert call.parent_id == ""
    assert call.trace_id != TRACE
    assert call.trace_state == ""


def test_calls_over_http2_are_traced(serve_fake: ServeFake, finish: Finish) -> None:
    server = serve_fake(settings=UNASKED)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    with httpx.Client(http1=False, http2=True, base_url=server.at.url) as client:
        for number in range(3):  # the head is remembered, and differs in the context only
            parent = {"traceparent": f"00-{TRACE[:-1]}{number}-{SPAN}-01"}
            assert client.post(INFER, json=body, headers=parent).status_code == 200
        assert client.post(INFER, json=body).status_code == 200
    calls = finish(server).calls
    assert [call.trace_id for call in calls] == [f"{TRACE[:-1]}{number}" for number in range(3)]
    for call in calls:
        check_steps(call)
        assert call.attributes["network.protocol.version"] == "2"
        assert call.attributes["client.address"] == "127.0.0.1"


@on_both_protocols
def test_a_run_that_fails_is_an_error_of_call_and_batch(
    serve_fake: ServeFake, runtime: FakeRuntime, finish: Finish, connect: Connect
) -> None:
    runtime.model.fail = lambda feeds: ExecutionFailed("a bad value") if feeds["x"][0, 0] else None
    server = serve_fake(settings=TRACED)
    with connect(server.at) as client:
        failed = client.send("m", {"x": rows(1)}).answer()
    assert failed.status == connect.statuses["EXECUTION_FAILED"]
    spans = finish(server)
    (call,), (batch,) = spans.calls, spans.batches
    for span in (call, batch):
        assert (span.status, span.status_message) == (ERROR, "EXECUTION_FAILED")
        assert span.attributes["error.type"] == "EXECUTION_FAILED"
    check_steps(call)
    assert batch.names == []  # not one run was good


def test_a_batch_that_is_bisected_has_a_span_for_each_good_run(
    serve_fake: ServeFake, runtime: FakeRuntime, finish: Finish
) -> None:
    runtime.model.fail = lambda feeds: (
        ExecutionFailed("a bad value") if (feeds["x"] == 2).any() else None
    )
    server = serve_fake(settings=TRACED)
    with GrpcClient(server.at) as client:
        first = occupy(client, runtime)
        later = send_each(client, [1, 2, 3], server)
        runtime.release()
        statuses = [call.answer().status for call in (first, *later)]
    assert statuses == ["OK", "OK", "INTERNAL", "OK"]
    spans = finish(server)
    batch = spans.batches[1]
    assert batch.status == UNSET
    assert batch.names == ["run", "run"]
    assert [call.status for call in spans.calls] == [UNSET, UNSET, ERROR, UNSET]
    assert len(batch.links) == 3


@on_both_protocols
def test_a_call_that_is_refused_says_why_and_has_no_batch(
    serve_fake: ServeFake, finish: Finish, connect: Connect
) -> None:
    server = serve_fake(settings=TRACED)
    with connect(server.at) as client:
        assert client.send("m", {"wrong": rows(1)}).answer().error
        assert client.send("nope", {"x": rows(1)}).answer().error
    spans = finish(server)
    assert spans.batches == []
    assert [call.attributes["error.type"] for call in spans.calls] == [
        "INVALID_REQUEST", "MODEL_NOT_FOUND",
    ]  # fmt: skip
    for call in spans.calls:
        assert call.status == UNSET  # the caller's fault is no error of the server's span
        assert call.names == ["receive", "respond"]


def test_a_request_that_finds_no_room_says_so(
    serve_fake: ServeFake, runtime: FakeRuntime, finish: Finish
) -> None:
    config = (
        "max_batch_size: 1\n"
        "dynamic_batching { default_queue_policy { max_queue_size: 1 } }\n"
    )  # fmt: skip
    server = serve_fake(config, settings=TRACED)
    with RestClient(server.at) as client:
        first = occupy(client, runtime)
        second = send_each(client, [1], server)
        refused = client.send("m", {"x": rows(2)}).answer()
        runtime.release()
        for sent in (first, *second):
            sent.answer().output()
    assert refused.status == "429"
    (call,) = [each for each in finish(server).calls if "error.type" in each.attributes]
    assert call.attributes["error.type"] == "OVERLOADED"
    assert call.attributes["http.response.status_code"] == 429
    assert call.names == ["receive", "respond"]


def test_what_the_transport_refuses_is_traced(serve_fake: ServeFake, finish: Finish) -> None:
    server = serve_fake(settings=replace(TRACED, max_json_bytes=1 << 20, max_message_bytes=1 << 20))
    assert post(server.at, INFER, content=b"no JSON").status_code == 400
    assert post(server.at, INFER, content=b"1" * (2 << 20)).status_code == 413
    assert get(server.at, "/nowhere").status_code == 404
    assert get(server.at, INFER).status_code == 405
    spans = finish(server)
    assert [
        (call.name, call.attributes["http.response.status_code"], call.attributes["error.type"])
        for call in spans.calls
    ] == [
        (REST_NAME, 400, "INVALID_REQUEST"),
        ("POST", 413, "TOO_LARGE"),
        ("GET", 404, "NO_SUCH_PATH"),
        ("GET", 405, "METHOD_NOT_ALLOWED"),
    ]


def test_what_the_grpc_transport_refuses_is_traced(
    serve_fake: ServeFake, finish: Finish, grpc_transport: str
) -> None:
    if grpc_transport == "grpcio":
        pytest.skip("gRPC core refuses unknown methods and deadlines by itself and tells nobody")
    server = serve_fake(settings=TRACED)
    at = server.at
    assert grpc_status(at, SERVICE + "Nonsense", b"")[0] == "UNIMPLEMENTED"
    assert grpc_status(at, SERVICE + "ModelInfer", b"\xff\xff")[0] == "INVALID_ARGUMENT"
    assert grpc_status(at, SERVICE + "RepositoryModelLoad", b"")[0] == "UNIMPLEMENTED"
    calls = finish(server).calls
    assert [(call.attributes["rpc.response.status_code"], call.status) for call in calls] == [
        ("UNIMPLEMENTED", ERROR),
        ("INVALID_ARGUMENT", UNSET),
        ("UNIMPLEMENTED", ERROR),
    ]


@on_both_protocols
def test_a_call_that_is_cancelled_in_the_queue_has_waited_and_not_run(
    serve_fake: ServeFake, runtime: FakeRuntime, finish: Finish, connect: Connect
) -> None:
    server = serve_fake(settings=UNASKED)
    with connect(server.at) as client:
        first = occupy(client, runtime)
        gone = client.send("m", {"x": rows(1)}, headers=PARENT)
        wait_for_queued(server, 1)
        gone.cancel()
        wait_for_queued(server, 0)
        runtime.release()
        first.answer().output()
    spans = finish(server)
    (call,) = spans.calls
    assert call.attributes["error.type"] == "CANCELLED"
    assert call.status == UNSET  # it was the client's will
    assert call.names == ["receive", "queue", "respond"]
    assert spans.batches == []


@on_both_protocols
def test_a_call_that_is_cancelled_while_it_runs_is_linked_by_its_batch(
    serve_fake: ServeFake, runtime: FakeRuntime, finish: Finish, connect: Connect
) -> None:
    server = serve_fake(settings=UNASKED)
    with connect(server.at) as client:
        runtime.forget()
        runtime.hold()
        gone = client.send("m", {"x": rows(1)}, headers=PARENT)
        runtime.wait_for_run()
        gone.cancel()
        wait_for_in_flight(server, 0)
        runtime.release()
        client.send("m", {"x": rows(1)}).answer().output()  # the run before it is over
    spans = finish(server)
    (call,), (batch,) = spans.calls, spans.batches
    assert call.names == ["receive", "queue", "run", "respond"]
    assert call.inside("run").attributes == {"stoker.abandoned": True}
    assert call.inside("run").status == ERROR
    assert batch.links == [call.identity]
    assert batch.end_ns > call.end_ns


@on_both_protocols
def test_a_call_whose_time_is_over_in_the_queue_is_an_error(
    serve_fake: ServeFake, runtime: FakeRuntime, finish: Finish, connect: Connect
) -> None:
    config = (
        "max_batch_size: 8\n"
        "dynamic_batching { default_queue_policy { allow_timeout_override: true } }\n"
    )  # fmt: skip
    server = serve_fake(config, settings=UNASKED)
    with connect(server.at) as client:
        first = occupy(client, runtime)
        late = client.send("m", {"x": rows(1)}, timeout_us=1000, headers=PARENT).answer()
        runtime.release()
        first.answer().output()
    assert late.status == connect.statuses["DEADLINE_EXCEEDED"]
    spans = finish(server)
    (call,) = spans.calls
    assert (call.status, call.attributes["error.type"]) == (ERROR, "DEADLINE_EXCEEDED")
    assert call.names == ["receive", "queue", "respond"]
    assert call.inside("queue").end_ns - call.inside("queue").start_ns >= 1_000_000
    assert spans.batches == []


def test_a_request_that_is_run_in_parts_has_a_run_for_each(
    serve: Serving, finish: Finish, tmp_path: Path
) -> None:
    repository = models.write_repository(
        tmp_path, {"m": models.ModelEntry(models.double(), "max_batch_size: 4\n")}
    )
    server = serve(repository, settings=TRACED, profile_seconds=0.2)
    batch_rows = server.on_loop(lambda running: running.engine.served("m").costs.sizes.largest)
    with GrpcClient(server.at) as client:
        client.send("m", {"x": rows(*range(3 * batch_rows))}).answer().output()
    spans = finish(server)
    (call,) = spans.calls
    assert call.attributes["stoker.rows"] == 3 * batch_rows
    assert call.attributes["stoker.parts"] == 3
    assert call.names == ["receive", "queue", "run", "run", "run", "respond"]
    runs = [each for each in call.children if each.name == "run"]
    assert [run.links for run in runs] == [[batch.identity] for batch in spans.batches]
    assert all(batch.links == [call.identity] for batch in spans.batches)


def test_a_large_body_that_a_thread_reads_keeps_its_trace(
    serve_fake: ServeFake, finish: Finish
) -> None:
    server = serve_fake(settings=UNASKED)
    numbers = [0.123456789] * 40_000
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [8, 4], "data": numbers[:32]}]}
    text = json.dumps(body)
    padded = text[:-1] + ', "parameters": {"note": "' + "x" * 200_000 + '"}}'
    assert post(server.at, INFER, content=padded, headers=PARENT).status_code == 200
    (call,) = finish(server).calls
    check_steps(call)
    assert call.attributes["stoker.rows"] == 8
    assert call.attributes["http.request.body.size"] == len(padded)


def test_the_time_in_which_a_body_comes_is_the_calls_own(
    serve_fake: ServeFake, finish: Finish
) -> None:
    server = serve_fake(settings=UNASKED)
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}'
    head = {**PARENT, "Content-Length": str(len(body)), "Expect": "100-continue"}
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", server.at.http_port, timeout=PATIENCE)
    ) as client:
        client.request("POST", INFER, headers=head)
        assert client.sock.recv(1024).startswith(b"HTTP/1.1 100 ")  # the server has the head
        client.send(body[:50])
        assert post(server.at, INFER, content=b"{}", headers=PARENT).status_code == 400
        client.send(body[50:])
        assert client.getresponse().status == 200
    first, second = finish(server).calls
    assert first.attributes["http.response.status_code"] == 200  # it began before the other
    assert first.end_ns > second.end_ns
    assert first.inside("receive").end_ns > second.start_ns


def test_a_stream_has_a_span_and_each_request_on_it_one(
    serve_fake: ServeFake, runtime: FakeRuntime, finish: Finish
) -> None:
    server = serve_fake(settings=UNASKED)
    with open_stream(server.at, metadata=tuple(PARENT.items())) as stream:
        stream.send(request(1, id="first"), WRONG, request(3), b"\xff no message")
        stream.half_close()
        answers = [stream.read() for _ in range(4)]
        stream.end()
    assert [bool(each.error_message) for each in answers] == [False, True, False, True]
    spans = finish(server)
    (call,) = spans.calls
    assert call.name == STREAM_NAME
    assert (call.trace_id, call.parent_id, call.status) == (TRACE, SPAN, UNSET)
    assert call.attributes["stoker.stream.requests"] == 4
    assert call.names == ["request"] * 4
    first, wrong, third, malformed = call.children
    for each in (first, third):
        check_steps(each)
        assert each.attributes["stoker.model.name"] == "m"
    assert first.attributes["stoker.id"] == "first"
    assert wrong.attributes["error.type"] == "MODEL_NOT_FOUND"
    assert malformed.attributes["error.type"] == "INVALID_REQUEST"
    assert malformed.names == ["receive"]
    linked = {link for batch in spans.batches for link in batch.links}
    assert linked == {first.identity, third.identity}


def test_a_stream_that_its_client_leaves_is_cancelled_with_its_requests(
    serve_fake: ServeFake, runtime: FakeRuntime, finish: Finish
) -> None:
    server = serve_fake(settings=TRACED)
    runtime.forget()
    runtime.hold()
    with open_stream(server.at) as stream:
        stream.send(request(1))
        runtime.wait_for_run()
        stream.send(request(2))
        wait_for_queued(server, 1)
        stream.call.cancel()
        wait_for_in_flight(server, 0)
    runtime.release()
    spans = finish(server)
    (call,) = spans.calls
    assert call.attributes["error.type"] == "CANCELLED"
    assert [each.attributes["error.type"] for each in call.children] == ["CANCELLED"] * 2
    running, queued = call.children
    assert running.names == ["receive", "queue", "run", "respond"]
    assert queued.names == ["receive", "queue", "respond"]


def test_a_stream_that_ends_with_its_first_failure_is_told_with_it(
    serve_fake: ServeFake, finish: Finish
) -> None:
    server = serve_fake(settings=TRACED)
    with open_stream(server.at, metadata=(("triton_grpc_error", "true"),)) as stream:
        stream.send(WRONG)
        assert stream.end().name == "NOT_FOUND"
    (call,) = finish(server).calls
    assert call.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert [each.attributes["error.type"] for each in call.children] == ["MODEL_NOT_FOUND"]


def test_probes_are_not_traced(serve_fake: ServeFake, finish: Finish) -> None:
    server = serve_fake(settings=TRACED)
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/m/ready"):
        assert get(server.at, path).status_code == 200
    for method in ("ServerLive", "ServerReady", "ModelReady"):
        grpc_status(server.at, SERVICE + method, b"")
    assert get(server.at, "/v2/models/m").status_code == 200
    (call,) = finish(server).calls
    assert call.name == "GET"
    assert call.attributes["url.path"] == "/v2/models/m"


def test_spans_go_over_http_where_the_variable_says_so(
    serve_fake: ServeFake, receiver: Receiver, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    server = serve_fake(settings=TRACED)
    with RestClient(server.at) as client:
        client.send("m", {"x": rows(1)}).answer().output()
    (call,) = finish(server).calls
    assert call.protocol == "http"
    check_steps(call)


@pytest.mark.slow
def test_a_receiver_that_is_gone_costs_spans_and_no_request(
    serve_fake: ServeFake, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "40")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    server = serve_fake(settings=TRACED)
    with RestClient(server.at) as client:
        for value in range(50):
            client.send("m", {"x": rows(value)}).answer().output()
    dropped = server.at.metric("stoker_trace_spans_total", outcome="dropped")
    assert dropped > 0
    assert server.at.metric("stoker_trace_spans_total", outcome="exported") == 0
    server.stop()  # within its own time: the harness asserts that it ends


def why_failing(server: RunningServer, caplog: pytest.LogCaptureFixture) -> str:
    """What the log says of the reason, when the server has stopped after a call."""
    with RestClient(server.at) as client:
        client.send("m", {"x": rows(1)}).answer().output()
    server.stop()
    fields = [
        vars(record)["stoker_fields"]
        for record in caplog.records
        if vars(record).get("stoker_event") == "trace_export_failing"
    ]
    (told,) = fields
    assert SECRET not in caplog.text
    assert SECRET not in str(told)
    assert not [record for record in caplog.records if record.exc_info]
    reason: str = told["reason"]
    return reason


SECRET = "hush"


@pytest.mark.parametrize(
    ("protocol", "why"),
    [("grpc", ("PERMISSION_DENIED", "no spans from you")), ("http/protobuf", ("403", "Forbidden"))],
)
def test_the_log_says_why_a_receiver_takes_no_spans(
    serve_fake: ServeFake,
    refusing: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    protocol: str,
    why: tuple[str, str],
) -> None:
    address = refusing.grpc if protocol == "grpc" else refusing.http
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={SECRET}")
    reason = why_failing(serve_fake(settings=TRACED), caplog)
    assert all(each in reason for each in why), reason


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_log_says_that_no_receiver_is_there_and_no_password(
    serve_fake: ServeFake,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    unused_port: int,
    protocol: str,
) -> None:
    address = f"127.0.0.1:{unused_port}"
    if protocol != "grpc":  # gRPC core resolves a name and a password with the host
        address = f"name:{SECRET}@{address}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{address}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")  # less than it waits to try again
    reason = why_failing(serve_fake(settings=TRACED), caplog)
    assert "Connection refused" in reason
    assert str(unused_port) in reason


def test_the_request_durations_have_a_trace_as_example(
    serve_fake: ServeFake, receiver: Receiver
) -> None:
    server = serve_fake(settings=UNASKED)
    with RestClient(server.at) as client:
        client.send("m", {"x": rows(1)}, headers=PARENT).answer().output()
    text = server.at.metrics("application/openmetrics-text; version=1.0.0")
    traced = [line for line in text.splitlines() if f'# {{trace_id="{TRACE}"}}' in line]
    assert len(traced) == 1
    assert traced[0].startswith("stoker_request_duration_seconds_bucket{")


def test_spans_are_counted(serve_fake: ServeFake, finish: Finish) -> None:
    server = serve_fake(settings=TRACED)
    with RestClient(server.at) as client:
        client.send("m", {"x": rows(1)}).answer().output()
    assert 'stoker_trace_spans_total{outcome="exported"}' in server.at.metrics()
    assert len(finish(server).all) == 7  # the call and four steps, the batch and its run


@pytest.mark.parametrize("settings", [FREE_PORTS, replace(FREE_PORTS, tracing=False)])
def test_without_tracing_nothing_is_exported(
    serve_fake: ServeFake, finish: Finish, settings: Settings
) -> None:
    server = serve_fake(BATCHING, settings=settings)
    with RestClient(server.at) as client:
        client.send("m", {"x": rows(1)}, headers=PARENT).answer().output()
    assert "stoker_trace_spans_total{" not in server.at.metrics()
    assert finish(server).all == []
