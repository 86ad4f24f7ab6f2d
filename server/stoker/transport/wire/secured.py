"""A connection's transport over TLS: what stands between a socket and what speaks HTTP.

Upwards it is an `asyncio.Transport`, downwards the socket's protocol. uvloop's own TLS would do
with less code and is not used (docs/design/0005-tls-in-the-wire.md): it can shut no side, does
not count what the kernel has not taken, and knows nothing of connections amid a handshake.

  1. What is written is encrypted at once and handed to the socket's transport, whose buffer size
     and pauses are therefore those of this one; memory that was written is free.
  2. What came is decrypted straight into the protocol's own buffer, until the protocol pauses;
     TURN_BYTES of it in one turn of the loop.
  3. Our side ends with close_notify and then the socket's end; what comes later is dropped
     undecrypted. The peer's side ends with either: requests say their length, so a connection that
     is cut off without close_notify truncates none.
Hot path.  Source: RFC 8446, section 6.1; RFC 9112, section 9.8.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from typing import Any

from stoker.transport.wire.answer import joined
from stoker.transport.wire.host import Host
from stoker.transport.wire.limits import TURN_BYTES


class SecuredTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """See the module's docstring."""

    __slots__ = (
        "_decrypt",
        "_encrypt",
        "_has_peer_ended",
        "_host",
        "_incoming",
        "_is_read_paused",
        "_is_shut",
        "_outgoing",
        "_protocol",
        "_space",
        "_tcp",
        "_tls",
    )

    def __init__(
        self,
        host: Host,
        tcp: asyncio.Transport,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
    ) -> None:
        """The handshake is done; `incoming` may hold bytes behind it, which `read` reads once a
        protocol is set."""
        self._host = host
        self._space = host.receive_buffer[:TURN_BYTES]
        self._tcp = tcp
        self._tls = tls
        self._decrypt = tls.read
        self._encrypt = tls.write
        self._incoming = incoming
        self._outgoing = outgoing
        self._protocol: asyncio.BufferedProtocol
        self._is_read_paused = False
        self._is_shut = False
        """We have sent close_notify."""
        self._has_peer_ended = False

    # What the event loop calls.

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the kernel writes next."""
        return self._space

    def buffer_updated(self, nbytes: int) -> None:
        """Encrypted bytes came."""
        if self._is_shut:
            return
        self._incoming.write(self._space[:nbytes])
        if nbytes == TURN_BYTES:  # the kernel has more, and the loop would read it in this turn
            self._tcp.pause_reading()
            self._host.next_turn(self._read_on)
        self.read()

    def eof_received(self) -> bool:
        """The peer shut its side of the socket."""
        self.read()
        return self._peer_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """The kernel took less than it was given."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The kernel has everything that it was given."""
        self._protocol.resume_writing()

    # What the protocol above calls.

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """What gets the decrypted bytes from here on: an `asyncio.BufferedProtocol`."""
        assert isinstance(protocol, asyncio.BufferedProtocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """What gets them."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # asyncio's signature
        """`ssl_object` is the `ssl.SSLObject` and `sslcontext` its context, by which others see
        that the socket's bytes are not the peer's; all else is the socket's."""
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._tls.context
        return self._tcp.get_extra_info(name, default)

    def read(self) -> None:
        """Decrypts what has come for the protocol."""
        incoming, tls = self._incoming, self._tls
        while (incoming.pending or tls.pending()) and not self._is_read_paused:
            if self._is_shut or self._tcp.is_closing():
                return
            # To ask first costs less than SSLWantReadError (python/cpython issue 123954).
            space = memoryview(self._protocol.get_buffer(-1))
            got, size, count = 0, len(space), -1
            try:
                while got < size and count and (incoming.pending or tls.pending()):
                    count = self._decrypt(size - got, space[got:])  # type: ignore[assignment]  # a count
                    got += count
            except ssl.SSLWantReadError:
                pass  # a part of a record: nothing is pending
            except ssl.SSLError:  # the peer broke the protocol: OpenSSL wrote an alert
                self._send()
                self._tcp.close()
                return
            if got:
                self._protocol.buffer_updated(got)
            if not count:
                if not self._peer_ended():
                    self.close()
                return
        if self._outgoing.pending:  # what TLS itself has to say, such as a new key
            self._send()

    def is_reading(self) -> bool:
        """Whether the protocol gets what comes."""
        return not self._is_read_paused

    def pause_reading(self) -> None:
        """The protocol wants nothing for now."""
        self._is_read_paused = True
        self._tcp.pause_reading()

    def resume_reading(self) -> None:
        """The protocol goes on: in the next turn with what has come before."""
        if self._is_read_paused:
            self._is_read_paused = False
            self._tcp.resume_reading()
            if self._incoming.pending or self._tls.pending():
                self._host.next_turn(self.read)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends bytes."""
        self.writelines((data,))

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        """Sends bytes; small neighbours share a record."""
        if self._is_shut or self._tcp.is_closing():
            return
        encrypt = self._encrypt
        for piece in joined([*pieces]):  # type: ignore[list-item]  # no bytearray comes
            size = len(piece)
            sent = encrypt(piece) if size else 0
            while sent < size:  # a call writes one record
                sent += encrypt(memoryview(piece)[sent:])
        self._send()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As the socket's transport has them."""
        self._tcp.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that the kernel has not taken."""
        return self._tcp.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        """Our side can end before the peer's."""
        return True

    def write_eof(self) -> None:
        """Ends our side."""
        if not self._is_shut and not self._tcp.is_closing():
            self._shut()
            self._tcp.write_eof()

    def is_closing(self) -> bool:
        """Whether nothing more is sent or read."""
        return self._tcp.is_closing()

    def close(self) -> None:
        """Ends our side and then the connection, without waiting for the peer."""
        if not self._tcp.is_closing():
            self._shut()
            self._tcp.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._tcp.abort()

    # The rest.

    def _read_on(self) -> None:
        """Reading was given up for a turn."""
        if not self._is_read_paused:
            self._tcp.resume_reading()

    def _peer_ended(self) -> bool:
        """Tells the protocol once; gives whether it has more to send."""
        if self._has_peer_ended or self._is_shut:
            return False
        self._has_peer_ended = True
        return bool(self._protocol.eof_received())

    def _shut(self) -> None:
        if not self._is_shut:
            self._is_shut = True
            with contextlib.suppress(ssl.SSLError):  # the peer's may come later, or never
                self._tls.unwrap()
            self._send()

    def _send(self) -> None:
        data = self._outgoing.read()
        if data:
            self._tcp.write(data)
