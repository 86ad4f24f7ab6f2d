"""Calls that are open when a gRPC transport stops."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from stoker.errors import ErrorCode
from stoker.settings import GrpcTransport
from stoker.transport.grpc.call import CallContext, MessageBytes, StreamMethod
from stoker.transport.status import STATUS

from tests.engine_double import EngineDouble
from tests.grpc_server import SERVICE, ServeCalls, Served, failure, infer_message, run


def test_an_inference_stream_that_outlives_the_grace_is_told_of_the_drain(
    serving: ServeCalls,
) -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served:
            stream = served.stream(SERVICE + "ModelStreamInfer", infer_message())
            await engine.submitted.wait()
            await served.server.stop(0)
            error = await failure(stream.read())
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert engine.cancelled.is_set()
            assert served.held_bytes == 0

    run(steps())


def test_an_open_call_finishes_while_the_server_stops(
    serving: ServeCalls, grpc_transport: GrpcTransport
) -> None:
    # What gRPC core says of a call in the moment in which its port closes: docs/grpc.md.
    passing = {grpc.StatusCode.CANCELLED} if grpc_transport == "grpcio" else set()

    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served:
            call = asyncio.ensure_future(served.infer())
            await engine.submitted.wait()
            stopping = asyncio.ensure_future(served.server.stop(30))
            async with grpc.aio.insecure_channel(served.address) as late:
                refused = Served(served.server, served.address, late)

                async def call_until_refused() -> None:
                    while True:  # gRPC core closes its listener in a thread, a moment later
                        await refused.call(SERVICE + "ServerLive", b"")

                error = await failure(call_until_refused())
                while error.code() in passing:
                    error = await failure(call_until_refused())
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert not stopping.done()
            engine.release()
            await call
            await stopping

    run(steps())


def test_a_call_that_outlives_the_grace_is_told_of_the_drain(serving: ServeCalls) -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served:
            call = asyncio.ensure_future(served.infer())
            await engine.submitted.wait()
            await served.server.stop(0)
            error = await failure(call)
            assert error.code().name == STATUS[ErrorCode.DRAINING].grpc_name
            assert "shutting down" in str(error.details())
            assert engine.cancelled.is_set()
            assert served.held_bytes == 0

    run(steps())


def test_a_watch_does_not_delay_the_stop(serving: ServeCalls) -> None:
    async def steps() -> None:
        async with serving() as served:
            watch = served.health.Watch(health_pb2.HealthCheckRequest())
            await watch.read()
            await served.server.stop(3600)
            error = await failure(watch.read())
            assert error.code() is grpc.StatusCode.UNAVAILABLE

    run(steps())


def test_a_cancelled_stop_closes_at_once(serving: ServeCalls) -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served:
            call = asyncio.ensure_future(served.infer())
            await engine.submitted.wait()
            stopping = asyncio.ensure_future(served.server.stop(3600))
            await asyncio.sleep(0)  # lets it begin
            stopping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopping
            await failure(call)

    run(steps())


def test_a_stream_that_is_stopped_while_it_writes_gets_its_status(serving: ServeCalls) -> None:
    large = b"x" * (16 << 20)
    begun = asyncio.Event()

    async def write(
        requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        begun.set()
        yield large  # more than flow control lets through before the client reads
        await asyncio.Event().wait()

    async def steps() -> None:
        async with serving(methods={"/t.T/Stream": StreamMethod(write, is_endless=True)}) as served:
            stream = served.stream("/t.T/Stream", b"first")
            await begun.wait()
            stopping = asyncio.ensure_future(served.server.stop(3600))
            await asyncio.sleep(0)  # lets it begin
            assert await stream.read() == large
            error = await failure(stream.read())
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            await stopping

    run(steps())
