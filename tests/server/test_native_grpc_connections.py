"""Connections of the native gRPC transport: kept alive, and shared with REST."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from h2.events import PingAckReceived
from stoker.protocol import inference_pb2 as pb
from stoker.transport.wire.http2 import frames

from tests.conftest import run_stoker
from tests.engine_double import EngineDouble
from tests.grpc_server import SERVICE, Served, infer_message, run
from tests.native_grpc import GRPC, INFER, answered, call, connected, framed, serving
from tests.wire_server import Client, get


def test_a_clients_keep_alive_is_answered_while_its_call_waits() -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served, connected(served) as client:
            number = client.request(INFER, framed(infer_message()), GRPC)
            await engine.submitted.wait()
            client.h2.ping(b"12345678")
            client.flush()
            while not isinstance(event := await client.event(), PingAckReceived):
                assert event is not None, "the connection ended"
            assert event.ping_data == b"12345678"
            engine.release()
            assert (await answered(client, number)).fields["grpc-status"] == "0"

    run(steps())


class Tap:
    """A relay between a client and the server that counts the frames of one kind which the server
    sends."""

    def __init__(self, kind: int, enough: int) -> None:
        self._kind = kind
        self._left = enough
        self.seen_enough = asyncio.Event()

    @asynccontextmanager
    async def before(self, address: str) -> AsyncGenerator[str, None]:
        """The address to call instead."""
        host, _, port = address.rpartition(":")

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            behind = await asyncio.open_connection(host, int(port))
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._bytes(reader, behind[1]))
                    both.create_task(self._frames(behind[0], writer))
            finally:
                behind[1].close()
                writer.close()

        async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _bytes(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    async def _frames(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readexactly(9)
                writer.write(head + await reader.readexactly(int.from_bytes(head[:3], "big")))
                self._left -= head[3] == self._kind
                if self._left <= 0:
                    self.seen_enough.set()
        except asyncio.IncompleteReadError:
            writer.close()


@pytest.mark.slow
def test_a_grpcio_client_that_keeps_its_connection_alive_is_not_sent_away() -> None:
    pings = (
        ("grpc.keepalive_time_ms", 10),  # gRPC core makes a second of it
        ("grpc.keepalive_timeout_ms", 5000),
        ("grpc.http2.max_pings_without_data", 0),
    )

    async def steps() -> None:
        engine, tap = EngineDouble(answer=None), Tap(frames.PING, enough=3)
        async with (
            serving(engine) as served,
            tap.before(served.address) as address,
            grpc.aio.insecure_channel(address, options=pings) as channel,
        ):
            waiting = asyncio.ensure_future(Served(served.server, address, channel).infer())
            await tap.seen_enough.wait()
            assert not waiting.done()
            engine.release()
            await waiting

    run(steps())


def test_the_grpc_port_answers_rest_over_either_version_of_http() -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            host, _, port = served.address.rpartition(":")
            old = Client(*await asyncio.open_connection(host, int(port)))
            old.send(get(body=b"old"))
            assert (await old.answer())[2] == b"old"
            assert (await client.answer(client.request("/now", b"new")))[2] == b"new"
            assert (await call(client, framed(infer_message()))).fields["grpc-status"] == "0"
            old.writer.close()

    run(steps())


@pytest.mark.slow
def test_rest_and_grpc_share_a_port_if_they_are_told_to() -> None:
    with run_stoker() as other:  # a port that was free a moment ago
        port = str(other.at.http_port)
        other.terminate()
        other.wait()
    with run_stoker("--http-port", port, "--grpc-port", port) as process:
        assert process.at.http_port == process.at.grpc_port == int(port)
        with grpc.insecure_channel(process.at.grpc) as channel:
            live: Any = channel.unary_unary(SERVICE + "ServerLive")
            assert pb.ServerLiveResponse.FromString(live(b"")).live
        assert process.at.probe("/readyz")[0] == 200
