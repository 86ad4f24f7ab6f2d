"""What an HTTP port refuses before anybody looks at its meaning: connections over the limit, bodies
that hold memory for too long; and that it is counted."""

import asyncio

import pytest
from stoker.errors import Overloaded, TooLarge
from stoker.telemetry.server_statistics import ServerStatistics, UnroutedReason
from stoker.transport.wire.limits import HttpLimits
from stoker.transport.wire.problems import HttpError, Problem
from stoker.transport.wire.refusals import RefusalCounter

from tests.conftest import FREE_PORTS, Serving
from tests.wire_server import LIMIT, get, run, serving


def test_connections_over_the_limit_are_refused() -> None:
    async def steps() -> None:
        async with serving(HttpLimits(max_connections=1)) as served:
            first, second = await served.connect(), await served.connect()
            assert (await second.answer())[0] == 503
            assert await second.ended()
            first.send(get())
            assert (await first.answer())[0] == 200

    run(steps())


def test_that_connections_are_refused_is_told_once_until_there_was_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def told() -> int:
        return sum("connections are open" in each.getMessage() for each in caplog.records)

    async def steps() -> None:
        async with serving(HttpLimits(max_connections=1)) as served:
            first = await served.connect()
            await served.until(lambda: served.server.open_connections == 1)
            for _ in range(3):
                assert (await (await served.connect()).answer())[0] == 503
            assert told() == 1
            first.writer.close()
            await served.until(lambda: served.server.open_connections == 0)
            await served.connect()
            await served.until(lambda: served.server.open_connections == 1)
            assert (await (await served.connect()).answer())[0] == 503
            assert told() == 2

    run(steps())


def test_refused_connections_that_stay_do_not_take_the_place_of_others() -> None:
    async def steps() -> None:
        async with serving(HttpLimits(max_connections=1)) as served:
            first = await served.connect()
            await served.until(lambda: served.server.open_connections == 1)
            refused = [await served.connect() for _ in range(10)]
            for each in refused:
                assert (await each.answer())[0] == 503
            assert served.server.open_connections == 1
            first.writer.close()
            await served.until(lambda: served.server.open_connections == 0)
            assert served.server.lingering_connections == 10
            late = await served.connect()
            late.send(get())
            assert (await late.answer())[0] == 200

    run(steps())


def test_a_refused_connection_that_stays_is_ended_soon() -> None:
    async def steps() -> None:
        async with serving(HttpLimits(max_connections=0)) as served:
            client = await served.connect()
            assert (await client.answer())[0] == 503
            await served.until(lambda: served.server.lingering_connections == 1)
            served.later(1.5)
            await served.until(lambda: served.server.lingering_connections == 0)

    run(steps())


def test_a_crowd_of_refused_connections_ends_at_once() -> None:
    async def steps() -> None:
        limits = HttpLimits(max_connections=0)
        async with serving(limits) as served:
            served.stop_the_clock()
            polite = [await served.connect() for _ in range(limits.max_lingering)]
            for each in polite:
                assert (await each.answer())[0] == 503
            for _ in range(20):
                late = await served.connect()
                with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                    await late.answer()
            await served.until(lambda: served.server.lingering_connections == limits.max_lingering)

    run(steps())


def test_a_connection_with_its_last_answer_does_not_take_the_place_of_others() -> None:
    async def steps() -> None:
        async with serving(HttpLimits(max_connections=1)) as served:
            for _ in range(5):  # none of them closes its side
                client = await served.connect()
                client.send(get("/now", b"", "Connection: close"))
                assert (await client.answer())[0] == 200

    run(steps())


@pytest.mark.parametrize(
    "head",
    [
        get(body=bytes(LIMIT))[:-LIMIT],
        b"POST /now HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % LIMIT,
    ],
    ids=["sized", "chunked"],
)
def test_a_large_body_at_the_least_rate_does_not_hold_its_memory_for_hours(head: bytes) -> None:
    async def steps() -> None:
        async with serving() as served:
            served.stop_the_clock()
            client = await served.connect()
            client.send(head + bytes(30_000))  # one segment; 1.3 s after the grace: 23 KB/s
            await served.until(lambda: served.budget.used == LIMIT)
            served.later(5.2)
            assert served.budget.used == LIMIT
            served.later(6.3)
            status, _, body = await client.answer()
            assert (status, b"34953 bytes a second" in body) == (408, True)
            await served.until(lambda: served.budget.used == 0)

    run(steps())


def test_what_is_refused_before_the_handler_sees_it_is_told_once() -> None:
    async def steps() -> None:
        async with serving(budget=1000) as served:
            for data in (
                b"nonsense\r\n\r\n",
                get(body=bytes(LIMIT + 1))[:100],
                get("/", bytes(2000)),
            ):
                client = await served.connect()
                client.send(data)
                await client.answer()
        assert [type(each) for each in served.refused] == [HttpError, TooLarge, Overloaded]

    run(steps())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HttpError(Problem.MALFORMED, ""), UnroutedReason.MALFORMED),
        (HttpError(Problem.HEAD_TOO_LARGE, ""), UnroutedReason.MALFORMED),
        (HttpError(Problem.NO_SUCH_PATH, ""), None),
        (TooLarge(""), UnroutedReason.TOO_LARGE),
        (Overloaded("", retry_after=1), UnroutedReason.TOO_LARGE),
    ],
)
def test_a_refusal_is_counted_under_its_reason(
    error: HttpError | TooLarge | Overloaded, reason: UnroutedReason | None
) -> None:
    statistics = ServerStatistics()
    RefusalCounter(statistics)(error)
    assert statistics.unrouted == {each: int(each is reason) for each in UnroutedReason}


def test_what_the_data_port_refuses_is_in_a_metric(serve: Serving) -> None:
    server = serve(settings=FREE_PORTS)

    async def steps() -> None:
        for data in (
            b"nonsense\r\n\r\n",
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.at.http_port)
            writer.write(data)
            assert await reader.read()
            writer.close()

    run(steps())
    for reason in ("malformed", "too_large"):
        assert server.at.metric("stoker_requests_unrouted_total", reason=reason) == 1
