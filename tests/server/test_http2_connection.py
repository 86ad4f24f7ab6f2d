"""HTTP/2 over real sockets: what a connection promises, to a client that is steered by frames."""

import asyncio
import contextlib
import json

import pytest
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, PingReceived
from h2.settings import SettingCodes
from stoker.transport.wire.http2 import frames
from stoker.transport.wire.http2.connection import HEARD_S, LEAVE_S
from stoker.transport.wire.http2.control_frames import ASKED
from stoker.transport.wire.limits import (
    BODY_GRACE_S,
    MAX_CONTROL_BYTES,
    STREAM_WINDOW,
    HttpLimits,
)
from stoker.transport.wire.message import JSON, HttpResponse

from tests.http2_client import Http2Client, Settings
from tests.wire_server import LIMIT, Lease, Served, get, run, serving, text

LATER_S = 1.5
"""More than the interval at which the server looks at a connection that is in use."""


async def connected(served: Served, **options: bool) -> Http2Client:
    client = Http2Client(await served.connect(), **options)
    await client.start()
    return client


def test_both_versions_of_http_are_spoken_on_one_port() -> None:
    async def steps() -> None:
        async with serving() as served:
            old, new = await served.connect(), await connected(served)
            old.send(get(body=b"one"))
            number = new.request(body=b"two")
            assert (await old.answer())[2] == b"one"
            status, fields, body = await new.answer(number)
            assert (status, body) == (200, b"two")
            assert fields["content-type"] == "application/json"
            assert fields["content-length"] == "3"
            assert fields["date"].endswith("GMT")

    run(steps())


@pytest.mark.parametrize("cut", [1, 3, 23, 24, 25])
def test_the_first_bytes_may_come_in_pieces(cut: int) -> None:
    async def steps() -> None:
        async with serving() as served:
            raw = await served.connect()
            hello = frames.PREFACE + frames.settings({})
            raw.send(hello[:cut])
            await served.until(lambda: served.server.open_connections == 1)
            for _ in range(10):
                await asyncio.sleep(0)
            raw.send(hello[cut:])
            got = await raw.reader.readexactly(9)
            assert got[3] == frames.SETTINGS

    run(steps())


@pytest.mark.parametrize("first", [b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"])
def test_a_preface_that_never_ends_is_a_slow_head(first: bytes) -> None:
    async def steps() -> None:
        async with serving(HttpLimits(header_timeout_s=5)) as served:
            raw = await served.connect()
            raw.send(first)
            await served.until(lambda: served.server.open_connections == 1)
            for _ in range(10):
                await asyncio.sleep(0)
            served.later(6)
            assert (await raw.answer())[0] == 408

    run(steps())


def test_requests_of_one_connection_are_answered_as_they_are_ready() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await connected(served)
            numbers = [client.request(f"/{each}") for each in range(20)]
            await served.handler.holds(20)
            for index in reversed(range(20)):
                served.handler.answers[index](text(b"%d" % index))
            for index, number in enumerate(numbers):
                assert (await client.answer(number))[2] == b"%d" % index

    run(steps())


def test_an_answer_that_is_there_when_its_request_is_read_does_not_wait_for_the_turns_end() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await connected(served)
            await client.answer(client.request("/now", b"first"))
            numbers: list[int] = []

            def send() -> None:
                numbers.append(client.request("/now", b"later"))

            assert await served.answers_at_once(client.client, send)
            assert (await client.answer(numbers[0]))[2] == b"later"

    run(steps())


def test_answers_of_a_connection_that_waits_for_others_leave_together_at_the_turns_end() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await connected(served)
            held = client.request("/held")
            await served.handler.holds(1)
            numbers: list[int] = []

            def send() -> None:
                numbers.append(client.request("/now", b"later"))

            assert not await served.answers_at_once(client.client, send)
            assert (await client.answer(numbers[0]))[2] == b"later"
            served.handler.answers[0](text(b"held"))
            assert (await client.answer(held))[2] == b"held"

    run(steps())


@pytest.mark.parametrize("size", [1, 65_536, 65_537, STREAM_WINDOW, STREAM_WINDOW + 1, LIMIT])
@pytest.mark.parametrize("says_length", [True, False])
def test_bodies_of_every_size_come_and_go_whole(size: int, says_length: bool) -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await connected(served)
            body = bytes(range(256)) * (size // 256) + bytes(size % 256)
            fields = [("content-length", str(size))] if says_length else []
            number = client.request("/now", b"", *fields, ends=False)
            await client.send_all(number, body)
            status, _, answer = await client.answer(number)
            assert (status, answer == body) == (200, True)

    run(steps())


@pytest.mark.parametrize("says_length", [True, False])
def test_a_body_over_the_limit_is_refused_and_its_neighbours_go_on(says_length: bool) -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await connected(served)
            fields = [("content-length", str(LIMIT + 1))] if says_length else []
            number = client.request("/now", b"", *fields, ends=False)
            await client.send_all(number, bytes(LIMIT + 1))
            status, _, body = await client.answer(number)
            assert status == 413
            assert "at most" in json.loads(body)["error"]
            assert len(served.refused) == 1
            assert (await client.answer(client.request(body=b"fine")))[2] == b"fine"

    run(steps())


def test_a_body_that_does_not_fit_the_budget_is_refused() -> None:
    async def steps() -> None:
        async with serving(budget=1000) as served:
            client = await connected(served)
            number = client.request("/now", bytes(1001))
            assert (await client.answer(number))[0] == 429
            assert (await client.answer(client.request(body=bytes(1000))))[0] == 200

    run(steps())


def test_a_head_request_has_no_body_and_says_its_length() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await connected(served)
            number = client.request("/held", method="HEAD")
            await served.handler.holds(1)
            served.handler.answers[0](text(b"12345"))
            status, fields, body = await client.answer(number)
            assert (status, fields["content-length"], body) == (200, "5", b"")

    run(steps())


def test_a_client_that_waits_for_continue_is_told_to_go_on() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await connected(served)
            number = client.request("/now", b"", ("expect", "100-continue"), ends=False)
            while not client.answers[number].interim:
                await client.event()
            client.send(number, b"body")
            assert (await client.answer(number))[2] == b"body"
            assert client.answers[number].interim == ["100"]

    run(steps())


@pytest.mark.parametrize("how", ["reset", "connection"])
def test_a_client_that_goes_away_cancels_its_requests(how: str) -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await connected(served)
            number = client.request("/a", bytes(100_000))
            other = client.request("/b")
            await served.handler.holds(2)
            if how == "reset":
                client.h2.reset_stream(number, ErrorCodes.CANCEL)
                client.flush()
                await served.handler.until(lambda: served.handler.cancelled == [0])
                served.handler.answers[1](text(b"here"))
                assert (await client.answer(other))[2] == b"here"
            else:
                client.client.writer.close()
                await served.handler.until(lambda: sorted(served.handler.cancelled) == [0, 1])

    run(steps())


def test_a_stalled_reader_stops_only_its_own_stream() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await connected(served, reads_bodies=False)
            lease = Lease()
            stalled = client.request("/a")
            await served.handler.holds(1)
            view = memoryview(bytes(100_000))
            served.handler.answers[0](HttpResponse(200, JSON, (view,), lease))
            while len(client.answers[stalled].body) < 65_535:
                await client.event()
            client.h2.increment_flow_control_window(1 << 20)
            client.flush()
            assert (await client.answer(client.request(body=b"fine")))[2] == b"fine"
            assert (served.budget.used, lease.releases) == (100_000, 0)
            client.h2.increment_flow_control_window(1 << 20, stalled)
            client.flush()
            assert len((await client.answer(stalled))[2]) == 100_000
            await served.until(lambda: lease.releases == 1)

    run(steps())


def test_a_client_that_takes_nothing_of_its_answer_is_cut_off() -> None:
    async def steps() -> None:
        async with serving(HttpLimits(write_stall_s=5)) as served:
            client = await connected(served, reads_bodies=False)
            lease = Lease()
            number = client.request("/a")
            await served.handler.holds(1)
            view = memoryview(bytes(100_000))
            served.handler.answers[0](HttpResponse(200, JSON, (view,), lease))
            while len(client.answers[number].body) < 65_535:
                await client.event()
            served.later(LATER_S)
            assert lease.releases == 0
            served.later(LATER_S + 5)
            assert await client.end() is None
            await served.until(lambda: lease.releases == 1)

    run(steps())


def test_a_client_that_floods_and_does_not_read_is_cut_off() -> None:
    async def steps() -> None:
        async with serving() as served:
            raw = await served.connect(receive_bytes=4096)
            raw.send(frames.PREFACE + frames.settings({}))
            ping = frames.frame(frames.PING, 0, 0, b"12345678")
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                for _ in range(MAX_CONTROL_BYTES // 100):
                    raw.send(ping * 1000)
                    await raw.writer.drain()
                    served.later(LATER_S)
            await served.until(lambda: served.server.open_connections == 0)

    run(steps())


def test_a_slow_body_is_refused_and_a_slow_frame_ends_the_connection() -> None:
    async def steps() -> None:
        async with serving(HttpLimits(header_timeout_s=3)) as served:
            client = await connected(served)
            number = client.request("/now", b"", ("content-length", "100"), ends=False)
            client.send(number, b"a", ends=False)
            await served.until(lambda: served.budget.used == 100)
            for second in range(int(BODY_GRACE_S) + 2):
                served.later(LATER_S * (second + 1))
            status, _, body = await client.answer(number)
            assert (status, "pace" in json.loads(body)["error"]) == (408, True)
            client.client.send(frames.frame(frames.PING, 0, 0, b"12345678")[:5])
            await served.until(lambda: bool(served.server.open_connections))
            for _ in range(10):
                await asyncio.sleep(0)
            for second in range(30, 40):
                served.later(LATER_S * second)
            assert await client.end() == ErrorCodes.ENHANCE_YOUR_CALM

    run(steps())


def test_a_frame_that_the_server_stops_reading_amid_is_not_slow() -> None:
    async def steps() -> None:
        async with serving(HttpLimits(header_timeout_s=3)) as served:
            client = Http2Client(await served.connect(receive_bytes=1 << 16), reads_bodies=False)
            await client.start({SettingCodes.INITIAL_WINDOW_SIZE: (1 << 31) - 1})
            client.h2.increment_flow_control_window((1 << 31) - 1 - 65_535)
            number = client.request("/a")
            ping = frames.frame(frames.PING, 0, 0, b"12345678")
            client.client.send(ping[:5])
            await served.handler.holds(1)
            size = 8 << 20
            served.handler.answers[0](HttpResponse(200, JSON, (memoryview(bytes(size)),)))
            before = -1
            while served.budget.used != before:  # until the kernel takes no more
                before = served.budget.used
                for _ in range(100):
                    await asyncio.sleep(0)
            assert before > 0
            client.client.send(ping[5:])
            for second in range(10):
                served.later(LATER_S * (second + 1))
            assert len((await client.answer(number))[2]) == size
            assert (await client.answer(client.request()))[0] == 200

    run(steps())


def test_a_connection_that_rests_too_long_is_closed() -> None:
    async def steps() -> None:
        async with serving(HttpLimits(idle_timeout_s=60)) as served:
            client = await connected(served)
            assert (await client.answer(client.request()))[0] == 200
            served.later(LATER_S)
            served.later(50)
            assert served.server.open_connections == 1
            served.later(70)
            served.later(70 + LEAVE_S + 1)
            assert await client.end() == ErrorCodes.NO_ERROR

    run(steps())


def test_an_old_connection_is_asked_to_leave_and_its_streams_live_on() -> None:
    async def steps() -> None:
        async with serving(HttpLimits(max_connection_age_s=100)) as served:
            client = await connected(served)
            held = client.request("/a")
            await served.handler.holds(1)
            served.later(LATER_S)
            served.later(120)
            while not client.goaways:
                await client.event()
            assert client.goaways == [((1 << 31) - 1, ErrorCodes.NO_ERROR)]
            served.later(126)
            while len(client.goaways) < 2:
                await client.event()
            assert client.goaways[1] == (held, ErrorCodes.NO_ERROR)
            served.handler.answers[0](text(b"at last"))
            assert (await client.answer(held))[2] == b"at last"
            assert await client.end() == ErrorCodes.NO_ERROR

    run(steps())


def test_a_drain_tells_every_connection_and_loses_no_stream() -> None:
    async def steps() -> None:
        async with serving() as served:
            clients = [await connected(served) for _ in range(3)]
            held = clients[0].request("/a")
            await served.handler.holds(1)
            served.server.announce_drain()
            for client in clients:
                while not client.goaways:
                    await client.event()
            finishing = asyncio.ensure_future(served.finish())
            for client in clients[1:]:
                assert await client.end() == ErrorCodes.NO_ERROR
                client.client.writer.close()
            assert not finishing.done()
            served.handler.answers[0](text(b"whole"))
            assert (await clients[0].answer(held))[2] == b"whole"
            assert await clients[0].end() == ErrorCodes.NO_ERROR
            clients[0].client.writer.close()
            await finishing

    run(steps())


def test_a_stream_that_is_on_its_way_when_a_drain_ends_is_served() -> None:
    async def steps() -> None:
        async with serving() as served:
            served.stop_the_clock()
            client = await connected(served)
            finishing = asyncio.ensure_future(served.finish())
            await served.until(lambda: served.server.is_closing)
            crossing = client.request("/a")  # the client has read nothing since
            await served.handler.holds(1)
            said = [await client.event() for _ in range(3)]
            assert [type(each) for each in said] == [
                ConnectionTerminated,
                PingReceived,
                ConnectionTerminated,
            ]
            assert client.goaways == [((1 << 31) - 1, 0), (crossing, 0)]
            late = client.request("/b")
            assert await client.reset(late) == ErrorCodes.REFUSED_STREAM
            served.handler.answers[0](text(b"in time"))
            assert (await client.answer(crossing))[2] == b"in time"
            assert await client.end() == ErrorCodes.NO_ERROR
            client.client.writer.close()
            await finishing

    run(steps())


def test_a_client_that_answers_no_ping_is_left_all_the_same() -> None:
    async def steps() -> None:
        async with serving() as served:
            raw = await served.connect()
            raw.send(frames.PREFACE + frames.settings({}))
            await raw.reader.readexactly(9)
            served.server.announce_drain()
            finishing = asyncio.ensure_future(served.finish())
            last = frames.goaway(0, frames.ErrorCode.NO_ERROR)
            await raw.reader.readuntil(frames.frame(frames.PING, 0, 0, ASKED))
            served.later(HEARD_S + 0.1)
            assert await raw.reader.read() == last
            raw.writer.close()
            await finishing

    run(steps())


def test_what_a_closing_server_has_not_answered_is_told_to_go_elsewhere() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await connected(served)
            held = client.request("/a")
            half = client.request("/b", b"x", ends=False)
            await served.handler.holds(1)
            closing = asyncio.ensure_future(served.server.close())
            for number in (held, half):
                status, _, body = await client.answer(number)
                assert (status, "shutting down" in json.loads(body)["error"]) == (503, True)
            assert served.handler.cancelled == [0]
            await closing

    run(steps())


def test_too_many_connections_are_turned_away() -> None:
    async def steps() -> None:
        async with serving(HttpLimits(max_connections=1)) as served:
            first = await connected(served)
            second = await served.connect()
            assert (await second.answer())[0] == 503  # nobody knows yet what it speaks
            assert (await first.answer(first.request()))[0] == 200

    run(steps())


@pytest.mark.parametrize(
    "settings", [{SettingCodes.INITIAL_WINDOW_SIZE: 1}, {SettingCodes.MAX_FRAME_SIZE: 1 << 20}]
)
def test_answers_keep_to_the_settings_of_the_client(
    settings: Settings,
) -> None:
    async def steps() -> None:
        async with serving() as served:
            client = Http2Client(await served.connect())
            await client.start(settings)
            body = bytes(200) if SettingCodes.INITIAL_WINDOW_SIZE in settings else bytes(200_000)
            number = client.request("/now", b"", ends=False)
            await client.send_all(number, body)
            assert (await client.answer(number))[2] == body

    run(steps())
