"""ModelStreamInfer over real sockets: order, batches, failures, going away."""

import contextlib
from collections.abc import Callable
from typing import Final

import grpc
from stoker.errors import ExecutionFailed
from stoker.tensor import DataType, TensorSpec
from stoker.transport.grpc.infer_stream import MAX_IN_FLIGHT

from tests.calls import (
    ServeFake,
    statistics,
    values_of,
    wait_for_in_flight,
    wait_for_queued,
    wait_until,
)
from tests.conftest import RunningServer
from tests.fake_runtime import FakeModel, FakeRuntime
from tests.grpc_call import SERVICE
from tests.stream_client import WRONG, is_final, occupy, open_stream, request

LIVE: Final = SERVICE + "ServerLive"


LEVELS: Final = """
max_batch_size: 1
dynamic_batching { priority_levels: 2 default_priority_level: 2 }
"""


def test_requests_of_one_stream_form_a_batch(serve_fake: ServeFake, runtime: FakeRuntime) -> None:
    server = serve_fake()
    with open_stream(server.at) as stream:
        occupy(stream, runtime)
        stream.send(*map(request, (1, 2, 3, 4, 5)))
        wait_for_queued(server, 5)
        runtime.release()
        stream.half_close()
        assert stream.values(6) == [0, 2, 4, 6, 8, 10]
        assert stream.end() is grpc.StatusCode.OK
    assert [values_of(run) for run in runtime.runs] == [[0], [1, 2, 3, 4, 5]]


def test_answers_come_in_the_order_of_the_requests_when_later_ones_run_first(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake(LEVELS)
    with open_stream(server.at) as stream:
        occupy(stream, runtime)
        stream.send(request(1, priority=2), request(2, priority=1), request(3, priority=1))
        wait_for_queued(server, 3)
        runtime.release()
        assert stream.values(4) == [0, 2, 4, 6]
    assert [values_of(run) for run in runtime.runs] == [[0], [2], [3], [1]]


def test_two_streams_do_not_wait_for_each_other(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with open_stream(server.at) as held, open_stream(server.at) as other:
        occupy(held, runtime)
        other.send(WRONG)
        assert other.read().error_message.startswith("Request for unknown model")
        runtime.release()
        assert held.values(1) == [0]


def test_a_failure_that_is_known_at_once_waits_for_the_answers_before_it(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with open_stream(server.at) as stream:
        occupy(stream, runtime)
        stream.send(WRONG, b"\xff\xff\xff", request(1))
        wait_for_queued(server, 1)
        runtime.release()
        assert stream.values(1) == [0]
        unknown, malformed = stream.read(), stream.read()
        assert unknown.error_message.startswith("Request for unknown model")
        assert unknown.infer_response.id == "wrong"
        assert unknown.infer_response.model_name == "nope"
        assert "do not parse" in malformed.error_message
        assert all(is_final(each.infer_response) for each in (unknown, malformed))
        assert stream.values(1) == [2]
    assert server.at.metric("stoker_requests_unrouted_total", reason="malformed") == 1


def test_a_request_whose_run_fails_ends_no_stream(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    runtime.model.fail = lambda feeds: ExecutionFailed("no") if 13 in feeds["x"] else None
    server = serve_fake()
    with open_stream(server.at) as stream:
        stream.send(request(1), request(13, id="guilty"), request(2))
        assert stream.values(1) == [2]
        failed = stream.read()
        assert "no" in failed.error_message
        assert failed.infer_response.id == "guilty"
        assert stream.values(1) == [4]


def test_a_stream_that_is_cancelled_takes_its_requests_out_of_the_queue(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with open_stream(server.at) as gone, open_stream(server.at) as stays:
        occupy(stays, runtime)
        gone.send(request(1), request(2), request(3))
        wait_for_queued(server, 3)
        gone.call.cancel()
        wait_for_in_flight(server, 1)
        admission = server.on_loop(lambda each: each.engine.served("m").admission)
        assert (admission.rows, admission.bytes) == (0, 0)
        stays.send(request(4))
        wait_for_queued(server, 1)
        runtime.release()
        assert stays.values(2) == [0, 8]
    assert [values_of(run) for run in runtime.runs] == [[0], [4]]
    assert server.at.metric("nv_inference_request_failure", model="m", reason="CANCELED") == 3


def test_a_client_whose_connection_ends_takes_its_requests_out_of_the_queue(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with open_stream(server.at) as gone:
        occupy(gone, runtime)
        gone.send(request(1), request(2))
        wait_for_queued(server, 2)
    wait_for_in_flight(server, 0)
    runtime.release()
    with open_stream(server.at) as next_one:
        next_one.send(request(5))
        assert next_one.values(1) == [10]


def test_the_deadline_of_a_stream_ends_its_requests(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with open_stream(server.at) as holds, open_stream(server.at, timeout=1.0) as stream:
        occupy(holds, runtime)
        stream.send(request(1), request(2))
        wait_for_queued(server, 2)
        with contextlib.suppress(grpc.RpcError):
            while True:  # the server may tell of each request before the client ends the call
                assert "deadline" in stream.read().error_message.lower()
        assert stream.call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_for_in_flight(server, 1)
        runtime.release()
        assert holds.values(1) == [0]
    assert [values_of(run) for run in runtime.runs] == [[0]]


def test_a_client_that_does_not_read_is_held_back_and_loses_nothing(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    width, count = 1 << 16, 600  # 256 KiB each way: more than grpcio's windows take at once
    runtime.model = FakeModel(
        (TensorSpec("x", DataType.FP32, (-1, width)),),
        (TensorSpec("y", DataType.FP32, (-1, width)),),
    )
    server = serve_fake()
    with open_stream(server.at) as stream:
        stream.send(*(request(number, width=width) for number in range(count)))
        stream.half_close()
        wait_until(is_still(server), "a stream that is read no further")
        answered = statistics(server).success_count
        assert 0 < answered < MAX_IN_FLIGHT + 64  # what windows and gRPC core's buffers take
        assert stream.sent < count
        assert stream.values(count) == [2 * number for number in range(count)]
        assert stream.end() is grpc.StatusCode.OK


def is_still(server: RunningServer) -> Callable[[], bool]:
    """Whether the model answered something, and nothing more for 200 questions in a row."""
    seen = [0]

    def ask() -> bool:
        answered = statistics(server).success_count
        if answered != seen[-1]:
            seen.clear()
        seen.append(answered)
        return answered > 0 and len(seen) > 200

    return ask


def test_a_client_that_asks_for_it_gets_the_first_failure_as_the_streams_status(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with (
        open_stream(server.at) as holds,
        open_stream(server.at, metadata=[("triton_grpc_error", "true")]) as stream,
    ):
        stream.send(request(1))
        assert stream.values(1) == [2]
        occupy(holds, runtime)
        stream.send(WRONG, request(2))
        assert stream.end() is grpc.StatusCode.NOT_FOUND
        assert stream.call.details().startswith("Request for unknown model")
        wait_for_in_flight(server, 1)
        runtime.release()
        assert holds.values(1) == [0]
