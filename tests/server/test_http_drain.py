"""A port of HTTP goes away and loses nothing that reached it, over real sockets."""

import asyncio
import json
import socket
import threading

import pytest

from tests.wire_server import get, run, serving, text


def test_a_drain_announces_itself_then_ends_idle_connections_and_finishes_the_rest() -> None:
    async def steps() -> None:
        async with serving() as served:
            idle, busy, late = [await served.connect() for _ in range(3)]
            idle.send(get())
            assert "connection" not in (await idle.answer())[1]
            busy.send(get("/a"))
            await served.handler.holds(1)
            served.server.announce_drain()
            new = await served.connect()
            new.send(get())
            assert (await new.answer())[1]["connection"] == "close"
            late.send(get(body=b"in time"))
            await served.server.stop_accepting()
            assert await idle.ended()
            assert (await late.answer())[2] == b"in time"
            drained = asyncio.ensure_future(served.server.drained())
            await asyncio.sleep(0)
            assert not drained.done()
            with pytest.raises(OSError, match=r"refused|Connect call failed"):
                await served.connect()
            served.handler.answers[0](text(b"finished"))
            status, fields, body = await busy.answer()
            assert (status, fields["connection"], body) == (200, "close", b"finished")
            await drained

    run(steps())


def test_what_a_closing_server_has_not_answered_is_told_to_go_elsewhere() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(get("/a"))
            await served.handler.holds(1)
            closing = asyncio.ensure_future(served.server.close())
            status, _, body = await client.answer()
            assert (status, "shutting down" in json.loads(body)["error"]) == (503, True)
            assert served.handler.cancelled == [0]
            await closing

    run(steps())


def a_plug(port: int) -> socket.socket:
    """A connection that the kernel makes without a turn of the loop."""
    plug = socket.create_connection(("127.0.0.1", port))
    plug.setblocking(False)
    return plug


async def read_to_end(plug: socket.socket) -> bytes:
    got = b""
    while piece := await asyncio.get_running_loop().sock_recv(plug, 1 << 16):
        got += piece
    plug.close()
    return got


def test_a_request_that_the_kernel_holds_when_the_port_closes_is_answered() -> None:
    async def steps() -> None:
        async with serving() as served:
            plug = a_plug(served.port)
            await served.until(lambda: served.server.open_connections == 1)
            plug.send(get(body=b"in the kernel"))
            finishing = asyncio.create_task(served.finish())
            assert (await read_to_end(plug)).endswith(b"in the kernel")
            await finishing

    run(steps())


def test_connections_that_nobody_has_accepted_when_the_port_closes_are_served() -> None:
    async def steps() -> None:
        async with serving() as served:
            plugs = [a_plug(served.port) for _ in range(200)]
            for number, plug in enumerate(plugs):
                plug.send(get(body=b"in the backlog %d" % number))
            finishing = asyncio.create_task(served.finish())
            for number, plug in enumerate(plugs):
                assert (await read_to_end(plug)).endswith(b"in the backlog %d" % number)
            await finishing

    run(steps())


def test_a_client_that_comes_while_the_port_closes_is_served_or_refused_but_never_reset() -> None:
    served_or_refused: list[str] = []
    first_answers = threading.Semaphore(0)

    def come_again_and_again(port: int) -> None:
        """Opens a connection for each request until no more are taken."""
        try:
            while True:
                with socket.create_connection(("127.0.0.1", port), timeout=30) as plug:
                    try:
                        plug.sendall(get())
                        served_or_refused.append("lost" if plug.recv(100) == b"" else "served")
                    except OSError as error:
                        served_or_refused.append(repr(error))
                first_answers.release()
        except ConnectionRefusedError:
            served_or_refused.append("refused")

    async def steps() -> None:
        async with serving() as served:
            threads = [
                threading.Thread(target=come_again_and_again, args=(served.port,)) for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            await asyncio.to_thread(lambda: [first_answers.acquire() for _ in range(100)])
            await served.finish()
            for thread in threads:
                await asyncio.to_thread(thread.join)
        assert set(served_or_refused) == {"served", "refused"}
        assert served_or_refused.count("refused") == 8

    run(steps())


@pytest.mark.parametrize("split", [10, -1], ids=["head", "body"])
def test_a_request_half_of_which_is_here_when_the_port_closes_is_answered(split: int) -> None:
    async def steps() -> None:
        async with serving() as served:
            idle, upload = await served.connect(), await served.connect()
            idle.send(get())
            await idle.answer()
            data = get(body=b"whole")
            upload.send(data[:split])
            # The loop has it once it has answered what was sent later.
            idle.send(get())
            await idle.answer()
            await served.server.stop_accepting()
            assert await idle.ended()
            draining = asyncio.create_task(served.server.drained())
            upload.send(data[split:])
            status, fields, body = await upload.answer()
            assert (status, fields["connection"], body) == (200, "close", b"whole")
            await draining

    run(steps())


def test_a_connection_just_made_has_a_moment_for_its_first_request() -> None:
    async def steps() -> None:
        async with serving() as served:
            served.stop_the_clock()
            quick, silent = await served.connect(), await served.connect()
            await served.until(lambda: served.server.open_connections == 2)
            await served.server.stop_accepting()
            quick.send(get(body=b"in time"))
            assert (await quick.answer())[2] == b"in time"
            assert served.server.open_connections == 1
            served.later(1)
            assert await silent.ended()

    run(steps())


def test_a_request_that_crosses_the_end_of_its_idle_connection_sees_a_clean_end() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(get())
            await client.answer()
            served.later(621)
            assert await client.ended()
            client.send(get("/late"))
            await served.finish()
            assert await client.reader.read() == b""
            assert served.handler.requests == []

    run(steps())


def test_a_client_that_never_closes_does_not_hold_the_drain() -> None:
    async def steps() -> None:
        async with serving() as served:
            for _ in range(3):
                client = await served.connect()
                client.send(get())
                await client.answer()
            async with asyncio.timeout(10):
                await served.finish()

    run(steps())


@pytest.mark.parametrize("split", [10, -1], ids=["head", "body"])
def test_a_request_half_of_which_is_here_at_the_very_end_is_told_when_to_retry(split: int) -> None:
    async def steps() -> None:
        async with serving() as served:
            client, other = await served.connect(), await served.connect()
            client.send(get(body=b"whole")[:split])
            other.send(get())
            await other.answer()
            closing = asyncio.create_task(served.server.close())
            status, fields, body = await client.answer()
            assert (status, fields["retry-after"], fields["connection"]) == (503, "1", "close")
            assert "shutting down" in json.loads(body)["error"]
            assert await client.ended()
            await closing

    run(steps())
