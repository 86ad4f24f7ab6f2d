"""A connection over TLS until its handshake is done: then `secured.SecuredTransport` takes the
socket, and a `Connection` on top of it.

  1. It counts as open from its first moment: a crowd that never ends its handshakes meets the same
     limit as one that sends no requests.
  2. A handshake has the time of a request's head, and once the port is closed that of a first
     request.
  3. One that fails ends the connection after OpenSSL's alert, and nobody is told: scanners and
     clients that do not trust the certificate are no trouble of the server's.

The protocol above is the one that ALPN chose; without ALPN the first bytes tell.
Source: RFC 9113, section 3.2; RFC 8446, section 6.2.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from stoker.transport.wire.connection import Connection
from stoker.transport.wire.host import Host
from stoker.transport.wire.patience import Patience
from stoker.transport.wire.problems import HttpError
from stoker.transport.wire.secured import SecuredTransport


class Handshake(asyncio.BufferedProtocol):
    """See the module's docstring."""

    __slots__ = (
        "_connection",
        "_context",
        "_host",
        "_incoming",
        "_outgoing",
        "_tcp",
        "_tls",
        "flushes",
        "patience",
    )

    def __init__(
        self,
        host: Host,
        context: ssl.SSLContext,
        connection: Callable[[str | None], Connection],
    ) -> None:
        """`connection(protocol)` makes what speaks the protocol that ALPN chose; None: it chose
        none."""
        self.patience = Patience(host.limits, host.time)
        self.flushes = False
        self._host = host
        self._context = context
        self._connection = connection
        self._tcp: asyncio.Transport

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client speaks first."""
        self._tcp = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.patience.await_head()
        self._host.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the kernel writes next."""
        return self._host.receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        self._incoming.write(self._host.receive_buffer[:nbytes])
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
        except ssl.SSLError:
            self._send()
            self._tcp.close()
        else:
            self._send()
            self._hand_over()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.patience.end()
        self._host.lost(self)

    # What the server calls.

    def flush(self) -> None:
        """Nothing waits."""

    def expire(self, now: float) -> None:
        """The handshake took too long."""
        self._tcp.abort()

    def turn_away(self, error: HttpError) -> None:
        """Too many connections: telling it costs a handshake."""
        self._tcp.abort()

    def announce_drain(self) -> None:
        """Nothing to tell."""

    def end_if_idle(self) -> None:
        """The port is closed: a handshake that has just begun is finished and its request served,
        as that of a connection which the kernel had made."""
        if not self.patience.hurry():
            self._tcp.abort()

    def close(self) -> None:
        """The server is closing."""
        self._tcp.abort()

    def abort(self) -> None:
        """Ends it at once."""
        self._tcp.abort()

    # The rest.

    def _send(self) -> None:
        data = self._outgoing.read()
        if data:
            self._tcp.write(data)

    def _hand_over(self) -> None:
        host = self._host
        connection = self._connection(self._tls.selected_alpn_protocol())
        secured = SecuredTransport(host, self._tcp, self._tls, self._incoming, self._outgoing)
        secured.set_protocol(connection)
        self._tcp.set_protocol(secured)
        self.patience.end()
        host.lost(self)  # the connection takes its place
        connection.connection_made(secured)
        secured.read()
        if host.is_closing:
            connection.end_if_idle()
