"""How answers leave a connection: in one write, or in shares, and when their memory is free again.

One write hands the kernel as much as its socket buffer takes, megabytes on a fast network, and the
loop stands still while they are copied. So answers over TURN_BYTES go out in shares, one a turn of
the loop. `Outgoing` cuts them and knows no socket; `AnswerWriter` writes to one connection's
transport. Used on the loop only.  Hot path.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from stoker.request import Lease
from stoker.transport.wire.answer import joined
from stoker.transport.wire.limits import COPIED_ROW_BYTES, TURN_BYTES, BufferBudget
from stoker.transport.wire.message import Piece


class Outgoing:
    """Pieces that wait for their turn, in order, as views of their owners' memory."""

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: deque[memoryview] = deque()
        self.size = 0
        """Bytes that wait."""

    def add(self, pieces: Iterable[Piece]) -> None:
        """Puts pieces behind those that wait."""
        for piece in pieces:
            if len(piece):
                self._pieces.append(memoryview(piece))
                self.size += len(piece)

    def take(self, limit: int) -> list[memoryview]:
        """The next bytes, at most `limit`, in order; the last piece may be cut."""
        taken: list[memoryview] = []
        while self._pieces and limit > 0:
            piece = self._pieces.popleft()
            if len(piece) > limit:
                self._pieces.appendleft(piece[limit:])
                piece = piece[:limit]
            taken.append(piece)
            limit -= len(piece)
            self.size -= len(piece)
        return taken

    def clear(self) -> None:
        """Drops everything."""
        self._pieces.clear()
        self.size = 0


class Turns(Protocol):
    """What a writer needs of the server."""

    budget: BufferBudget

    def next_turn(self, callback: Callable[[], None]) -> None:
        """Calls back in the next turn of the loop."""


class AnswerWriter:
    """Writes one connection's answers.

    The transport's write limits are 0: after a write either all bytes are the kernel's, or
    `pause_writing` was called and `resume_writing` comes when all are. uvloop sends views later, so
    leases of what was written end at that moment, or when the connection is lost.
    """

    __slots__ = ("_done", "_leases", "_outgoing", "_transport", "_turns", "_unsent", "is_paused")

    def __init__(
        self, transport: asyncio.Transport, turns: Turns, done: Callable[[], None]
    ) -> None:
        """`done` is called when writing was paused and the kernel has everything."""
        self._transport = transport
        self._turns = turns
        self._done = done
        self._outgoing = Outgoing()
        self._leases: list[Lease] = []
        self._unsent = 0
        self.is_paused = False
        """The peer has not taken all of its answers: nothing more is to be written."""
        transport.set_write_buffer_limits(high=0)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of answers that the kernel has not taken."""
        return self._outgoing.size + self._transport.get_write_buffer_size()

    @property
    def has_shares(self) -> bool:
        """Whether shares of an answer wait that the transport was not given."""
        return self._outgoing.size > 0

    def lease(self, lease: Lease) -> None:
        """Holds a lease of what is written next until its bytes have left."""
        self._leases.append(lease)

    def write(self, pieces: list[Piece], size: int) -> None:
        """Writes answers; `size` bytes stay charged until the kernel has all."""
        self._unsent += size
        if size > TURN_BYTES:
            self._outgoing.add(joined(pieces))
            self.is_paused = True
            self._share()
            return
        if size < COPIED_ROW_BYTES:
            self._transport.write(b"".join(pieces))
        else:
            self._transport.writelines(joined(pieces))
        if not self.is_paused and not self._transport.get_write_buffer_size():
            self._free()

    def write_small(self, data: bytes, size: int) -> None:
        """`write` of what is one piece already, and shorter than a share. Nothing is leased."""
        transport = self._transport
        transport.write(data)
        if self.is_paused or self._unsent or transport.get_write_buffer_size():
            self._unsent += size
        else:
            self._turns.budget.used -= size

    def pause(self) -> None:
        """The kernel took less than it was given."""
        self.is_paused = True

    def resume(self) -> None:
        """The kernel has everything that it was given."""
        if self._outgoing.size:
            self._share()
            return
        self.is_paused = False
        self._free()
        self._done()

    def drop(self) -> None:
        """The connection is lost: what was not sent never will be."""
        self._outgoing.clear()
        self._free()

    def _share(self) -> None:
        """Writes a share; the next follows in the next turn, or when the kernel has this one."""
        if self._transport.is_closing():
            return
        self._transport.writelines(self._outgoing.take(TURN_BYTES))
        if not self._transport.get_write_buffer_size():
            self._turns.next_turn(self._shared)

    def _shared(self) -> None:
        if self.is_paused and not self._transport.get_write_buffer_size():
            self.resume()

    def _free(self) -> None:
        """The kernel has all bytes, or never will: their memory is free."""
        self._turns.budget.release(self._unsent)
        self._unsent = 0
        if self._leases:
            leases, self._leases = self._leases, []
            for lease in leases:
                lease.release()
