"""Lines that nobody waits for: they go to a file descriptor by a thread of their own.

Whoever writes appends to a bounded queue; while the descriptor is a pipe that nobody reads, lines
are dropped and counted, and the event loop does not notice. Lines are made by the thread too: what
the queue holds are the values that they are made of.
"""

import logging
import os
import queue
import select
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from stoker.telemetry.log import event

logger: Final = logging.getLogger(__name__)

T = TypeVar("T")

MOST_WAITING: Final = 8192
"""Lines: some 4 MiB, and a tenth of a second of the most that a server answers."""

_JOINED: Final = 256
"""Lines of one write."""


class LineWriter(Generic[T]):
    """See the module's docstring. `start` it, and `close` it at the end."""

    def __init__(
        self, descriptor: int, line_of: Callable[[T], str], *, most_waiting: int = MOST_WAITING
    ) -> None:
        """`line_of` makes a line, without its end, of a value; the thread calls it."""
        self.written = 0
        """Lines. The thread's."""
        self._refused = 0
        """Lines that found no room. The loop's, as the next."""
        self._taken = 0
        self._descriptor = descriptor
        self._line_of = line_of
        self._most_waiting = most_waiting
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._is_broken = False
        self._thread = threading.Thread(target=self._main, name="write lines", daemon=True)

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    def write(self, value: T) -> None:
        """Takes a value that becomes a line. Never waits."""
        if self._queue.qsize() >= self._most_waiting or self._is_broken:
            self._refused += 1
            return
        self.insist(value)

    def insist(self, value: T) -> None:
        """The same for one that is not to be dropped, as few are. Never waits."""
        self._taken += 1
        self._queue.put(value)

    @property
    def dropped(self) -> int:
        """Lines that found no room, or could not be written."""
        return self._refused + (self._taken - self.written if self._is_broken else 0)

    def close(self, timeout_s: float) -> None:
        """Writes what waits, for `timeout_s` at most. Blocks."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            left = self._taken - self.written
            self._refused += left
            event(
                logger,
                "access_log_lost",
                f"{left} lines of the access log were not written before the end",
                level=logging.WARNING,
                lines=left,
            )

    def _main(self) -> None:
        is_open = True
        while is_open and not self._is_broken:
            values, is_open = self._next()
            lines = [line for value in values if (line := self._line(value))]
            if lines:
                self._put(("\n".join(lines) + "\n").encode(), len(lines))

    def _next(self) -> tuple[list[T], bool]:
        """All that waits, up to a write's worth. False: it is the last."""
        values: list[T] = []
        value = self._queue.get()
        while value is not None:
            values.append(value)
            if len(values) == _JOINED:
                return values, True
            try:
                value = self._queue.get_nowait()
            except queue.Empty:
                return values, True
        return values, False

    def _line(self, value: T) -> str:
        try:
            return self._line_of(value)
        except Exception:  # one line is not worth the others
            logger.exception("a line of the access log could not be made")
            return ""

    def _put(self, data: bytes, lines: int) -> None:
        """Blocks for as long as the descriptor's reader does not read."""
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BlockingIOError:  # who gave us the descriptor has set it so
                    select.select((), (self._descriptor,), ())
        except OSError as error:
            self._is_broken = True
            event(
                logger,
                "access_log_broken",
                f"the access log ends here: it cannot be written: {error.strerror}",
                level=logging.WARNING,
            )
            return
        self.written += lines
