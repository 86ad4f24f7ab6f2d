"""What a connection needs of the server that accepted it: limits, shared memory, and to be counted.

`server.HttpServer` is one. All of it is used on the loop only.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from stoker.errors import ServingError
from stoker.transport.wire.answer import Clock
from stoker.transport.wire.limits import BufferBudget, HttpLimits
from stoker.transport.wire.message import Handler
from stoker.transport.wire.problems import HttpError

if TYPE_CHECKING:  # the one circle: a connection and its host know each other
    from stoker.transport.wire.connection import Connection


class Host(Protocol):
    """See the module's docstring."""

    handler: Handler
    limits: HttpLimits
    budget: BufferBudget
    clock: Clock
    receive_buffer: memoryview
    in_flight: int
    """Requests read and not yet answered, on all connections. Connections count it."""
    is_draining: bool
    """Every answer says `Connection: close`."""
    is_closing: bool
    """The port is closed: no connection rests any more."""
    time: Callable[[], float]

    def opened(self, connection: "Connection") -> None:
        """Counts it; may refuse it."""

    def lingers(self, connection: "Connection") -> bool:
        """Its last answer is written: it counts as open no longer. False: too many linger."""

    def lost(self, connection: "Connection") -> None:
        """Forgets it."""

    def refused(self, error: ServingError | HttpError) -> None:
        """A request was refused before the handler saw it."""

    def flush_soon(self, connection: "Connection") -> None:
        """Calls its `flush` at the end of this loop turn."""

    def next_turn(self, callback: Callable[[], None]) -> None:
        """Calls back in the next turn of the loop, after other connections had theirs."""
