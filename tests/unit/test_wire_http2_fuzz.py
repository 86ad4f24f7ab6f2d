"""Mutations of valid conversations: a clean error or an answer, never anything else.

The conversations hold unary gRPC calls, REST requests and streams, CONTINUATION, padding, trailers,
SETTINGS, PING, WINDOW_UPDATE and RST_STREAM, and now and then the server leaves. A mutation flips
bits, or repeats, drops, swaps, changes and splices frames; it comes in pieces. What must hold is
`played`'s docstring. The test plays a seeded few thousand; more by hand:

    python -m tests.unit.test_wire_http2_fuzz --inputs 1000000 --seed 1
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator

import hpack
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
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
from stoker.transport.wire.http2.control_frames import ASKED
from stoker.transport.wire.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITISED,
    RST_STREAM,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
)
from stoker.transport.wire.http2.http_stream import HttpRequests
from stoker.transport.wire.http2.session import Session
from stoker.transport.wire.limits import MAX_BLOCK_BYTES, BufferBudget
from stoker.transport.wire.message import Answer, HttpRequest, HttpResponse, RequestHead
from stoker.transport.wire.problems import HttpError

from tests.unit.test_wire_http2_session import frames_of
from tests.wire_server import Lease

INPUTS = 3000
BUDGET = 1 << 20


class Peer:
    """A session with both protocols on it, and what it came to."""

    def __init__(self) -> None:
        self.reached = 0
        self.leases: list[Lease] = []
        self.refused: list[ServingError | HttpError] = []
        self.budget = BufferBudget(BUDGET)
        others = HttpRequests(self, self.budget, on_refused=self.refused.append)
        methods: dict[str, Method] = {
            "/a.B/Unary": UnaryMethod(self._unary),
            "/a.B/Stream": StreamMethod(self._back),
        }
        self.calls = GrpcRequests(
            methods, others, self.budget, ServerStatistics(), max_message_bytes=1 << 19
        )
        self.session = Session(self.calls, self.budget, lambda: None)
        self._rest = b""

    def body_limit(self, head: RequestHead) -> int:
        return 1 << 19

    def handle(self, request: HttpRequest, answer: Answer) -> Cancel | None:
        self.reached += 1
        self.leases.append(Lease())
        answer(HttpResponse(200, (), (bytes(request.body),), self.leases[-1]))
        return None

    def _unary(self, message: MessageBytes, context: CallContext, reply: Reply) -> Cancel | None:
        self.reached += 1
        reply(bytes(message))
        return None

    async def _back(
        self, requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        self.reached += 1
        async for message in requests:
            yield bytes(message)

    def feed(self, data: bytes) -> None:
        """Bytes come as a connection gives them: the rest of before in front."""
        rest = self._rest + data
        taken = self.session.receive(memoryview(rest), len(rest))
        self._rest = rest[taken:]
        assert len(self._rest) <= MAX_BLOCK_BYTES + frames.HEADER_BYTES


def conversation(seed: int) -> list[bytes]:
    """The frames of a client that does nothing wrong."""
    chance, encoder = random.Random(seed), hpack.Encoder()
    said = [frames.settings({frames.INITIAL_WINDOW_SIZE: chance.choice([0, 10, 65_535, 1 << 20])})]

    indexes = chance.random() < 0.5  # what changes with the request

    def changing(name: str, value: str) -> HeaderTuple:
        return HeaderTuple(name, value) if indexes else NeverIndexedHeaderTuple(name, value)

    def head(number: int, path: str, *fields: tuple[str, str] | HeaderTuple) -> None:
        where = changing(":path", path)
        block = encoder.encode(
            [(":method", "POST"), (":scheme", "http"), where, (":authority", "a"), *fields],
            huffman=chance.random() < 0.5,
        )
        kind = chance.randrange(3)
        if kind == 0:
            said.append(frame(HEADERS, 0, number, block[:5]))
            said.append(frame(CONTINUATION, END_HEADERS, number, block[5:]))
        elif kind == 1:
            wrapped = bytes([3]) + bytes(5) + block + bytes(3)
            flags = END_HEADERS | PADDED | PRIORITISED
            said.append(frame(HEADERS, flags, number, wrapped))
        else:
            said.append(frame(HEADERS, END_HEADERS, number, block))

    def data(number: int, body: bytes, *, ends: bool = True) -> None:
        cut = chance.randrange(len(body) + 1)
        said.append(frame(DATA, 0, number, body[:cut]))
        last, flags = body[cut:], END_STREAM if ends else 0
        if chance.random() < 0.3:
            said.append(frame(DATA, flags | PADDED, number, b"\4" + last + bytes(4)))
        else:
            said.append(frame(DATA, flags, number, last))

    grpc = ("content-type", "application/grpc")
    number = 1
    for _ in range(chance.randrange(2, 7)):
        kind = chance.randrange(6)
        message = chance.randbytes(chance.choice([0, 3, 60, 3000]))
        body = b"\0" + len(message).to_bytes(4, "big") + message
        if kind == 0:
            head(number, "/v2", ("content-length", str(len(message))))
            data(number, message)
        elif kind == 1:
            head(number, "/a.B/Stream", grpc, ("grpc-timeout", "10S"))
            data(number, body * 3, ends=False)
            if chance.random() < 0.5:
                said.append(frame(RST_STREAM, 0, number, (8).to_bytes(4, "big")))
            else:
                trailers = encoder.encode([("x", "y")])
                said.append(frame(HEADERS, END_HEADERS | END_STREAM, number, trailers))
        else:
            trace = f"00-{chance.getrandbits(128):032x}-{number:016x}-01"
            fresh = changing("traceparent", trace)
            head(number, "/a.B/Unary", grpc, *([fresh] if kind == 2 else []))
            data(number, body)
        said.append(frame(PING, chance.choice([0, ACK]), 0, chance.choice([bytes(8), ASKED])))
        said.append(frame(WINDOW_UPDATE, 0, chance.choice([0, number]), (99).to_bytes(4, "big")))
        number += 2
    return said


def mutated(said: list[bytes], other: list[bytes], chance: random.Random) -> bytes:
    """The conversation, damaged; `other` is one to splice with."""
    said = list(said)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
        place, kind = chance.randrange(len(said)), chance.randrange(8)
        if kind == 0:
            said.insert(chance.randrange(len(said) + 1), said[place])
        elif kind == 1 and len(said) > 1:
            del said[place]
        elif kind == 2:
            elsewhere = chance.randrange(len(said))
            said[place], said[elsewhere] = said[elsewhere], said[place]
        elif kind == 3:
            said[place:] = other[chance.randrange(len(other)) :]
        else:
            # Length, type, flags and stream are in the first nine bytes.
            changed = bytearray(said[place])
            at = chance.randrange(9 if kind < 6 else len(changed))
            changed[at] ^= 1 << chance.randrange(8) if kind % 2 else chance.randrange(1, 256)
            said[place] = bytes(changed)
    whole = b"".join(said)
    return whole[: chance.randrange(len(whole))] if chance.random() < 0.1 else whole


async def played(data: bytes, chance: random.Random) -> tuple[bool, ErrorCode | None]:
    """Whether a handler was reached, and what ended the session.

    Nothing is raised; when the connection is lost no stream is open, every byte of the budget is
    free, every lease is given back once, and no task is left.
    """
    peer = Peer()
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(4)))
    sent = b""
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        peer.feed(data[start:end])
        if peer.calls.tasks:
            await asyncio.sleep(0)
        if chance.random() < 0.2:
            peer.session.tick(60)
        if chance.random() < 0.1:
            peer.session.announce_leave()
            peer.session.ask()
        if peer.session.is_heard:
            peer.session.leave()
        sent += b"".join(peer.session.sending.take(1 << 20))
    sent += b"".join(peer.session.sending.take(1 << 20))
    code = None
    if peer.session.is_over:
        goaways = [each.code for each in frames_of(sent) if each.kind == GOAWAY]
        code = ErrorCode(goaways[-1])
    peer.session.lose()
    assert peer.session.open_streams == 0
    await peer.calls.close()
    assert not peer.calls.tasks
    assert peer.budget.used == 0
    for lease in peer.session.sending.leases:  # of bytes that have left
        lease.release()
    assert all(lease.releases == 1 for lease in peer.leases)
    return peer.reached > 0, code


async def play(count: int, seed: int) -> tuple[int, Counter[str]]:
    """So many inputs; gives how many reached a handler, and what ended the sessions."""
    chance = random.Random(seed)
    conversations = [conversation(each) for each in range(50)]
    reached, ends = 0, Counter[str]()
    for _ in range(count):
        data = mutated(chance.choice(conversations), chance.choice(conversations), chance)
        has_reached, code = await played(data, chance)
        reached += has_reached
        ends["none" if code is None else code.name] += 1
    return reached, ends


def test_a_damaged_conversation_gives_a_clean_end() -> None:
    reached, ends = asyncio.run(play(INPUTS, seed=7))
    assert reached > INPUTS / 2
    assert len(ends) > 3


def test_an_undamaged_conversation_is_answered() -> None:
    async def steps() -> None:
        for seed in range(50):
            data = b"".join(conversation(seed))
            assert await played(data, random.Random(seed)) == (True, None)

    asyncio.run(steps())


def test_no_request_of_an_undamaged_conversation_is_malformed() -> None:
    async def steps() -> None:
        for seed in range(50):
            peer = Peer()
            peer.feed(b"".join(conversation(seed)))
            assert peer.refused == []
            peer.session.lose()
            await peer.calls.close()

    asyncio.run(steps())


def main() -> None:
    """Prints the share of inputs that reached a handler, and how the sessions ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    began = time.monotonic()
    reached, ends = asyncio.run(play(given.inputs, given.seed))
    sys.stdout.write(
        f"{given.inputs} inputs in {time.monotonic() - began:.0f} s: {reached / given.inputs:.1%} "
        f"reached a handler; ends {dict(ends)}\n"
    )


if __name__ == "__main__":
    main()
