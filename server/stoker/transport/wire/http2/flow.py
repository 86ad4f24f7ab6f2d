"""What an HTTP/2 session sends: frames in order, of bodies no more than the peer has windows for.

An answer that fits goes out as it is. What does not fit waits in its stream, and the streams that
may go on take turns, one frame each, so that a large answer does not hold up small ones; one whose
window is empty is left out until the peer widens it. What waits is charged to the budget. Knows no
socket; whoever writes calls `take` once a turn.  Hot path.  Source: RFC 9113, sections 5.2 and 6.9.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from stoker.request import Lease
from stoker.transport.wire.http2 import frames
from stoker.transport.wire.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LARGEST_WINDOW,
    pack_header,
)
from stoker.transport.wire.http2.stream import Stream
from stoker.transport.wire.limits import TURN_BYTES, BufferBudget
from stoker.transport.wire.message import Piece
from stoker.transport.wire.outgoing import Outgoing

_NOTHING: Final = b""

_DEFAULT_TABLE_BYTES: Final = 4096
_NO_TABLE: Final = b"\x20"
"""A size update to 0 (RFC 7541, 6.3)."""

_REMEMBERED_SIZES: Final = 256


class MessageForm:
    """What answers of one small message have in common. Each is

    HEADERS frame | DATA frame: a prefix that tells the message's size, message | HEADERS frame
    """

    def __init__(
        self, head: bytes, trailers: bytes, prefix: Callable[[int], bytes], prefix_bytes: int
    ) -> None:
        """`head` and `trailers` are header blocks; `prefix(size)` gives the `prefix_bytes` that
        stand before a message, with them of `size` bytes."""
        self.head = head
        self.trailers = trailers
        self.prefix = prefix
        self.prefix_bytes = prefix_bytes
        self.begin = pack_header(0, len(head), HEADERS, END_HEADERS, 0)[:5]
        self.end = pack_header(0, len(trailers), HEADERS, END_HEADERS | END_STREAM, 0)[:5]
        self.framed: dict[int, tuple[bytes, bytes]] = {}
        """By the size of the DATA: what stands between the stream's numbers, and the prefix."""

    def frame(self, size: int) -> tuple[bytes, bytes]:
        """Adds a size to `framed`."""
        if len(self.framed) >= _REMEMBERED_SIZES:
            self.framed.clear()
        data = pack_header(size >> 16, size & 0xFFFF, DATA, 0, 0)[:5]
        framed = self.framed[size] = self.head + data, self.prefix(size)
        return framed


class Sending:
    """The sending side of one session."""

    def __init__(
        self, budget: BufferBudget, closed: Callable[[Stream], None], wake: Callable[[], None]
    ) -> None:
        """`closed(stream)` hears that the last frame of a stream was given out; `wake()` asks for
        a `take` soon, perhaps several times."""
        self.frame_bytes = frames.DEFAULT_FRAME_BYTES
        """The largest payload that the peer takes."""
        self.peer_window = frames.DEFAULT_WINDOW
        """What new streams may send at first."""
        self.seconds = 0
        """Whole seconds, as the session counts them."""
        self.is_held = False
        """The kernel has not taken what it was given: answers wait, only control frames go on."""
        self.control_bytes = 0
        """Of control frames since the last `take`: a peer that does not read makes them grow."""
        self.leases: list[Lease] = []
        """Of answers whose last byte was given out, or never will be: to be released when the
        kernel has everything."""
        self._budget = budget
        self._closed = closed
        self._wake = wake
        self._window = frames.DEFAULT_WINDOW
        self._out: list[Piece] = []
        self._size = 0
        self._ready: dict[Stream, None] = {}
        """Streams with something to send and a window for it, in the order of their turns."""
        self._opening = b""
        """What the next header block begins with."""
        self._waiting: set[Stream] = set()
        """Streams with something to send whose own window is empty."""

    @property
    def has_frames(self) -> bool:
        """Whether `take` would give something."""
        return bool(self._out) or self.can_go_on

    @property
    def can_go_on(self) -> bool:
        """Whether bodies wait that the peer has windows for."""
        return bool(self._ready) and self._window > 0

    def stuck(self, before: int) -> list[Stream]:
        """Streams of whose bodies the peer has taken nothing since the second `before`."""
        return [
            stream
            for streams in (self._ready, self._waiting)
            for stream in streams
            if stream.moved_at <= before
        ]

    @property
    def waiting_bytes(self) -> int:
        """Bytes of bodies that wait, whatever for."""
        return sum(
            each.outgoing.size
            for streams in (self._ready, self._waiting)
            for each in streams
            if each.outgoing is not None
        )

    def shrink_table(self, size: int) -> None:
        """The peer's HPACK table has this size at most. Ours uses none of it, and must say so once
        it is smaller than the default (RFC 7541, 4.2)."""
        if size < _DEFAULT_TABLE_BYTES:
            self._opening = _NO_TABLE

    def _opened(self, block: bytes) -> bytes:
        """A header block as it is sent: the next one begins with what the table's size became."""
        opening, self._opening = self._opening, b""
        return opening + block

    def interim(self, stream: int, head: bytes) -> None:
        """A head that is not the answer's."""
        self.control(frames.frame(HEADERS, END_HEADERS, stream, self._opened(head)))

    def control(self, frame: bytes) -> None:
        """Sends a frame that no window holds back."""
        if not self._out:
            self._wake()
        self._out.append(frame)
        self.control_bytes += len(frame)

    def answer(
        self,
        stream: Stream,
        head: bytes,
        body: Sequence[Piece],
        size: int,
        trailers: bytes,
        lease: Lease | None,
    ) -> None:
        """A whole answer: see `Session.answer`."""
        stream.lease = lease
        if self._opening:
            head = self._opened(head)
        if not self._out:
            self._wake()
        if (
            size <= stream.send_window
            and size <= self._window
            and size <= self.frame_bytes
            and not self.is_held
            and not self._ready
            and self._size < TURN_BYTES
        ):  # the usual case: nothing waits
            number = stream.number
            self._window -= size
            self._size += size
            if trailers:
                self._out += (
                    pack_header(0, len(head), HEADERS, END_HEADERS, number)
                    + head
                    + pack_header(size >> 16, size & 0xFFFF, DATA, 0, number),
                    *body,
                    pack_header(0, len(trailers), HEADERS, END_HEADERS | END_STREAM, number)
                    + trailers,
                )
            elif size:
                self._out += (
                    pack_header(0, len(head), HEADERS, END_HEADERS, number)
                    + head
                    + pack_header(size >> 16, size & 0xFFFF, DATA, END_STREAM, number),
                    *body,
                )
            else:
                self._out.append(
                    pack_header(0, len(head), HEADERS, END_HEADERS | END_STREAM, number) + head
                )
            if lease is not None:
                self.leases.append(lease)
                stream.lease = None
            self._closed(stream)
            return
        if not size and not trailers:
            self._out.append(
                pack_header(0, len(head), HEADERS, END_HEADERS | END_STREAM, stream.number) + head
            )
            self._end(stream)
            return
        self._head(stream, head)
        self.write(stream, body)
        self.finish(stream, trailers)

    def message(self, stream: Stream, form: "MessageForm", message: bytes) -> None:
        """A whole answer of one small message between a head and trailers that never change: what
        `answer` does, in fewer steps."""
        size = len(message) + form.prefix_bytes
        if (
            size > stream.send_window
            or size > self._window
            or size > self.frame_bytes
            or self.is_held
            or self._ready
            or self._size >= TURN_BYTES
            or self._opening
        ):
            body = (form.prefix(size), message)
            self.answer(stream, form.head, body, size, form.trailers, None)
            return
        out = self._out
        if not out:
            self._wake()
        self._window -= size
        self._size += size
        number = stream.number.to_bytes(4, "big")
        framed = form.framed.get(size) or form.frame(size)
        out += (form.begin, number, framed[0], number, framed[1], message, form.end, number,
                form.trailers)  # fmt: skip
        self._closed(stream)

    def head(self, stream: Stream, head: bytes) -> None:
        """The head of an answer whose body follows."""
        self._head(stream, self._opened(head))

    def _head(self, stream: Stream, head: bytes) -> None:
        if not self._out:
            self._wake()
        self._out.append(pack_header(0, len(head), HEADERS, END_HEADERS, stream.number) + head)

    def write(self, stream: Stream, pieces: Iterable[Piece]) -> None:
        """Puts a piece of a body behind what waits of it."""
        outgoing = stream.outgoing
        if outgoing is None:
            outgoing = stream.outgoing = Outgoing()
        before = outgoing.size
        if not before:
            stream.moved_at = self.seconds
        outgoing.add(pieces)
        added = outgoing.size - before
        stream.charged += added
        self._budget.charge(added)
        if outgoing.size:
            self._sort(stream)

    def finish(self, stream: Stream, trailers: bytes) -> None:
        """Ends a body that was written, with trailers or (empty) with its last frame."""
        stream.trailers = trailers
        if stream.outgoing is None or not stream.outgoing.size:
            self._trail(stream)

    def drop(self, stream: Stream) -> None:
        """A stream is over: nothing more of it is sent."""
        self._ready.pop(stream, None)
        self._waiting.discard(stream)
        if stream.outgoing is not None:
            stream.outgoing.clear()
        if stream.lease is not None:
            self._wake()  # a flush releases it
        self._settle(stream)

    def widen(self, increment: int) -> bool:
        """The peer takes so many more bytes on the connection. False: more than may be."""
        self._window += increment
        if self._ready:
            self._wake()
        return self._window <= LARGEST_WINDOW

    def widen_stream(self, stream: Stream, increment: int) -> bool:
        """The same for one stream."""
        stream.send_window += increment
        if stream in self._waiting or stream in self._ready:
            self._sort(stream)
        return stream.send_window <= LARGEST_WINDOW

    def change_windows(self, streams: Iterable[Stream], change: int) -> bool:
        """The peer changed the window that streams begin with, and so those of all open ones."""
        fits = [self.widen_stream(stream, change) for stream in streams]  # each, also after a False
        return all(fits)

    def take(self, limit: int) -> list[Piece]:
        """What is to be written now: all that is not held back, and of bodies that wait about
        `limit` bytes."""
        left = limit - self._size
        while left > 0 and self._ready and self._window > 0:
            left -= self._turn(next(iter(self._ready)), left)
        out, self._out = self._out, []
        self._size = self.control_bytes = 0
        return out

    def _turn(self, stream: Stream, limit: int) -> int:
        """One frame of a body that waits; gives its bytes."""
        del self._ready[stream]
        outgoing = stream.outgoing
        assert outgoing is not None  # it is ready
        size = min(limit, stream.send_window, self._window, self.frame_bytes, outgoing.size)
        pieces = outgoing.take(size)
        stream.moved_at = self.seconds
        stream.send_window -= size
        self._window -= size
        is_last = not outgoing.size and stream.trailers == _NOTHING
        flags = END_STREAM if is_last else 0
        self._out.append(pack_header(size >> 16, size & 0xFFFF, DATA, flags, stream.number))
        self._out += pieces
        if outgoing.size:
            self._sort(stream)
        elif is_last:
            self._end(stream)
        elif stream.trailers is not None:
            self._trail(stream)
        else:
            self._budget.release(stream.charged)
            stream.charged = 0
            stream.sent()
        return size

    def _sort(self, stream: Stream) -> None:
        """Puts a stream with something to send where it belongs."""
        if stream.send_window > 0:
            self._waiting.discard(stream)
            self._ready.setdefault(stream)
            self._wake()
        else:
            self._ready.pop(stream, None)
            self._waiting.add(stream)

    def _trail(self, stream: Stream) -> None:
        """Everything of a body is out: ends it."""
        if not self._out:
            self._wake()
        trailers, number = stream.trailers or b"", stream.number
        if trailers:
            trailers = self._opened(trailers)
            head = pack_header(0, len(trailers), HEADERS, END_HEADERS | END_STREAM, number)
            self._out.append(head + trailers)
        else:
            self._out.append(pack_header(0, 0, DATA, END_STREAM, number))
        self._end(stream)

    def _end(self, stream: Stream) -> None:
        self._settle(stream)
        self._closed(stream)

    def _settle(self, stream: Stream) -> None:
        if stream.charged:
            self._budget.release(stream.charged)
            stream.charged = 0
        if stream.lease is not None:
            self.leases.append(stream.lease)
            stream.lease = None
