"""The listening side of an HTTP port: accepts, counts, sweeps deadlines, drains.

`app.py` makes one for each port and calls its life in order: `start`, `announce_drain`,
`stop_accepting`, `drained`, `close`. What a connection does with its bytes is in `connection.py`.
Source of the drain's steps: design, section "Operating it".
"""

import asyncio
import random
from collections.abc import Callable

from stoker.transport.wire.answer import Clock
from stoker.transport.wire.connection import Connection
from stoker.transport.wire.limits import (
    AGE_JITTER,
    BACKLOG,
    RECEIVE_BYTES,
    SWEEP_INTERVAL_S,
    BufferBudget,
    HttpLimits,
)
from stoker.transport.wire.message import Handler
from stoker.transport.wire.problems import HttpError, Problem


class HttpServer:
    """One port. Used on the loop only; owns its connections."""

    def __init__(self, handler: Handler, limits: HttpLimits, budget: BufferBudget) -> None:
        self.handler = handler
        self.limits = limits
        self.budget = budget
        self.clock = Clock()
        self.receive_buffer = memoryview(bytearray(RECEIVE_BYTES))
        self.is_draining = False
        self.in_flight = 0
        """Requests that were read and are not answered."""
        self._connections: set[Connection] = set()
        self._to_flush: list[Connection] = []
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    @property
    def open_connections(self) -> int:
        """Connections that are open."""
        return len(self._connections)

    async def start(self, host: str, port: int) -> int:
        """Listens; 0 picks a free port. Returns the port. Raises OSError when it is taken."""
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self._server = await self._loop.create_server(self._connection, host, port, backlog=BACKLOG)
        self._sweeper = self._loop.call_later(SWEEP_INTERVAL_S, self._sweep_again)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def announce_drain(self) -> None:
        """From here on every answer carries `Connection: close`; all else goes on."""
        self.is_draining = True

    def stop_accepting(self) -> None:
        """Closes the port and shuts our side of idle connections.

        A request that the kernel holds already is no idle connection: the loop reads once more
        before it looks. What is under way is answered.
        """
        self.is_draining = True
        if self._server is not None:
            self._server.close()
            self._loop.call_soon(self._loop.call_soon, self._end_idle)

    async def drained(self) -> None:
        """Returns when every request that came is answered and the answers are the kernel's. The
        caller says how long it waits."""
        while self.in_flight or any(each.is_sending for each in self._connections):
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """Ends everything at once: cancels what is unanswered, closes the connections."""
        self.stop_accepting()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._connections):
            connection.close()
        while self._connections:
            self._changed.clear()
            await self._changed.wait()
        if self._server is not None:
            await self._server.wait_closed()

    def sweep(self, now: float) -> None:
        """Looks at every connection whose deadline has passed at `now` (loop time)."""
        late = [each for each in self._connections if each.deadline <= now]
        for connection in late:
            connection.expire(now)
        self._changed.set()

    # What connections call.

    def opened(self, connection: Connection) -> None:
        """A client connected."""
        self._connections.add(connection)
        if len(self._connections) > self.limits.max_connections:
            connection.refuse(
                HttpError(
                    Problem.TOO_MANY_CONNECTIONS,
                    f"expected at most {self.limits.max_connections} open connections",
                    (("Retry-After", "1"),),
                )
            )

    def lost(self, connection: Connection) -> None:
        """A connection's socket is gone."""
        self._connections.discard(connection)
        self._changed.set()

    def flush_soon(self, connection: Connection) -> None:
        """One callback a loop turn writes for all connections that have something to write."""
        if connection.flushes:
            return
        connection.flushes = True
        if not self._to_flush:
            self._loop.call_soon(self._flush)
        self._to_flush.append(connection)

    def next_turn(self, callback: Callable[[], None]) -> None:
        """Calls back in the next turn of the loop."""
        self._loop.call_soon(callback)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush()
        if self.is_draining:
            self._changed.set()

    def _connection(self) -> Connection:
        jitter = random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
        return Connection(self, self.limits.max_connection_age_s * jitter)

    def _end_idle(self) -> None:
        for connection in list(self._connections):
            connection.end_if_idle()

    def _sweep_again(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_INTERVAL_S, self._sweep_again)
        self.sweep(self._loop.time())
