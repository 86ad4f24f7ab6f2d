"""Native gRPC calls at a session without a socket, driven by frames.

peer = Peer()
peer.call(1, UNARY)
peer.data(1, framed(b"message"), ends=True)
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any

import hpack
from stoker.errors import ServingError
from stoker.inference import Cancel
from stoker.telemetry.server_statistics import ServerStatistics
from stoker.transport.grpc.call import (
    CallContext,
    MessageBytes,
    Method,
    Reply,
    StreamMethod,
    UnaryMethod,
)
from stoker.transport.grpc.native import GrpcRequests
from stoker.transport.wire.http2 import frames
from stoker.transport.wire.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    WINDOW_UPDATE,
    frame,
)
from stoker.transport.wire.http2.http_stream import HttpRequests
from stoker.transport.wire.http2.session import Session
from stoker.transport.wire.limits import BODY_GRACE_S, STREAM_WINDOW, BufferBudget
from stoker.transport.wire.problems import HttpError

from tests.unit.test_wire_http2_session import Frame, frames_of
from tests.wire_server import Held

UNARY = "/a.B/Unary"
STREAM = "/a.B/Stream"
RESTING = "/a.B/Resting"
FIRST = "/a.B/First"
LIMIT = 2 << 20
LARGE = STREAM_WINDOW // 2 + 1000
"""Of a message that is large for a stream."""
TOO_SLOW = int(BODY_GRACE_S) + 1
"""Seconds after which nothing of a message is too little."""


class Peer:
    """A session of gRPC calls whose unary handler holds them and whose streams echo."""

    def __init__(self) -> None:
        self.handled: list[tuple[bytes, CallContext]] = []
        self.replies: list[Reply] = []
        """Of what was handled."""
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
            FIRST: StreamMethod(_first),
        }
        self.refused: list[ServingError | HttpError] = []
        """Over HTTP, before any handler."""
        others = HttpRequests(Held(), self.budget, on_refused=self.refused.append)
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
        self.replies.append(reply)
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

    def call(
        self, number: int, path: str, *fields: tuple[str, str], form: str = "application/grpc"
    ) -> None:
        """Opens a call."""
        head = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"),
                ("content-type", form), *fields]  # fmt: skip
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


async def _first(
    requests: AsyncIterator[MessageBytes], context: CallContext
) -> AsyncGenerator[bytes, None]:
    """Answers the first message only."""
    yield bytes(await anext(requests))


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def run(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(steps)
