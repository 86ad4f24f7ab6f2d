"""A stream of ModelStreamInfer that is open when its server drains."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc

from tests.calls import ServeFake, wait_for_queued, wait_until
from tests.conftest import FREE_PORTS, PATIENCE, Endpoints
from tests.fake_runtime import FakeRuntime
from tests.grpc_call import SERVICE
from tests.http2_client import Http2Client
from tests.native_grpc import GRPC, answered, framed
from tests.stream_client import PATH, Stream, occupy, open_stream, request
from tests.wire_server import Client


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


def test_the_end_of_a_stream_comes_when_its_connection_was_told_to_leave(
    serve_fake: ServeFake,
) -> None:
    """Else its client opens the next one on the same connection, and is refused once more. A
    connection that is made in the drain delay is not told earlier."""

    async def call_until_the_end(at: Endpoints) -> list[tuple[int, int]]:
        host, _, port = at.grpc.rpartition(":")
        raw = Client(*await asyncio.open_connection(host, int(port)))
        client = Http2Client(raw)
        try:
            await client.start()
            number = client.request(PATH, framed(request(1)), GRPC, ("te", "trailers"), ends=False)
            assert "shutting down" in (await answered(client, number)).fields["grpc-message"]
            return [*client.goaways]
        finally:
            raw.writer.close()
            await raw.writer.wait_closed()

    server = serve_fake(settings=replace(FREE_PORTS, drain_delay_s=1.5))
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(server.drain)
        wait_until(lambda: server.at.probe("/readyz")[0] == 503, "a server that drains")
        assert asyncio.run(call_until_the_end(server.at)) == [((1 << 31) - 1, 0)]
        assert draining.result(PATIENCE) == 0


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
