"""What native gRPC calls hold of the budget and of the memory, and that they let go of it."""

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest
from stoker.errors import Draining
from stoker.transport.grpc.call import PiecedMessage
from stoker.transport.grpc.native_stream import MESSAGE_COST
from stoker.transport.wire.http2.frames import (
    DATA,
    RST_STREAM,
    frame,
)
from stoker.transport.wire.limits import STREAM_WINDOW

from tests.grpc_peer import LARGE, LIMIT, RESTING, STREAM, TOO_SLOW, UNARY, Peer, framed, run


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


class Answer:
    """A large answer of a leased buffer, to be compressed behind other work of the thread."""

    def __init__(self, peer: Peer) -> None:
        self.is_read = False
        self.released = 0
        self._go_on = threading.Event()
        self._is_released = asyncio.Event()
        peer.calls.thread.run(self._wait(), lambda outcome: None, lambda size: None)
        pieces = _Pieces([bytes(1 << 20)])
        pieces.owner = self
        self.message = PiecedMessage(pieces, 1 << 20, self)

    def _wait(self) -> Generator[int, None, None]:
        self._go_on.wait()
        yield 0

    async def compress(self) -> None:
        """Lets the thread go on, until the lease is given back."""
        self._go_on.set()
        await self._is_released.wait()

    def release(self) -> None:
        """Implements `Lease`."""
        self.released += 1
        self._is_released.set()


class _Pieces(tuple[bytes, ...]):
    """Notes that somebody reads them."""

    owner: Answer

    def __iter__(self) -> Iterator[bytes]:
        self.owner.is_read = True
        return super().__iter__()


CODED = (("grpc-encoding", "gzip"), ("grpc-accept-encoding", "gzip"))


def test_an_answer_is_charged_until_it_is_compressed() -> None:
    async def steps() -> None:
        peer = Peer()
        peer.call(1, UNARY, *CODED)
        peer.data(1, framed(b"work"), ends=True)
        answer = Answer(peer)
        peer.replies[0](answer.message)
        assert peer.budget.used == 1 << 20
        await answer.compress()
        assert peer.budget.used == 0
        fields = peer.ends(1)
        assert (fields["grpc-encoding"], fields["grpc-status"]) == ("gzip", "0")

    run(steps())


def test_an_answer_is_not_compressed_for_a_client_that_is_gone() -> None:
    async def steps() -> None:
        peer = Peer()
        peer.call(1, UNARY, *CODED)
        peer.data(1, framed(b"work"), ends=True)
        answer = Answer(peer)
        peer.replies[0](answer.message)
        peer.feed(frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
        await answer.compress()
        assert not answer.is_read
        assert (answer.released, peer.budget.used, peer.cancelled) == (1, 0, 0)

    run(steps())


def test_a_drain_that_is_over_does_not_wait_for_an_answer_to_be_compressed() -> None:
    async def steps() -> None:
        peer = Peer()
        peer.call(1, UNARY, *CODED)
        peer.data(1, framed(b"work"), ends=True)
        answer = Answer(peer)
        peer.replies[0](answer.message)
        peer.session.refuse_all(Draining("going"))
        assert peer.ends(1)["grpc-status"] == "14"
        await answer.compress()
        assert (answer.is_read, answer.released, peer.budget.used) == (False, 1, 0)
        assert peer.sent() == []

    run(steps())
