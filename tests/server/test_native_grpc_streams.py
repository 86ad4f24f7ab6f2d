"""Streaming calls of the native gRPC transport frame by frame."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from stoker.transport.grpc.call import CallContext, MessageBytes, Method, StreamMethod
from stoker.transport.wire.limits import STREAM_WINDOW

from tests.engine_double import EngineDouble
from tests.grpc_server import run
from tests.native_grpc import GRPC, answered, call, connected, framed, serving


@pytest.mark.parametrize(
    ("value", "expected"),
    [("AAH/", b"\0\1\xff"), ("AAE=", b"\0\1"), ("AAE", b"\0\1"), ("eA==,AAH/", b"\0\1\xff")],
)
def test_binary_metadata_reaches_the_handler_as_bytes(value: str, expected: bytes) -> None:
    seen: list[str | bytes] = []

    async def look(
        requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        seen.append(context.metadata["raw-bin"])
        yield b""

    async def steps() -> None:
        methods: dict[str, Method] = {"/t.T/S": StreamMethod(look)}
        async with serving(methods=methods) as served, connected(served) as client:
            await call(client, framed(b""), ("raw-bin", value), path="/t.T/S")
            assert seen == [expected]

    run(steps())


def test_messages_of_a_stream_come_however_they_are_cut() -> None:
    messages = [b"", b"a" * 7, b"b" * 100_000, b"c"]

    async def back(
        requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        async for message in requests:
            yield bytes(message)

    async def steps() -> None:
        methods: dict[str, Method] = {"/t.T/S": StreamMethod(back)}
        async with serving(methods=methods) as served, connected(served) as client:
            body = b"".join(map(framed, messages))
            number = client.request("/t.T/S", b"", GRPC, ends=False)
            client.send(number, body[:3], ends=False)
            await client.send_all(number, body[3:])
            answer = await answered(client, number)
            assert answer.body == body
            assert answer.fields["grpc-status"] == "0"

    run(steps())


def test_a_handler_that_takes_nothing_holds_its_client_at_the_window() -> None:
    go_on = asyncio.Event()

    async def late(
        requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        await go_on.wait()
        count = 0
        async for message in requests:
            count += len(message)
        yield count.to_bytes(4, "big")

    async def steps() -> None:
        methods: dict[str, Method] = {"/t.T/S": StreamMethod(late)}
        async with serving(methods=methods) as served, connected(served) as client:
            number = client.request("/t.T/S", b"", GRPC, ends=False)
            body = framed(bytes(50_000)) * 60
            sent = 0
            while (size := client.h2.local_flow_control_window(number)) > 0:
                client.send(number, body[sent : sent + size], ends=False)
                sent += size
            assert sent <= STREAM_WINDOW
            go_on.set()
            await client.send_all(number, body[sent:])
            answer = await answered(client, number)
            assert int.from_bytes(answer.body[5:], "big") == 3_000_000

    run(steps())


def test_a_client_that_does_not_read_pauses_the_handler() -> None:
    made = 0

    async def endless(
        requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        nonlocal made
        for _ in range(200):
            made += 1
            yield bytes(10_000)

    async def steps() -> None:
        methods: dict[str, Method] = {"/t.T/S": StreamMethod(endless)}
        async with serving(methods=methods) as served, connected(served, reads=False) as client:
            number = client.request("/t.T/S", framed(b""), GRPC)
            while len(client.answers[number].body) < 60_000:
                await client.event()
            assert made < 30
            client.h2.increment_flow_control_window(10_000_000)
            client.h2.increment_flow_control_window(10_000_000, number)
            client.flush()
            assert len((await answered(client, number)).body) == 200 * 10_005

    run(steps())


def test_a_streams_deadline_ends_it() -> None:
    closed = asyncio.Event()

    async def wait(
        requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        try:
            async for _ in requests:
                await asyncio.Event().wait()
            yield b""
        finally:
            closed.set()

    async def steps() -> None:
        methods: dict[str, Method] = {"/t.T/S": StreamMethod(wait)}
        async with serving(methods=methods) as served, connected(served) as client:
            fields = (GRPC, ("grpc-timeout", "20m"))
            number = client.request("/t.T/S", framed(b"x"), *fields, ends=False)
            assert (await answered(client, number)).fields["grpc-status"] == "4"
            await closed.wait()

    run(steps())


@pytest.mark.parametrize("how", ["reset", "connection"])
def test_a_client_that_goes_away_ends_its_calls(how: str) -> None:
    closed = asyncio.Event()

    async def wait(
        requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def steps() -> None:
        methods: dict[str, Method] = {"/t.T/S": StreamMethod(wait)}
        async with serving(methods=methods) as served, connected(served) as client:
            number = client.request("/t.T/S", framed(b"x"), GRPC, ends=False)
            while not client.answers[number].body:
                await client.event()
            if how == "reset":
                client.h2.reset_stream(number, 8)
                client.flush()
            else:
                client.client.writer.transport.abort()
            await closed.wait()

    run(steps())


def test_an_endless_stream_ends_when_a_drain_finishes_and_others_live_on() -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served:
            watch = served.health.Watch(health_pb2.HealthCheckRequest())
            await watch.read()
            infer = asyncio.ensure_future(served.infer())
            await engine.submitted.wait()
            stopping = asyncio.ensure_future(served.server.stop(30))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not stopping.done()
            engine.release()
            await infer
            await stopping

    run(steps())
