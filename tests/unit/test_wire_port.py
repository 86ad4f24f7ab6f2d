"""A port takes no new handshake while it closes, and gives up none that it has."""

import asyncio
import errno
import select
import socket
import sys
from collections.abc import Callable

import pytest
import uvloop
from stoker.transport.wire.port import Port


@pytest.mark.skipif(sys.platform != "linux", reason="needs socket filters")
@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_nobody_connects_between_the_last_accept_and_the_closing_of_a_port(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def steps() -> None:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = Port(server)
        address = ("127.0.0.1", port.number)
        early, late = socket.create_connection(address), socket.socket()
        port.refuse_handshakes()
        late.setblocking(False)
        assert late.connect_ex(address) == errno.EINPROGRESS
        _, connected, _ = select.select([], [late], [], 0)  # at once where nothing refuses it
        early.sendall(b"passes the filter")
        taken = port.close()
        got = taken[0].recv(100)
        for each in (early, late, *taken):
            each.close()
        await port.closed()
        assert (connected, len(taken), got) == ([], 1, b"passes the filter")

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(steps())


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_the_kernel_looks_after_connections_whose_clients_are_gone(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    kept: list[int] = []

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = writer.get_extra_info("socket")
        kept.append(own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        writer.close()

    async def steps() -> None:
        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        port = Port(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
        await reader.read()
        writer.close()
        port.close()
        await port.closed()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(steps())
    assert kept == [1]
