"""The HTTP/1.1 connection over real sockets: order, limits, slow and rude peers, drain, leases."""

import asyncio
import json
import re
import socket
import struct
from collections.abc import Callable

import pytest
from stoker.errors import Overloaded
from stoker.transport.wire.limits import MAX_PIPELINED, HttpLimits
from stoker.transport.wire.message import JSON, HttpResponse, error_response

from tests.wire_server import LIMIT, Client, Lease, get, run, serving, text


def test_answers_come_in_the_order_of_their_requests() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(get("/a") + get("/b") + get("/now", b"third"))
            await served.handler.holds(2)
            assert served.server.in_flight == 3
            served.handler.answers[1](text(b"second"))
            served.handler.answers[0](text(b"first"))
            bodies = [(await client.answer())[2] for _ in range(3)]
            assert bodies == [b"first", b"second", b"third"]

    run(steps())


def test_an_answer_that_is_there_when_its_request_is_read_does_not_wait_for_the_turns_end() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(get(body=b"first"))  # its head is new
            assert (await client.answer())[2] == b"first"
            assert await served.answers_at_once(client, lambda: client.send(get(body=b"later")))
            assert (await client.answer())[2] == b"later"

    run(steps())


def test_a_pipeline_is_bounded_and_goes_on_when_answers_leave() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            count = 3 * MAX_PIPELINED
            client.send(get("/a") * count)
            for first in range(0, count, MAX_PIPELINED):
                await served.handler.holds(first + MAX_PIPELINED)
                assert served.server.in_flight == MAX_PIPELINED
                for index in range(first, first + MAX_PIPELINED):
                    served.handler.answers[index](text(b"%d" % index))
            assert [(await client.answer())[2] for _ in range(count)] == [
                b"%d" % index for index in range(count)
            ]

    run(steps())


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, LIMIT])
def test_a_body_of_any_size_arrives_whole(size: int) -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            body = bytes(range(256)) * (size // 256) + bytes(size % 256)
            client.send(get(body=body) + get(body=b"next"))
            assert (await client.answer())[2] == body
            assert (await client.answer())[2] == b"next"

    run(steps())


def test_a_chunked_body_arrives_whole() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(b"POST /now HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in (b"ab", b"c" * 100_000):
                client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            client.send(b"0\r\n\r\n")
            assert (await client.answer())[2] == b"ab" + b"c" * 100_000

    run(steps())


def test_a_client_that_expects_it_is_told_to_continue_in_turn() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(get("/a") + get("/now", b"abc", "Expect: 100-continue")[:-3])
            await served.handler.holds(1)
            served.handler.answers[0](text(b"first"))
            assert (await client.answer())[2] == b"first"
            assert (await client.head())[0] == 100
            client.send(b"abc")
            assert (await client.answer())[2] == b"abc"

    run(steps())


def test_the_answer_to_head_has_the_length_and_no_body() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            for following in (get(body=b"de"), b"", b""):
                client.send(get(body=b"abc", method="HEAD") + following)
                status, fields = await client.head()
                assert (status, fields["content-length"]) == (200, "3")
                if following:
                    assert (await client.answer())[2] == b"de"
            client.send(get(body=b"de", method="HEAD"))
            assert (await client.reader.readexactly(12)) == b"HTTP/1.1 200"

    run(steps())


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/now", b"", "Connection: close"),
        b"GET /now HTTP/1.0\r\n\r\n",
    ],
)
def test_a_connection_that_shall_close_does_after_its_answer(request_bytes: bytes) -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(request_bytes + get(body=b"not answered"))
            status, fields, _ = await client.answer()
            assert (status, fields["connection"]) == (200, "close")
            assert await client.ended()

    run(steps())


def test_answers_carry_the_date() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(get())
            assert re.fullmatch(
                r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", (await client.answer())[1]["date"]
            )

    run(steps())


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000, 431),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (get(body=bytes(LIMIT + 1))[:100], 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n", 417),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)
def test_a_request_that_http_refuses_is_answered_in_turn_and_ends_the_connection(
    data: bytes, status: int
) -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(get("/a") + data)
            await served.handler.holds(1)
            served.handler.answers[0](text(b"first"))
            assert (await client.answer())[2] == b"first"
            got, fields, body = await client.answer()
            assert (got, fields["connection"]) == (status, "close")
            assert json.loads(body)["error"]
            assert await client.ended()

    run(steps())


def test_a_refused_body_may_still_be_sent_while_the_refusal_is_read() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(get(body=bytes(2 * LIMIT)))
            await client.writer.drain()
            assert (await client.answer())[0] == 413

    run(steps())


def test_a_body_that_does_not_fit_the_budget_is_told_to_come_back() -> None:
    async def steps() -> None:
        async with serving(budget=1000) as served:
            client, other = await served.connect(), await served.connect()
            client.send(get("/a", bytes(600)))
            await served.handler.holds(1)
            other.send(get(body=bytes(600)))
            status, fields, body = await other.answer()
            assert (status, fields["retry-after"]) == (429, "1")
            assert "400 bytes" in json.loads(body)["error"]
            served.handler.answers[0](text(b""))
            assert (await client.answer())[0] == 200

    run(steps())


@pytest.mark.parametrize(
    "goes", [lambda client: client.writer.close(), lambda client: client.writer.write_eof()]
)
def test_a_client_that_goes_away_cancels_its_requests(goes: Callable[[Client], None]) -> None:
    async def steps() -> None:
        async with serving() as served:
            client, other = await served.connect(), await served.connect()
            client.send(get("/a") + get("/b"))
            await served.handler.holds(2)
            other.send(get("/c"))
            await served.handler.holds(3)
            goes(client)
            await served.handler.until(lambda: served.handler.cancelled == [0, 1])
            served.handler.answers[2](text(b"unharmed"))
            assert (await other.answer())[2] == b"unharmed"

    run(steps())


def test_a_client_that_goes_away_after_its_requests_still_gets_what_is_answered() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(get(body=b"one") + get(body=b"two"))
            client.writer.write_eof()
            assert [(await client.answer())[2] for _ in range(2)] == [b"one", b"two"]
            assert await client.ended()

    run(steps())


BIG = 8 << 20


def test_a_lease_ends_once_when_the_last_byte_has_left() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect(receive_bytes=4096)
            client.send(get("/a") + get("/b"))
            await served.handler.holds(2)
            lease, memory = Lease(), bytearray(b"1" * BIG)
            served.handler.answers[0](HttpResponse(200, JSON, (memoryview(memory),), lease))
            await served.until(lambda: served.budget.used >= BIG)
            await client.head()
            assert lease.releases == 0
            small = Lease()
            served.handler.answers[1](HttpResponse(200, JSON, (b"second",), small))
            got = await client.reader.readexactly(BIG)
            assert got == b"1" * BIG
            assert (await client.answer())[2] == b"second"
            await served.until(lambda: small.releases == 1)
            assert lease.releases == 1

    run(steps())


def test_a_stalled_reader_stops_only_itself_and_its_leases_end_with_it() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect(receive_bytes=4096)
            client.send(get("/a") + get("/b"))
            await served.handler.holds(2)
            leases = [Lease(), Lease()]
            for answer, lease in zip(served.handler.answers, leases, strict=True):
                answer(HttpResponse(200, JSON, (memoryview(bytes(BIG)),), lease))
            await client.head()
            client.send(get("/not-read"))
            other = await served.connect()
            for _ in range(100):
                other.send(get(body=b"x"))
                assert (await other.answer())[2] == b"x"
            assert [each.releases for each in leases] == [0, 0]
            assert len(served.handler.requests) == 2
            client.writer.transport.abort()
            await served.until(lambda: [each.releases for each in leases] == [1, 1])
            assert served.budget.used == 0

    run(steps())


def test_a_reader_that_takes_nothing_for_too_long_is_dropped() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect(receive_bytes=4096)
            client.send(get("/a"))
            await served.handler.holds(1)
            lease = Lease()
            served.handler.answers[0](HttpResponse(200, JSON, (memoryview(bytes(BIG)),), lease))
            await served.until(lambda: served.budget.used >= BIG)
            seconds = 0
            while lease.releases == 0:
                seconds += 61
                served.later(seconds)
                await asyncio.sleep(0)
            await served.until(lambda: served.server.open_connections == 0)
            assert lease.releases == 1

    run(steps())


def test_an_answer_for_a_lost_connection_gives_its_lease_back() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(get("/a"))
            await served.handler.holds(1)
            handler = served.handler
            handler._cancel = lambda index: None  # type: ignore[method-assign]  # it runs on
            client.writer.transport.abort()
            await served.until(lambda: served.server.open_connections == 0)
            lease = Lease()
            handler.answers[0](HttpResponse(200, JSON, (memoryview(bytes(BIG)),), lease))
            assert lease.releases == 1

    run(steps())


def test_a_reset_while_answering_harms_nobody_else() -> None:
    async def steps() -> None:
        async with serving() as served:
            client, other = await served.connect(), await served.connect()
            client.send(get("/a"))
            other.send(get("/b"))
            await served.handler.holds(2)
            raw = client.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.transport.abort()
            for answer in served.handler.answers:
                answer(HttpResponse(200, JSON, (memoryview(bytes(BIG)),), Lease()))
            assert len((await other.answer())[2]) == BIG

    run(steps())


@pytest.mark.parametrize(
    ("data", "seconds", "status"),
    [
        (b"GET / HT", 11, 408),
        (get(body=bytes(100_000))[:200], 6, 408),
        (get(body=bytes(100))[:-1], 6, 408),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 6, 408),
    ],
)
def test_a_request_that_comes_too_slowly_is_refused(
    data: bytes, seconds: float, status: int
) -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(get() + data)
            await client.answer()
            await asyncio.sleep(0)
            served.later(seconds - 2)
            served.later(seconds)
            assert (await client.answer())[0] == status
            assert await client.ended()

    run(steps())


def test_a_body_that_keeps_its_rate_may_take_its_time() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            body = bytes(200_000)
            data = get(body=body)
            client.send(data[:100_000])
            await served.until(lambda: served.budget.used > 0)
            served.later(10)
            client.send(data[100_000:])
            assert len((await client.answer())[2]) == len(body)

    run(steps())


@pytest.mark.parametrize(("asks_first", "seconds"), [(False, 61), (True, 621)])
def test_an_idle_connection_is_shut(asks_first: bool, seconds: float) -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            if asks_first:
                client.send(get())
                await client.answer()
            await served.until(lambda: served.server.open_connections == 1)
            served.later(seconds - 2)
            assert not client.reader.at_eof()
            served.later(seconds)
            assert await client.ended()

    run(steps())


def test_an_idle_connection_waits_for_its_answer_as_long_as_it_takes() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(get("/a"))
            await served.handler.holds(1)
            served.later(10_000)
            served.handler.answers[0](text(b"late"))
            assert (await client.answer())[2] == b"late"

    run(steps())


def test_an_old_connection_closes_with_its_next_answer() -> None:
    async def steps() -> None:
        async with serving(HttpLimits(max_connection_age_s=0)) as served:
            client = await served.connect()
            client.send(get(body=b"1") + get(body=b"2"))
            first, second = await client.answer(), await client.answer()
            assert ("connection" in first[1], second[1]["connection"]) == (False, "close")
            assert await client.ended()

    run(steps())


def test_a_refusal_says_in_whole_seconds_when_to_retry() -> None:
    response = error_response(Overloaded("later", retry_after=0.2))
    assert (response.status, dict(response.headers)["Retry-After"]) == (429, "1")
    assert dict(error_response(Overloaded("x", retry_after=1.5)).headers)["Retry-After"] == "2"
    assert "Retry-After" not in dict(error_response(Overloaded("x")).headers)
