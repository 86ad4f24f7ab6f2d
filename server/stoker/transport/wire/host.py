"""What a connection needs of the server that accepted it: limits, shared memory, and to be counted;
and what the server needs of its connections, whatever they speak.

`server.HttpServer` is a host. All of it is used on the loop only.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from stoker.errors import ServingError
from stoker.transport.wire.answer import Clock
from stoker.transport.wire.arrival import WireObserver
from stoker.transport.wire.limits import BufferBudget, HttpLimits
from stoker.transport.wire.message import Handler
from stoker.transport.wire.patience import Patience
from stoker.transport.wire.problems import HttpError


class HostedConnection(Protocol):
    """A connection as its host sees it."""

    patience: Patience
    """Says when to call `expire`."""
    flushes: bool
    """It is going to be flushed: it stands in the host's list, or flushes when it has read."""

    def flush(self) -> None:
        """Writes what is ready."""

    def expire(self, now: float) -> None:
        """The deadline of `patience` has passed."""

    def turn_away(self, error: HttpError) -> None:
        """Refuses a connection that has just been made, and does not wait long for it to go."""

    def announce_drain(self) -> None:
        """The server will close its port: clients should go elsewhere with what they begin."""

    def end_if_idle(self) -> None:
        """The port is closed: ends what has nothing under way, and all else when that is done."""

    def close(self) -> None:
        """The server is closing: refuses what is unanswered, and ends."""

    def abort(self) -> None:
        """Ends it at once."""


class Host(Protocol):
    """See the module's docstring."""

    handler: Handler
    observer: WireObserver | None
    """Looks at calls; it is asked when a connection is made."""
    limits: HttpLimits
    budget: BufferBudget
    clock: Clock
    receive_buffer: memoryview
    in_flight: int
    """Requests of HTTP/1 read and not yet answered, on all connections. Connections count it."""
    is_draining: bool
    """Every answer says `Connection: close`."""
    is_closing: bool
    """The port is closed: no connection rests any more."""
    time: Callable[[], float]

    speaks_http2: bool
    """A client may speak HTTP/2 from its first byte."""

    def speak_http2(
        self,
        connection: HostedConnection,
        transport: asyncio.Transport,
        first: bytes,
        age_limit: float,
    ) -> None:
        """A connection's client turned out to speak HTTP/2: another protocol takes its place, and
        gets what came `first` behind the preface."""

    def opened(self, connection: HostedConnection) -> None:
        """Counts it; may refuse it."""

    def lingers(self, connection: HostedConnection) -> bool:
        """Its last answer is written: it counts as open no longer. False: too many linger."""

    def lost(self, connection: HostedConnection) -> None:
        """Forgets it."""

    def refused(self, error: ServingError | HttpError) -> None:
        """A request was refused before the handler saw it."""

    def flush_soon(self, connection: HostedConnection) -> None:
        """Calls its `flush` at the end of this loop turn."""

    def flush_now(self, connection: HostedConnection) -> None:
        """Calls its `flush`, and ends the connection if that fails."""

    def next_turn(self, callback: Callable[[], None]) -> None:
        """Calls back in the next turn of the loop, after other connections had theirs."""
