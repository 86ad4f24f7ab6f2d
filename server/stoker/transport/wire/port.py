"""A listening port that closes without losing a connection that the kernel has made for it.

The kernel completes handshakes on its own and keeps the connections until they are accepted; when
the port closes it resets those that it still has, and their clients lose a request that they
believe to be sent. So a port ends in three steps, which the caller takes apart in time:

  1. `refuse_handshakes`: no new one begins (a socket filter drops SYN). A client that comes then
     sends SYN again after 1 s, and is refused once the port is closed.
  2. Handshakes that have begun end within a round trip; the loop accepts as before.
  3. `close` accepts all that are left, and closes: nobody can come in between.

Where there are no socket filters step 1 does nothing, and a connection that is made between the
last accept and the close is reset.  Source: Linux, Documentation/networking/filter.rst.

Its connections inherit SO_KEEPALIVE: a client whose machine is gone says no word, and one that had
an open stream would count as open for ever. The kernel asks after 2 h without any
(net.ipv4.tcp_keepalive_time), as gRPC core does.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import sys
from typing import Final

_SO_ATTACH_FILTER: Final = 26
"""asm-generic/socket.h; Python's socket module does not name it."""

_DROP_SYN: Final = b"".join(
    struct.pack("=HBBI", *each)
    for each in (
        (0x30, 0, 0, 13),  # load the byte of flags of the TCP header
        (0x45, 0, 1, 0x02),  # is SYN set?
        (0x06, 0, 0, 0),  # yes: keep no byte of the packet
        (0x06, 0, 0, 0xFFFFFFFF),  # no: keep all
    )
)


class Port:
    """What an `asyncio.Server` listens on."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        for each in server.sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @property
    def number(self) -> int:
        """The port's number."""
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    def refuse_handshakes(self) -> None:
        """Step 1."""
        if sys.platform != "linux":
            return
        code = ctypes.create_string_buffer(_DROP_SYN, len(_DROP_SYN))
        program = struct.pack("@HP", len(_DROP_SYN) // 8, ctypes.addressof(code))
        for each in self._server.sockets:
            with contextlib.suppress(OSError):  # a sandbox's kernel may not have filters
                each.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def close(self) -> list[socket.socket]:
        """Step 3; gives the connections that nobody has accepted yet. The caller closes them."""
        taken: list[socket.socket] = []
        for each in self._server.sockets:
            # The loop's own socket objects cannot accept.
            with socket.socket(fileno=os.dup(each.fileno())) as listener:
                listener.setblocking(False)
                taken += _accept_all(listener)
        self._server.close()
        return taken

    async def closed(self) -> None:
        """Returns when the loop has let go of it."""
        await self._server.wait_closed()


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    taken: list[socket.socket] = []
    while True:
        try:
            client, _ = listener.accept()
        except ConnectionAbortedError:  # it came, and has gone
            continue
        except OSError:  # none is left, or no descriptor for it
            return taken
        taken.append(client)
