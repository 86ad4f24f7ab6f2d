"""Native gRPC calls at a session without a socket: their time, windows, ends and counts."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from stoker.errors import Draining
from stoker.telemetry.server_statistics import UnroutedReason
from stoker.transport.wire.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    frame,
)
from stoker.transport.wire.limits import STREAM_WINDOW
from stoker.transport.wire.problems import HttpError

from tests.grpc_peer import FIRST, LARGE, LIMIT, STREAM, TOO_SLOW, UNARY, Peer, framed, run


def test_an_error_without_a_message_is_one_header_block_that_ends_the_stream() -> None:
    peer = Peer()
    peer.call(1, "/a.B/Nope")
    peer.data(1, framed(b""), ends=True)
    said = [each for each in peer.sent() if each.stream == 1]
    assert [(each.kind, each.flags) for each in said] == [(HEADERS, END_HEADERS | END_STREAM)]


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


@pytest.mark.parametrize(
    ("field", "status"), [(("grpc-timeout", "soon"), "3"), (("grpc-encoding", "snappy"), "12")]
)
def test_each_call_whose_head_is_refused_is_counted(field: tuple[str, str], status: str) -> None:
    """Also where the heads are alike, and their meaning is remembered."""
    peer = Peer()
    for number in (1, 3, 5, 7):
        peer.call(number, UNARY, field)
        peer.data(number, framed(b""), ends=True)
        assert peer.ends(number)["grpc-status"] == status
    assert peer.statistics.unrouted[UnroutedReason.MALFORMED] == 4


def test_each_request_that_is_no_grpc_is_counted() -> None:
    peer = Peer()
    for number in (1, 3, 5, 7):
        peer.call(number, UNARY, form="application/json")
        peer.data(number, b"{}", ends=True)
    assert [type(each) for each in peer.refused] == [HttpError] * 4


def test_a_call_that_is_cancelled_while_its_handler_works_cancels_it_once() -> None:
    peer = Peer()
    peer.call(1, UNARY)
    peer.data(1, framed(b"work"), ends=True)
    for _ in range(2):
        peer.feed(frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
    assert (peer.cancelled, peer.budget.used) == (1, 0)


@pytest.mark.parametrize(("begun", "ends"), [(b"", True), (framed(b"x")[:3], False)])
def test_a_drain_ends_streams_that_have_sent_nothing_and_no_others(
    begun: bytes, ends: bool
) -> None:
    async def steps() -> None:
        peer = Peer()
        peer.call(1, STREAM)
        if begun:
            peer.data(1, begun)
        peer.session.refuse_endless(Draining("going"))
        assert peer.session.open_streams == (0 if ends else 1)
        if ends:
            assert peer.ends(1)["grpc-status"] == "14"
        peer.session.lose()

    run(steps())


def test_a_stream_whose_handler_leaves_early_makes_one_task() -> None:
    """And none that the loop makes to close what was left of it."""

    async def steps() -> None:
        peer, made = Peer(), list[str]()

        def task(
            loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None], **options: Any
        ) -> "asyncio.Task[None]":
            made.append(str(work))
            return asyncio.Task(work, loop=loop, **options)

        asyncio.get_running_loop().set_task_factory(task)  # type: ignore[arg-type]  # of any result
        peer.call(1, FIRST)
        peer.data(1, framed(b"x") + framed(b"y"))
        await peer.turns()
        assert peer.ends(1)["grpc-status"] == "0"
        assert len(made) == 1

    run(steps())
