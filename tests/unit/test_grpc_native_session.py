"""Native gRPC calls at a session without a socket: their time, memory, windows and counts."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator
from contextlib import contextmanager
from typing import Any

import hpack
import pytest
from stoker.inference import Cancel
from stoker.telemetry.server_statistics import ServerStatistics, UnroutedReason
from stoker.transport.grpc.call import (
    CallContext,
    MessageBytes,
    Method,
    Reply,
    StreamMethod,
    UnaryMethod,
)
from stoker.transport.grpc.native import GrpcRequests
from stoker.transport.grpc.native_stream import MESSAGE_COST
from stoker.transport.wire.http2 import frames
from stoker.transport.wire.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
)
from stoker.transport.wire.http2.http_stream import HttpRequests
from stoker.transport.wire.http2.session import Session
from stoker.transport.wire.limits import BODY_GRACE_S, STREAM_WINDOW, BufferBudget

from tests.unit.test_wire_http2_session import Frame, frames_of
from tests.wire_server import Held

UNARY = "/a.B/Unary"
STREAM = "/a.B/Stream"
RESTING = "/a.B/Resting"
LIMIT = 2 << 20
LARGE = STREAM_WINDOW // 2 + 1000
"""Of a message that is large for a stream."""
TOO_SLOW = int(BODY_GRACE_S) + 1
"""Seconds after which nothing of a message is too little."""


class Peer:
    """A session of gRPC calls whose unary handler holds them and whose streams echo."""

    def __init__(self) -> None:
        self.handled: list[tuple[bytes, CallContext]] = []
        self.cancelled = 0
        self.go_on = asyncio.Event()
        """The stream's handler asks for its next message."""
        self.go_on.set()
        self.budget = BufferBudget(1 << 30)
        self.statistics = ServerStatistics()
        methods: dict[str, Method] = {
            UNARY: UnaryMethod(self._hold),
            STREAM: StreamMethod(self._echo),
            RESTING: StreamMethod(_sizes),
        }
        others = HttpRequests(Held(), self.budget, on_refused=lambda error: None)
        self.calls = GrpcRequests(
            methods, others, self.budget, self.statistics, max_message_bytes=LIMIT
        )
        self.session = Session(self.calls, self.budget, lambda: None)
        self._rest = b""
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 24}))
        self.feed(frames.window_update(0, 1 << 24))
        self.sent()

    def _hold(self, message: MessageBytes, context: CallContext, reply: Reply) -> Cancel:
        self.handled.append((bytes(message), context))
        return self._cancel

    def _cancel(self) -> None:
        self.cancelled += 1

    async def _echo(
        self, requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        async for message in requests:
            await self.go_on.wait()
            yield bytes(message)

    def feed(self, data: bytes) -> None:
        rest = self._rest + data
        taken = self.session.receive(memoryview(rest), len(rest))
        self._rest = rest[taken:]

    def call(self, number: int, path: str, *fields: tuple[str, str]) -> None:
        """Opens a call."""
        head = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"),
                ("content-type", "application/grpc"), *fields]  # fmt: skip
        self.feed(frame(HEADERS, END_HEADERS, number, self._encoder.encode(head)))

    def data(self, number: int, body: bytes, *, ends: bool = False) -> None:
        self.feed(frame(DATA, END_STREAM if ends else 0, number, body))

    def sent(self) -> list[Frame]:
        return frames_of(b"".join(self.session.sending.take(1 << 30)))

    def widened(self, number: int) -> list[int]:
        """By how much the session has widened a stream since what was sent last."""
        return [
            each.code for each in self.sent() if (each.kind, each.stream) == (WINDOW_UPDATE, number)
        ]

    def ends(self, number: int) -> dict[str, str]:
        """The fields of the header blocks that were sent of a call, which has ended."""
        said = [each for each in self.sent() if each.stream == number]
        blocks = [each for each in said if each.kind == HEADERS]
        assert blocks[-1].flags & END_STREAM
        fields: dict[str, str] = {}
        for each in blocks:
            for name, value in self._decoder.decode(each.payload):
                fields[str(name)] = str(value)
        return fields

    def seconds(self, count: int) -> None:
        for _ in range(count):
            self.session.tick(60)

    async def turns(self) -> None:
        """Lets the tasks of streams do what they can."""
        for _ in range(10):
            await asyncio.sleep(0)


async def _sizes(
    requests: AsyncIterator[MessageBytes], context: CallContext
) -> AsyncGenerator[bytes, None]:
    """Answers each message with as many bytes, and keeps nothing of either."""
    async for message in requests:
        size = len(message)
        del message
        yield bytes(size)


@contextmanager
def keeps_at_most(size: int) -> Generator[None, None, None]:
    """Fails where more memory than that is still held, without help of the garbage collector."""
    gc.disable()
    tracemalloc.start()
    try:
        yield
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert held < size


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def run(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(steps)


def test_an_error_without_a_message_is_one_header_block_that_ends_the_stream() -> None:
    peer = Peer()
    peer.call(1, "/a.B/Nope")
    peer.data(1, framed(b""), ends=True)
    said = [each for each in peer.sent() if each.stream == 1]
    assert [(each.kind, each.flags) for each in said] == [(HEADERS, END_HEADERS | END_STREAM)]


@pytest.mark.parametrize("begun", [b"", b"\0\0", b"\0" + (100_000).to_bytes(4, "big") + b"abc"])
def test_a_slow_message_of_a_unary_call_is_refused_and_its_memory_is_free(begun: bytes) -> None:
    peer = Peer()
    peer.call(1, UNARY)
    if begun:
        peer.data(1, begun)
    peer.seconds(TOO_SLOW - 1)
    assert peer.session.open_streams == 1
    peer.seconds(1)
    assert peer.ends(1)["grpc-status"] == "4"
    assert peer.budget.used == 0


def test_a_stream_may_rest_between_its_messages_and_not_amid_one() -> None:
    async def steps() -> None:
        peer = Peer()
        peer.call(1, STREAM)
        peer.data(1, framed(b"whole"))
        await peer.turns()
        assert peer.sent()
        peer.seconds(1000)
        assert peer.session.open_streams == 1
        peer.data(1, framed(bytes(100_000))[:10])
        peer.seconds(TOO_SLOW)
        assert peer.ends(1)["grpc-status"] == "4"
        await peer.turns()
        assert (peer.budget.used, len(peer.calls.tasks)) == (0, 0)

    run(steps())


def test_a_large_message_of_a_stream_waits_until_the_one_before_is_taken() -> None:
    async def steps() -> None:
        peer = Peer()
        peer.go_on.clear()
        peer.call(1, STREAM)
        peer.data(1, framed(bytes(LARGE)))
        assert peer.widened(1) == [LARGE + 5]
        peer.data(1, framed(bytes(LARGE + 1))[:5])
        await peer.turns()
        assert peer.widened(1) == []
        peer.go_on.set()
        await peer.turns()
        assert peer.sent()  # the answer leaves
        await peer.turns()
        assert peer.widened(1) == [LARGE + 6]
        peer.session.lose()
        await peer.turns()
        assert peer.budget.used == 0

    run(steps())


@pytest.mark.parametrize("size", [100_000, LARGE])
def test_a_client_that_the_handler_holds_back_is_not_slow(size: int) -> None:
    async def steps() -> None:
        peer = Peer()
        peer.go_on.clear()
        peer.call(1, STREAM)
        for _ in range(2):
            peer.data(1, framed(bytes(size))[: STREAM_WINDOW // 2])
            peer.data(1, framed(bytes(size))[STREAM_WINDOW // 2 :])
        peer.data(1, framed(bytes(size))[:10])
        peer.seconds(100)
        await peer.turns()  # the handler has the first message, and the second waits
        peer.seconds(100)
        peer.go_on.set()
        for _ in range(3):
            await peer.turns()
            peer.sent()
        peer.seconds(TOO_SLOW - 1)
        assert peer.session.open_streams == 1
        peer.seconds(1)
        assert peer.ends(1)["grpc-status"] == "4"

    run(steps())


def test_empty_messages_that_wait_count_for_the_budget() -> None:
    async def steps() -> None:
        peer = Peer()
        peer.go_on.clear()
        peer.call(1, STREAM)
        peer.data(1, framed(b"") * 1000)
        assert peer.budget.used == 1000 * MESSAGE_COST
        peer.session.lose()
        await peer.turns()
        assert peer.budget.used == 0

    run(steps())


@pytest.mark.parametrize(
    ("last", "status"),
    [(b"\0" + (LIMIT + 1).to_bytes(4, "big"), "8"), (b"\2\0\0\0\0", "3"), (b"\0\0", "3")],
)
def test_a_stream_that_goes_wrong_has_its_answers_before_its_status(
    last: bytes, status: str
) -> None:
    async def steps() -> None:
        peer = Peer()
        peer.call(1, STREAM)
        peer.data(1, framed(b"fine"))
        await peer.turns()
        assert [each.payload for each in peer.sent() if each.kind == DATA] == [framed(b"fine")]
        peer.data(1, last, ends=True)
        assert peer.ends(1)["grpc-status"] == status
        await peer.turns()
        assert (peer.budget.used, len(peer.calls.tasks)) == (0, 0)

    run(steps())


@pytest.mark.parametrize("how", ["reset", "connection"])
def test_a_client_that_goes_away_amid_a_message_frees_its_memory(how: str) -> None:
    peer = Peer()
    peer.call(1, UNARY)
    peer.data(1, framed(bytes(LIMIT))[:1000])
    assert peer.budget.used == LIMIT
    if how == "reset":
        peer.feed(frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
    else:
        peer.session.lose()
    assert (peer.budget.used, peer.session.open_streams, peer.handled) == (0, 0, [])


def test_a_stream_that_rests_keeps_neither_its_last_message_nor_its_last_answer() -> None:
    async def steps() -> None:
        peer = Peer()
        peer.call(1, RESTING)
        with keeps_at_most(LARGE // 2):
            body = framed(bytes(LARGE))
            peer.data(1, body[: STREAM_WINDOW // 2])
            peer.data(1, body[STREAM_WINDOW // 2 :])
            del body
            while not sum(each.kind == DATA for each in peer.sent()):
                await peer.turns()
            await peer.turns()
        assert (peer.session.open_streams, peer.budget.used) == (1, 0)
        peer.session.lose()
        await peer.turns()

    run(steps())


@pytest.mark.parametrize("path", [UNARY, STREAM])
def test_a_message_that_never_came_whole_leaves_no_memory_behind(path: str) -> None:
    async def steps() -> None:
        peer = Peer()
        with keeps_at_most(LARGE // 2):
            peer.call(1, path)
            peer.data(1, framed(bytes(LARGE))[: STREAM_WINDOW // 2])
            peer.feed(frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")))

    run(steps())


def test_each_call_with_a_deadline_that_is_none_is_counted() -> None:
    """Also where the heads are alike, and their meaning is remembered."""
    peer = Peer()
    for number in (1, 3, 5, 7):
        peer.call(number, UNARY, ("grpc-timeout", "soon"))
        peer.data(number, framed(b""), ends=True)
        assert peer.ends(number)["grpc-status"] == "3"
    assert peer.statistics.unrouted[UnroutedReason.MALFORMED] == 4


def test_a_call_that_is_cancelled_while_its_handler_works_cancels_it_once() -> None:
    peer = Peer()
    peer.call(1, UNARY)
    peer.data(1, framed(b"work"), ends=True)
    for _ in range(2):
        peer.feed(frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
    assert (peer.cancelled, peer.budget.used) == (1, 0)
