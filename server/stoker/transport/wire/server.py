"""The listening side of an HTTP port: accepts, counts, sweeps deadlines, drains.

`app.py` makes one for each port and calls its life in order: `start`, `announce_drain`,
`stop_accepting`, `drained`, `close`. What a connection does with its bytes is in `connection.py`.
Source of the drain's steps: design, section "Operating it".
"""

import asyncio
import logging
import random
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

from stoker.errors import ServingError
from stoker.telemetry.log import event
from stoker.transport.wire.answer import Clock
from stoker.transport.wire.arrival import WireObserver
from stoker.transport.wire.connection import Connection
from stoker.transport.wire.handshake import Handshake
from stoker.transport.wire.host import HostedConnection
from stoker.transport.wire.http2.connection import Http2Connection
from stoker.transport.wire.http2.stream import Requests
from stoker.transport.wire.limits import (
    AGE_JITTER,
    BACKLOG,
    HANDSHAKE_S,
    LAST_SWEEP_INTERVAL_S,
    RECEIVE_BYTES,
    SHORT_LINGER_S,
    SWEEP_INTERVAL_S,
    BufferBudget,
    HttpLimits,
    OpenConnections,
)
from stoker.transport.wire.message import Handler
from stoker.transport.wire.port import Port
from stoker.transport.wire.problems import HttpError, Problem

logger: Final = logging.getLogger(__name__)

_STEPS_OF_A_DRAIN: Final = 50
"""Groups of connections that are told of a drain: their clients must not all come back at once."""

ROOM_AGAIN: Final = 0.9
"""Of the limit: below it there was room again, and that there is none is news."""

_ENDED_AT_ONCE: Final = 256
"""Idle connections that are shut between two looks at what came: under a millisecond."""


class HttpServer:
    """One port. Used on the loop only; owns its connections."""

    def __init__(
        self,
        handler: Handler,
        limits: HttpLimits,
        budget: BufferBudget,
        *,
        http2: Requests | None = None,
        on_refused: Callable[[ServingError | HttpError], None] | None = None,
        open_connections: OpenConnections | None = None,
        tls: ssl.SSLContext | None = None,
        observer: WireObserver | None = None,
    ) -> None:
        """`http2` serves clients that speak HTTP/2; without it they are refused. `on_refused` hears
        of each request that is refused before the handler sees it. Ports whose connections count
        against one limit share `open_connections`. With `tls` clients must speak TLS. `observer`
        looks at the calls of HTTP/1."""
        self.handler = handler
        self.observer = observer
        self.limits = limits
        self.budget = budget
        self.clock = Clock()
        self.receive_buffer = memoryview(bytearray(RECEIVE_BYTES))
        self.is_draining = False
        self.is_closing = False
        self.speaks_http2 = http2 is not None
        self._http2 = http2
        self._tls = tls
        self.in_flight = 0
        """Requests of HTTP/1 that were read and are not answered."""
        self._on_refused = on_refused
        self._open = open_connections or OpenConnections()
        self._connections: set[HostedConnection] = set()
        self._lingering: set[HostedConnection] = set()
        self._to_flush: list[HostedConnection] = []
        self._port: Port | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_interval_s = SWEEP_INTERVAL_S
        self._changed = asyncio.Event()

    @property
    def open_connections(self) -> int:
        """Connections of this port that count against the limit."""
        return len(self._connections)

    @property
    def lingering_connections(self) -> int:
        """Connections that have their last answer and are still there."""
        return len(self._lingering)

    async def start(self, host: str, port: int) -> int:
        """Listens; 0 picks a free port. Returns the port. Raises OSError when it is taken."""
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self._port = Port(
            await self._loop.create_server(self._accepted, host, port, backlog=BACKLOG)
        )
        self._sweep_again()
        return self._port.number

    def announce_drain(self, delay: float = 0.0) -> None:
        """From here on every answer of HTTP/1 carries `Connection: close`, and connections of
        HTTP/2 are told one after another, over most of `delay` seconds, that clients should open
        their next streams elsewhere. All else goes on."""
        self.is_draining = True
        told = [*self._connections]
        share = max(1, -(-len(told) // _STEPS_OF_A_DRAIN))
        for step, first in enumerate(range(0, len(told), share)):
            self._loop.call_later(
                delay * step / _STEPS_OF_A_DRAIN, _announce, told[first : first + share]
            )

    async def stop_accepting(self) -> None:
        """Tells every connection of HTTP/2 to leave, closes the port, and then our side of idle
        connections. Nothing that the kernel has is lost: connections that it made are served, and
        before a connection counts as idle the loop has looked once more for a request. What is
        under way goes on."""
        self.is_draining = True
        if self._port is None or self.is_closing:
            return
        self._port.refuse_handshakes()
        # Connections that came during the drain hear it before inference streams end: a client
        # would open the next stream on the connection that it has, and be refused once more.
        _announce([*self._connections])
        await asyncio.sleep(HANDSHAKE_S)
        left = self._close_port(self._port)
        await asyncio.gather(
            *(self._loop.connect_accepted_socket(self._accepted, each) for each in left)
        )
        await asyncio.sleep(0)  # the protocols of what was accepted last are told so
        connections = [*self._connections, *self._lingering]
        for first in range(0, len(connections), _ENDED_AT_ONCE):
            await asyncio.sleep(0)  # the loop reads what came
            for connection in connections[first : first + _ENDED_AT_ONCE]:
                connection.end_if_idle()

    async def drained(self) -> None:
        """Returns when every connection is gone, with the answers to all that it sent. Call it
        after `stop_accepting`. The caller says how long it waits."""
        while self._connections or self._lingering:
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """Ends everything: what is unanswered or half read is refused and has SHORT_LINGER_S to
        read that; all else is closed at once."""
        self.is_draining = True
        if self._port is not None and not self.is_closing:
            for each in self._close_port(self._port):
                each.close()
        for connection in [*self._connections, *self._lingering]:
            connection.close()
        try:
            async with asyncio.timeout(SHORT_LINGER_S):
                await self.drained()
        except TimeoutError:
            for connection in [*self._connections, *self._lingering]:
                connection.abort()
            await self.drained()
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._port is not None:
            await self._port.closed()

    def sweep(self, now: float) -> None:
        """Looks at every connection whose deadline has passed at `now` (loop time)."""
        for connections in (self._connections, self._lingering):
            for connection in [each for each in connections if each.patience.deadline <= now]:
                connection.expire(now)

    # What connections call.

    def speak_http2(
        self,
        connection: HostedConnection,
        transport: asyncio.Transport,
        first: bytes,
        age_limit: float,
    ) -> None:
        """A connection's client turned out to speak HTTP/2."""
        assert self._http2 is not None  # `speaks_http2` says so
        other = Http2Connection(self, self._http2, transport, age_limit)
        self._connections.discard(connection)
        self._connections.add(other)
        transport.set_protocol(other)
        # One that comes during a drain is not told to leave: gRPC core would come back at once, be
        # told again before its call is sent, and never get it through.
        other.received(first)
        if self.is_closing:
            other.end_if_idle()

    def opened(self, connection: HostedConnection) -> None:
        """A client connected."""
        if self._open.count < self.limits.max_connections:
            self._connections.add(connection)
            self._open.count += 1
            return
        self._tell_full()
        is_crowd = len(self._lingering) >= self.limits.max_lingering
        self._lingering.add(connection)
        if is_crowd:
            connection.abort()
            return
        connection.turn_away(
            HttpError(
                Problem.TOO_MANY_CONNECTIONS,
                f"expected at most {self.limits.max_connections} open connections",
                (("Retry-After", "1"),),
            )
        )

    def lingers(self, connection: HostedConnection) -> bool:
        """A connection has its last answer. False: too many others wait for their clients."""
        if self._forget(connection):
            self._lingering.add(connection)
        return len(self._lingering) <= self.limits.max_lingering

    def lost(self, connection: HostedConnection) -> None:
        """A connection's socket is gone."""
        self._forget(connection)
        self._lingering.discard(connection)
        self._changed.set()

    def refused(self, error: ServingError | HttpError) -> None:
        """A request was refused before the handler saw it."""
        if self._on_refused is not None:
            self._on_refused(error)

    def flush_soon(self, connection: HostedConnection) -> None:
        """One callback a loop turn writes for all connections that have something to write."""
        if connection.flushes:
            return
        connection.flushes = True
        if not self._to_flush:
            self._loop.call_soon(self._flush)
        self._to_flush.append(connection)

    def flush_now(self, connection: HostedConnection) -> None:
        """Writes what a connection has to write."""
        try:
            connection.flush()
        except Exception:  # its neighbours are written all the same
            logger.exception("writing to a connection failed")
            connection.abort()

    def next_turn(self, callback: Callable[[], None]) -> None:
        """Calls back in the next turn of the loop."""
        self._loop.call_soon(callback)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            self.flush_now(connection)

    def _tell_full(self) -> None:
        """Says that connections are refused: once, until there was room again."""
        if self._open.is_full:
            return
        self._open.is_full = True
        event(
            logger,
            "connections_full",
            f"{self.limits.max_connections} connections are open: more are refused",
            level=logging.WARNING,
            max_connections=self.limits.max_connections,
        )

    def _forget(self, connection: HostedConnection) -> bool:
        """It counts as open no longer. False: it did not."""
        if connection not in self._connections:
            return False
        self._connections.discard(connection)
        self._open.count -= 1
        if self._open.is_full and self._open.count < ROOM_AGAIN * self.limits.max_connections:
            self._open.is_full = False
        return True

    def _accepted(self) -> Connection | Handshake:
        if self._tls is None:
            return self._connection()
        return Handshake(self, self._tls, self._connection)

    def _connection(self, alpn: str | None = None) -> Connection:
        jitter = random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
        return Connection(self, self.limits.max_connection_age_s * jitter, alpn)

    def _close_port(self, port: Port) -> list[socket.socket]:
        self.is_closing = True
        self._sweep_interval_s = LAST_SWEEP_INTERVAL_S
        self._sweep_again()
        return port.close()

    def _sweep_again(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweeper = self._loop.call_later(self._sweep_interval_s, self._sweep_again)
        self.sweep(self.time())


def _announce(connections: Sequence[HostedConnection]) -> None:
    for connection in connections:
        connection.announce_drain()
