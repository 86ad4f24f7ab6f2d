"""HTTP/1.1 clients that send the same head again, each request in one piece: the usual case, which
the connection serves by a way of its own."""

import json

from stoker.transport.wire.limits import MAX_PIPELINED

from tests.wire_server import Client, get, run, serving, text


def test_a_client_that_repeats_its_head_is_answered_each_time() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            for body in (b"one", b"two", b"six"):
                client.send(get(body=body))
                assert (await client.answer())[2] == body
            client.send(get("/held", b"one"))
            await served.handler.holds(1)
            client.send(get("/held", b"two"))  # while the first is under way
            await served.handler.holds(2)
            client.send(get("/held", b"six")[:-1])
            for index in range(2):
                served.handler.answers[index](text(b"answered"))
                assert (await client.answer())[2] == b"answered"
            client.send(b"x")  # its last byte
            await served.handler.holds(3)
            bodies = [each.body for each in served.handler.requests]
            assert bodies == [b"one", b"two", b"six"]
            served.handler.answers[2](text(b"last"))
            assert (await client.answer())[2] == b"last"
            closing = get("/now", b"bye", "Connection: close")
            client.send(closing)
            assert (await client.answer())[1]["connection"] == "close"
            assert await client.ended()

    run(steps())


def test_a_client_that_does_not_wait_for_its_answers_is_bounded() -> None:
    async def steps() -> None:
        async with serving() as served:
            client, other = await served.connect(), await served.connect()
            for count in range(1, MAX_PIPELINED + 1):
                client.send(get("/held"))
                await served.handler.holds(count)
            client.send(get("/held"))
            await others_are_served(other)
            assert served.server.in_flight == MAX_PIPELINED
            for index in range(MAX_PIPELINED + 1):
                await served.handler.holds(index + 1)
                served.handler.answers[index](text(b"%d" % index))
                assert (await client.answer())[2] == b"%d" % index

    run(steps())


def test_a_client_that_does_not_read_its_answer_is_not_served_again() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect(receive_bytes=4096)
            other = await served.connect()
            client.send(get("/now"))
            await client.answer()
            client.send(get("/held"))
            await served.handler.holds(1)
            served.handler.answers[0](text(bytes(16 << 20)))
            await others_are_served(other)
            client.send(get("/held"))
            await others_are_served(other)
            assert len(served.handler.requests) == 1
            assert len((await client.answer())[2]) == 16 << 20
            await served.handler.holds(2)
            served.handler.answers[1](text(b"second"))
            assert (await client.answer())[2] == b"second"

    run(steps())


async def others_are_served(client: Client) -> None:
    """Whatever the server would do for one client it has done when another had ten answers."""
    for _ in range(10):
        client.send(get())
        await client.answer()


def test_a_repeated_request_that_the_budget_has_no_room_for_is_refused() -> None:
    async def steps() -> None:
        async with serving(budget=40) as served:
            client, other = await served.connect(), await served.connect()
            for path in ("/now", "/held"):
                client.send(get(path, bytes(24)))
                if path == "/now":
                    await client.answer()
            await served.handler.holds(1)
            other.send(get("/held", bytes(10)))
            await served.handler.holds(2)
            served.handler.answers[1](text(b""))
            await other.answer()
            third = await served.connect()
            third.send(get("/held", bytes(16)))
            await served.handler.holds(3)
            other.send(get("/held", bytes(10)))
            status, _, body = await other.answer()
            assert (status, json.loads(body)["error"][:26]) == (429, "expected at most 0 bytes, ")
            served.handler.answers[0](text(b""))
            served.handler.answers[2](text(b""))
            await client.answer()
            await third.answer()

    run(steps())


def test_a_connection_whose_last_answer_leaves_after_the_port_is_closed_ends_at_once() -> None:
    async def steps() -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(get("/held"))
            await served.handler.holds(1)
            served.handler.answers[0](text(b"first"))
            await client.answer()
            client.send(get("/held"))
            await served.handler.holds(2)
            await served.server.stop_accepting()
            served.handler.answers[1](text(b"last"))
            assert (await client.answer())[2] == b"last"
            assert served.server.open_connections == 0
            assert await client.ended()

    run(steps())
