"""The native gRPC transport frame by frame: what grpcio's own clients never send, or never show."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from h2.events import PingAckReceived
from h2.settings import SettingCodes
from stoker.errors import Overloaded
from stoker.protocol import inference_pb2 as pb
from stoker.request import InferRequest, InferResponse
from stoker.tensor import DataType, Tensor
from stoker.transport.grpc.call import CallContext, MessageBytes, Method, StreamMethod
from stoker.transport.grpc.native_unary import COMPRESS_FROM_BYTES
from stoker.transport.wire.http2 import frames
from stoker.transport.wire.limits import STREAM_WINDOW, HttpLimits

from tests.conftest import run_stoker
from tests.engine_double import EngineDouble, echo, values
from tests.grpc_server import SERVICE, Served, infer_message, run, serving_by
from tests.http2_client import Answered, Http2Client
from tests.wire_server import Client, get

INFER = SERVICE + "ModelInfer"
GRPC = ("content-type", "application/grpc")
serving = serving_by("native")


def framed(message: bytes, *, flag: int = 0) -> bytes:
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


@asynccontextmanager
async def connected(
    served: Served, settings: dict[SettingCodes | int, int] | None = None, *, reads: bool = True
) -> AsyncGenerator[Http2Client, None]:
    host, _, port = served.address.rpartition(":")
    raw = Client(*await asyncio.open_connection(host, int(port)))
    client = Http2Client(raw, reads_bodies=reads)
    await client.start(settings)
    try:
        async with asyncio.timeout(30):
            yield client
    finally:
        raw.writer.close()


async def answered(client: Http2Client, number: int) -> Answered:
    answer = client.answers[number]
    while not answer.is_whole and answer.reset is None:
        assert await client.event() is not None, "the connection ended"
    return answer


async def call(
    client: Http2Client, body: bytes, *fields: tuple[str, str], path: str = INFER
) -> Answered:
    return await answered(client, client.request(path, body, GRPC, *fields))


@pytest.mark.parametrize(
    ("path", "body", "fields", "status", "text"),
    [
        ("/a.B/C", framed(b""), (), "12", "expected a method that is served"),
        (INFER, framed(b"\x08"), (), "3", "ModelInferRequest"),
        (INFER, b"", (), "3", "expected one whole message"),
        (INFER, framed(b"ab")[:-1], (), "3", "expected one whole message"),
        (INFER, framed(b"") * 2, (), "3", "expected one message in a unary call"),
        (INFER, framed(b"", flag=2), (), "3", "expected 0 or 1"),
        (INFER, framed(b"", flag=1), (), "3", "without grpc-encoding"),
        (INFER, framed(b"no gzip", flag=1), (("grpc-encoding", "gzip"),), "3", "gzip data"),
        (INFER, framed(b""), (("grpc-timeout", "1x"),), "3", "expected a grpc-timeout"),
        (INFER, framed(b""), (("grpc-timeout", "123456789m"),), "3", "expected a grpc-timeout"),
    ],
)
def test_what_is_wrong_with_a_call_is_told_by_trailers_alone(
    path: str, body: bytes, fields: tuple[tuple[str, str], ...], status: str, text: str
) -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            answer = await call(client, body, *fields, path=path)
            assert answer.fields[":status"] == "200"
            assert answer.fields["content-type"] == "application/grpc"
            assert answer.fields["grpc-status"] == status
            assert text in unquote(answer.fields["grpc-message"])
            assert answer.body == b""
            assert served.held_bytes == 0

    run(steps())


@pytest.mark.parametrize(
    ("method", "content_type", "status"),
    [
        ("POST", "application/json", "415"),
        ("POST", "application/grpc-web", "415"),
        ("GET", "application/grpc", "405"),
    ],
)
def test_what_is_no_grpc_is_told_by_http(method: str, content_type: str, status: str) -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            fields = ("content-type", content_type)
            number = client.request(INFER, framed(b""), fields, method=method)
            assert (await answered(client, number)).fields[":status"] == status

    run(steps())


def test_messages_that_are_no_protobuf_are_unimplemented() -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            number = client.request(INFER, framed(b"{}"), ("content-type", "application/grpc+json"))
            assert (await answered(client, number)).fields["grpc-status"] == "12"

    run(steps())


def test_an_unknown_coding_is_unimplemented_and_ours_are_told() -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            answer = await call(client, framed(b""), ("grpc-encoding", "snappy"))
            assert answer.fields["grpc-status"] == "12"
            assert answer.fields["grpc-accept-encoding"] == "identity,deflate,gzip"

    run(steps())


@pytest.mark.parametrize(
    ("coding", "pack", "unpack"),
    [("gzip", gzip.compress, gzip.decompress), ("deflate", zlib.compress, zlib.decompress)],
)
@pytest.mark.parametrize("rows", [COMPRESS_FROM_BYTES // 16, 100_000])
def test_an_answer_has_the_coding_of_its_request(
    coding: str, pack: object, unpack: object, rows: int
) -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            body = framed(pack(infer_message(rows)), flag=1)  # type: ignore[operator]  # a function of bytes
            fields = (("grpc-encoding", coding), ("grpc-accept-encoding", f"identity, {coding}"))
            number = client.request(INFER, b"", GRPC, *fields, ends=False)
            await client.send_all(number, body)
            answer = await answered(client, number)
            assert (answer.fields["grpc-encoding"], answer.body[0]) == (coding, 1)
            message = pb.ModelInferResponse.FromString(unpack(answer.body[5:]))  # type: ignore[operator]  # likewise
            assert message.raw_output_contents[0] == values(rows).tobytes()

    run(steps())


@pytest.mark.parametrize(("rows", "accepted"), [(1, "identity, gzip"), (1000, "identity, deflate")])
def test_an_answer_that_is_small_or_whose_coding_is_not_accepted_is_plain(
    rows: int, accepted: str
) -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            body = framed(gzip.compress(infer_message(rows)), flag=1)
            fields = (("grpc-encoding", "gzip"), ("grpc-accept-encoding", accepted))
            answer = await call(client, body, *fields)
            assert (answer.fields["grpc-status"], answer.body[0]) == ("0", 0)
            assert "grpc-encoding" not in answer.fields

    run(steps())


def test_a_client_that_only_offers_a_coding_is_answered_plain() -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            accepts = ("grpc-accept-encoding", "identity, deflate, gzip")
            answer = await call(client, framed(infer_message(1000)), accepts)
            assert "grpc-encoding" not in answer.fields
            assert answer.body[0] == 0

    run(steps())


def test_a_message_that_inflates_over_the_limit_is_refused() -> None:
    async def steps() -> None:
        async with serving(limits=HttpLimits(max_message_bytes=100_000)) as served:
            async with connected(served) as client:
                bomb = framed(gzip.compress(bytes(10_000_000)), flag=1)
                answer = await call(client, bomb, ("grpc-encoding", "gzip"))
                assert answer.fields["grpc-status"] == "8"
            assert served.held_bytes == 0

    run(steps())


def test_a_message_over_the_limit_is_refused_by_its_length_alone() -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            number = client.request(INFER, b"\0\xff\xff\xff\xff", GRPC, ends=False)
            answer = await answered(client, number)
            assert answer.fields["grpc-status"] == "8"
            assert "4294967295" in unquote(answer.fields["grpc-message"])

    run(steps())


def test_a_full_budget_refuses_with_the_time_to_retry_and_takes_nothing() -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            served.server.budget.limit = 1000
            number = client.request(INFER, framed(infer_message(5000))[:100], GRPC, ends=False)
            answer = await answered(client, number)
            assert answer.fields["grpc-status"] == "8"
            assert answer.fields["grpc-retry-pushback-ms"] == "1000"
            assert served.held_bytes == 0

    run(steps())


def test_text_beyond_ascii_is_percent_encoded() -> None:
    async def steps() -> None:
        engine = EngineDouble(lambda request: Overloaded("100 % é\n", retry_after=0.25))
        async with serving(engine) as served, connected(served) as client:
            answer = await call(client, framed(infer_message()))
            assert answer.fields["grpc-message"] == "100 %25 %C3%A9%0A"
            assert answer.fields["grpc-retry-pushback-ms"] == "250"

    run(steps())


@pytest.mark.parametrize("text", [" begins", "ends ", " ", ""])
def test_a_text_with_spaces_at_its_ends_reaches_strict_clients(text: str) -> None:
    async def steps() -> None:
        engine = EngineDouble(lambda request: Overloaded(text))
        async with serving(engine) as served, connected(served) as client:
            answer = await call(client, framed(infer_message()))
            assert unquote(answer.fields["grpc-message"]) == text

    run(steps())


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


@pytest.mark.parametrize("how", ["reset", "connection"])
def test_a_client_that_goes_away_cancels_its_unary_call_in_the_engine(how: str) -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served, connected(served) as client:
            number = client.request(INFER, framed(infer_message()), GRPC)
            await engine.submitted.wait()
            if how == "reset":
                client.h2.reset_stream(number, 8)
                client.flush()
            else:
                client.client.writer.transport.abort()
            await engine.cancelled.wait()
            assert served.held_bytes == 0

    run(steps())


def test_a_large_answer_is_written_from_its_own_memory() -> None:
    large = values(100_000)
    released: list[None] = []

    class Lease:
        def release(self) -> None:
            released.append(None)

    def answer(request: InferRequest) -> InferResponse:
        tensor = Tensor("y", DataType.FP32, large.shape, large)
        return InferResponse.of("echo", "1", "", [tensor], lease=Lease())

    async def steps() -> None:
        async with serving(EngineDouble(answer)) as served, connected(served) as client:
            got = await call(client, framed(infer_message()))
            message = pb.ModelInferResponse.FromString(got.body[5:])
            assert message.raw_output_contents[0] == large.tobytes()
            assert len(released) == 1

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


def test_two_thousand_calls_at_once_are_all_answered() -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served:
            calls = [asyncio.ensure_future(served.infer()) for _ in range(2000)]
            while len(engine.requests) < 1000:
                await engine.submitted.wait()
                engine.submitted.clear()
            engine.answer = echo
            engine.release()
            assert len(await asyncio.gather(*calls)) == 2000

    run(steps())


def test_large_metadata_arrives() -> None:
    async def steps() -> None:
        engine = EngineDouble()
        async with serving(engine) as served:
            await served.infer(metadata=(("token", "x" * 20_000),))
            assert len(engine.requests) == 1

    run(steps())


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
