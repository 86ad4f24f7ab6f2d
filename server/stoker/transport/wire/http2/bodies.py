"""DATA frames: bytes of bodies to their streams, as they come, and what the peer may send.

A frame is passed on in the parts that arrive, so it never waits in memory to be whole. Everything
that comes is taken or dropped at once, so the connection's window is widened without asking; a
stream's is its own to widen.  Hot path.  Source: RFC 9113, sections 5.2, 6.1 and 8.1.1.
"""

from stoker.transport.wire.http2 import frames
from stoker.transport.wire.http2.frames import (
    END_STREAM,
    PADDED,
    ConnectionFault,
    ErrorCode,
    StreamFault,
)
from stoker.transport.wire.http2.stream import Stream
from stoker.transport.wire.http2.stream_table import StreamTable
from stoker.transport.wire.limits import CONNECTION_WINDOW


class _Payload:
    """A DATA frame that has begun."""

    __slots__ = ("data_left", "ends", "pad_left", "stream")

    def __init__(self, stream: Stream | None, data_left: int, pad_left: int, ends: bool) -> None:
        self.stream = stream
        """None: the bytes are dropped."""
        self.data_left = data_left
        self.pad_left = pad_left
        self.ends = ends


class Bodies:
    """The receiving side of one session."""

    def __init__(self, table: StreamTable) -> None:
        self._table = table
        self.window = CONNECTION_WINDOW
        """Bytes that the peer may send on the connection."""
        self._payload: _Payload | None = None

    @property
    def is_amid(self) -> bool:
        """Whether what comes next belongs to a DATA frame that has begun."""
        return self._payload is not None

    def take(self, length: int) -> None:
        """So many bytes of the connection's window are used, and soon given back."""
        self.window -= length
        if self.window < CONNECTION_WINDOW >> 1:
            self._table.sending.control(frames.window_update(0, CONNECTION_WINDOW - self.window))
            self.window = CONNECTION_WINDOW

    def begin(
        self, view: memoryview, at: int, end: int, number: int, flags: int, length: int
    ) -> int:
        """A frame whose payload of `length` bytes begins at `at`. Gives where it, or what is here
        of it, ends; -1 when the pad length has not come. Raises ConnectionFault."""
        stream = self._table.open.get(number)
        data, padding = length, 0
        if flags & PADDED:
            if not length:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "expected a pad length in DATA")
            if at == end:
                return -1
            padding = view[at]
            at += 1
            data -= padding + 1
            if data < 0:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, "expected less padding than payload in DATA"
                )
        if stream is None:
            self._table.check_opened("DATA", number)
        if length > self.window:
            raise ConnectionFault(
                ErrorCode.FLOW_CONTROL_ERROR,
                f"expected at most {self.window} bytes on the connection, got {length}",
            )
        self.take(length)
        ends = bool(flags & END_STREAM)
        if not data and not ends:
            self._table.count_idle()
        try:
            self._admit(stream, number, length, data, ends)
        except StreamFault as fault:
            self._table.fault(stream, number, fault)
            stream = None
        if stream is not None and length > data and not ends:
            # What pads is nobody's: the stream's window gets it back at once.
            stream.receive_window += length - data
            self._table.sending.control(frames.window_update(number, length - data))
        self._payload = _Payload(stream, data, padding, ends)
        return self.go_on(view, at, end)

    def go_on(self, view: memoryview, at: int, end: int) -> int:
        """Passes on what is here of the frame that has begun; gives where that ends."""
        payload = self._payload
        assert payload is not None  # the caller asked `is_amid`
        stream = payload.stream
        part = min(payload.data_left, end - at)
        if part:
            payload.data_left -= part
            if stream is not None and self._takes(stream):
                stream.data(view[at : at + part])
            at += part
        if not payload.data_left:
            part = min(payload.pad_left, end - at)
            payload.pad_left -= part
            at += part
        if not payload.data_left and not payload.pad_left:
            self._payload = None
            if payload.ends and stream is not None and self._table.holds(stream):
                stream.can_receive = False
                if not stream.is_answered:
                    stream.ended()
        return at

    def _takes(self, stream: Stream) -> bool:
        """Whether the stream has use for data: it was neither reset nor answered."""
        return not stream.is_answered and self._table.holds(stream)

    def _admit(
        self, stream: Stream | None, number: int, length: int, data: int, ends: bool
    ) -> None:
        if stream is None:
            if not self._table.was_reset(number):
                raise StreamFault(ErrorCode.STREAM_CLOSED, "expected nothing on a closed stream")
            return
        if not stream.can_receive:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "expected no DATA after the end")
        if length > stream.receive_window:
            raise StreamFault(
                ErrorCode.FLOW_CONTROL_ERROR,
                f"expected at most {stream.receive_window} bytes, got {length}",
            )
        stream.receive_window -= length
        if stream.body_left >= 0:
            stream.body_left -= data
            if stream.body_left < 0 or (ends and stream.body_left):
                raise StreamFault(
                    ErrorCode.PROTOCOL_ERROR, "expected as many bytes as content-length says"
                )
