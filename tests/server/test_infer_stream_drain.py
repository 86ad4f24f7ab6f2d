"""A stream of ModelStreamInfer that is open when its server drains."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc

from tests.calls import ServeFake, wait_for_queued, wait_until
from tests.conftest import FREE_PORTS, PATIENCE
from tests.fake_runtime import FakeRuntime
from tests.grpc_call import SERVICE
from tests.stream_client import Stream, occupy, open_stream, request


def test_a_drain_answers_what_a_stream_has_sent_and_then_tells_its_client_to_leave(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    patient = replace(FREE_PORTS, drain_timeout_s=3600.0)
    server = serve_fake(settings=patient)
    with open_stream(server.at) as stream, ThreadPoolExecutor(1) as pool:
        occupy(stream, runtime)
        stream.send(request(1), request(2))
        wait_for_queued(server, 2)
        draining = pool.submit(server.drain)
        wait_until(lambda: server.at.probe("/readyz")[0] == 503, "a server that drains")
        runtime.release()
        assert stream.values(3) == [0, 2, 4]
        assert stream.end() is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in stream.call.details()
        assert draining.result(PATIENCE) == 0


def test_an_idle_stream_does_not_hold_up_a_drain(serve_fake: ServeFake) -> None:
    patient = replace(FREE_PORTS, drain_timeout_s=3600.0)
    server = serve_fake(settings=patient)
    with open_stream(server.at) as stream:
        stream.send(request(1))
        assert stream.values(1) == [2]
        assert server.drain() == 0
        assert stream.end() is grpc.StatusCode.UNAVAILABLE


def test_a_stream_that_has_sent_nothing_does_not_hold_up_a_drain(serve_fake: ServeFake) -> None:
    patient = replace(FREE_PORTS, drain_timeout_s=3600.0)
    server = serve_fake(settings=patient)
    with grpc.insecure_channel(server.at.grpc) as channel:
        stream = Stream(channel)
        is_live: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            SERVICE + "ServerLive"
        )
        is_live(b"")  # the stream's head came before it
        assert server.drain() == 0
        assert stream.end() is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in stream.call.details()
        stream.half_close()


def test_a_stream_that_outlives_the_drain_is_told_of_each_request_it_loses(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    hurried = replace(FREE_PORTS, drain_timeout_s=0.1)
    server = serve_fake(settings=hurried)
    with open_stream(server.at) as stream:
        occupy(stream, runtime)
        stream.send(request(1))
        wait_for_queued(server, 1)
        assert server.drain() == 2
        assert ["shutting down" in stream.read().error_message for _ in range(2)] == [True, True]
        assert stream.end() is grpc.StatusCode.UNAVAILABLE
