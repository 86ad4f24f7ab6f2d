"""One HTTP/2 connection without I/O: bytes come in, frames go out, streams live between.

Who has the socket gives what came to `receive` and writes what `sending.take` gives. Frames are
read where the kernel put them. What the peer does wrong ends its stream (RST_STREAM) or the session
(GOAWAY, `is_over`); nothing is raised. Its parts, each with its rules: `stream_table.py`,
`block_assembly.py`, `header_blocks.py`, `bodies.py`, `control_frames.py`, `flow.py`.

A header block is always decoded, also of a stream that is refused: the table must follow.
Hot path.  Source: RFC 9113, sections 3.4, 4, 5.1, 6.8 and 8.1.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from struct import Struct
from typing import Final

from stoker.errors import ServingError
from stoker.request import Lease
from stoker.transport.wire.http2 import frames
from stoker.transport.wire.http2.block_assembly import BlockAssembly, WholeBlock
from stoker.transport.wire.http2.bodies import Bodies
from stoker.transport.wire.http2.control_frames import ControlFrames, unsettled
from stoker.transport.wire.http2.flow import MessageForm
from stoker.transport.wire.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER_BYTES,
    HEADERS,
    LARGEST_STREAM,
    ConnectionFault,
    ErrorCode,
    StreamFault,
)
from stoker.transport.wire.http2.header_blocks import HeaderBlocks
from stoker.transport.wire.http2.hpack import Block, CompressionError, Decoder
from stoker.transport.wire.http2.repeated_heads import RepeatedHeads
from stoker.transport.wire.http2.request_fields import (
    MalformedRequest,
    check_trailers,
    read_request,
)
from stoker.transport.wire.http2.stream import Opening, Requests, Stream
from stoker.transport.wire.http2.stream_table import StreamTable
from stoker.transport.wire.limits import (
    CONNECTION_WINDOW,
    MAX_BLOCK_BYTES,
    MAX_FRAME_BYTES,
    MAX_HEAD_BYTES,
    MAX_STREAMS,
    STREAM_WINDOW,
    BufferBudget,
)
from stoker.transport.wire.message import Piece
from stoker.transport.wire.peer import Peer
from stoker.transport.wire.problems import HttpError, Problem

_unpack: Final = Struct(">BHBBI").unpack_from
_TABLE_BYTES: Final = 4096
"""The default of SETTINGS_HEADER_TABLE_SIZE: the fields of a client fit."""

_TOO_SLOW: Final = HttpError(
    Problem.TOO_SLOW, "expected a body at the pace that docs/protocol.md tells, got a slower one"
)

_GREETING: Final = frames.settings(
    {
        frames.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        frames.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
        frames.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
    }
) + frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)


class Session:
    """See the module's docstring. Used on the loop only."""

    def __init__(self, requests: Requests, budget: BufferBudget, wake: Callable[[], None]) -> None:
        """The client's preface has come; what follows goes to `receive`. `wake()` asks for what
        `sending.take` gives to be written soon; it may come several times, and from `receive`."""
        self.is_over = False
        """The connection is gone, or GOAWAY with an error was sent: nothing is read."""
        self.peer = Peer()
        """Whoever has the socket sets it."""
        self._requests = requests
        self._table = StreamTable(budget, wake)
        self.sending = self._table.sending
        self._control = ControlFrames(self._table)
        self._bodies = Bodies(self._table)
        self._assembly = BlockAssembly()
        self._blocks: HeaderBlocks[Opening] = HeaderBlocks(
            Decoder(max_table_bytes=_TABLE_BYTES, max_list_bytes=MAX_HEAD_BYTES),
            self._read,
            RepeatedHeads(self._read),
        )
        self.seconds = 0
        """Calls of `tick`: a clock that costs nothing to read."""
        self._is_leaving = False
        self._last_accepted = LARGEST_STREAM
        self.sending.control(_GREETING)

    @property
    def open_streams(self) -> int:
        """Streams that are not closed."""
        return len(self._table.open)

    @property
    def streams(self) -> Mapping[int, Stream]:
        """Those that are open, by number."""
        return self._table.open

    @property
    def requests(self) -> int:
        """Grows with every request."""
        return self._table.highest

    @property
    def is_amid_head(self) -> bool:
        """Whether a header block has begun and is not whole."""
        return self._assembly.is_amid

    # --- what the connection calls --------------------------------------------------------------

    def receive(self, view: memoryview, end: int) -> int:
        """Reads what can be read of `view[:end]`; gives how many bytes that were. The rest, less
        than MAX_BLOCK_BYTES and a frame's header, is to come again in front of what follows."""
        if self.is_over:
            return end
        try:
            return self._receive(view, end)
        except ConnectionFault as fault:
            self.fail(fault.code, fault.message)
            return end

    def tick(self, stall_s: float) -> None:
        """A second has passed: what is bounded by the second begins anew, slow bodies end, and so
        do answers of which the peer has taken nothing for `stall_s`."""
        self.seconds += 1
        self.sending.seconds = self.seconds
        self._table.tick()
        if self.sending.is_held:  # nothing is read meanwhile: the bodies' time stands still
            for stream in self._table.open.values():
                stream.opened_at += 1
            return
        for stream in self.sending.stuck(self.seconds - math.ceil(stall_s)):
            self._table.send_reset(stream.number, ErrorCode.CANCEL)
            self._table.lose(stream, ErrorCode.CANCEL)
        for stream in [*self._table.open.values()]:
            if (
                stream.can_receive
                and not stream.is_answered
                and stream.is_slow(self.seconds - stream.opened_at)
            ):
                stream.refuse(_TOO_SLOW)

    def announce_leave(self) -> None:
        """Asks the client to open its next streams elsewhere; all that come are served."""
        if not self._is_leaving and not self.is_over:
            self._is_leaving = True
            self.sending.control(frames.goaway(LARGEST_STREAM, ErrorCode.NO_ERROR))

    def ask(self) -> None:
        """Sends a PING; `is_heard` becomes true with its answer."""
        if not self.is_over:
            self._control.ask()

    @property
    def is_heard(self) -> bool:
        """Whether the client has read what was sent before `ask`, and all that it sent before it
        did so has come."""
        return self._control.is_heard

    def leave(self) -> None:
        """Takes no streams after those that have come: later ones are refused, to be tried again
        elsewhere."""
        if self._last_accepted == LARGEST_STREAM and not self.is_over:
            self._is_leaving = True
            self._last_accepted = self._table.highest
            self.sending.control(frames.goaway(self._last_accepted, ErrorCode.NO_ERROR))

    def refuse_endless(self, error: ServingError) -> None:
        """Answers the streams that only their clients would end with this error."""
        for stream in [*self._table.open.values()]:
            if stream.is_endless:
                stream.refuse(error)

    def refuse_all(self, error: ServingError) -> None:
        """Answers every stream that is not answered yet with this error."""
        for stream in [*self._table.open.values()]:
            stream.refuse(error)

    def fail(self, code: ErrorCode, message: str) -> None:
        """Ends the session: tells the client why, and all streams that they are over."""
        if not self.is_over:
            last = min(self._table.highest, self._last_accepted)
            self.sending.control(frames.goaway(last, code, message))
            self.lose(code)

    def lose(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """The connection is gone, or of no use: so is every stream."""
        self.is_over = True
        self._table.lose_all(code)

    def interim(self, number: int, head: bytes) -> None:
        """Sends a head that is not the answer's, such as 100 Continue, on an open stream."""
        self.sending.interim(number, head)

    def holds(self, stream: Stream) -> bool:
        """Whether the stream is open."""
        return self._table.open.get(stream.number) is stream

    # --- what streams call: nothing happens for one that is closed --------------------------------

    def answer(
        self,
        stream: Stream,
        head: bytes,
        body: Sequence[Piece],
        size: int,
        trailers: bytes = b"",
        lease: Lease | None = None,
    ) -> None:
        """Sends a whole answer and ends the stream. `head` and `trailers` are header blocks; a body
        of `size` bytes is the end where there are no trailers. The lease ends when the bytes have
        left, or at once."""
        if self._table.open.get(stream.number) is stream and not stream.is_answered:
            stream.is_answered = True
            self.sending.answer(stream, head, body, size, trailers, lease)
        elif lease is not None:
            lease.release()

    def message(self, stream: Stream, form: MessageForm, message: bytes) -> None:
        """Sends a whole answer of one small message and ends the stream."""
        if self._table.open.get(stream.number) is stream and not stream.is_answered:
            stream.is_answered = True
            self.sending.message(stream, form, message)

    def start(self, stream: Stream, head: bytes) -> None:
        """Sends the head of an answer that comes in pieces."""
        if self._table.holds(stream) and not stream.is_answered:
            self.sending.head(stream, head)

    def write(self, stream: Stream, pieces: Iterable[Piece]) -> None:
        """Sends a piece of an answer. `stream.outgoing` holds what the peer has no window for."""
        if self._table.holds(stream) and not stream.is_answered:
            self.sending.write(stream, pieces)

    def finish(self, stream: Stream, trailers: bytes) -> None:
        """Sends trailers behind what was written, and ends the stream."""
        if self._table.holds(stream) and not stream.is_answered:
            stream.is_answered = True
            self.sending.finish(stream, trailers)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Ends the stream at once; what the peer still sends of it is dropped."""
        if self._table.drop(stream):
            self._table.send_reset(stream.number, code)

    def widen(self, stream: Stream, increment: int) -> None:
        """The peer may send so many more bytes of the stream."""
        if increment > 0 and stream.can_receive and self._table.holds(stream):
            stream.receive_window += increment
            self.sending.control(frames.window_update(stream.number, increment))

    # --- reading --------------------------------------------------------------------------------

    def _receive(self, view: memoryview, end: int) -> int:
        # The two usual frames of a small call, a head that is known and a body in one frame, are
        # handled here, without a call for each rule (benchmarks/results/0006-grpc.md, "frames").
        # Everything else of HTTP/2 is in their modules.
        at = 0
        bodies, assembly, table, blocks = self._bodies, self._assembly, self._table, self._blocks
        streams = table.open
        if bodies.is_amid:
            at = bodies.go_on(view, 0, end)
        while end - at >= HEADER_BYTES:
            high, low, kind, flags, number = _unpack(view, at)
            length = high << 16 | low
            number &= LARGEST_STREAM
            begin = at + HEADER_BYTES
            stop = begin + length
            if assembly.pieces and kind != CONTINUATION:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, "expected CONTINUATION after a part of a head"
                )
            if kind == DATA and flags == END_STREAM and stop <= end:
                stream = streams.get(number)
                if (
                    stream is not None
                    and stream.can_receive
                    and (stream.body_left == length or stream.body_left < 0)
                    and 0 < length <= stream.receive_window
                    and length <= bodies.window
                ):
                    bodies.take(length)
                    stream.can_receive = False
                    if not stream.is_answered:
                        stream.whole(view, begin, stop)
                    at = stop
                    continue
            elif kind == DATA and not flags and stop <= end:
                stream = streams.get(number)
                if (
                    stream is not None
                    and stream.can_receive
                    and (stream.body_left < 0 or stream.body_left > length)
                    and 0 < length <= stream.receive_window
                    and length <= bodies.window
                ):
                    bodies.take(length)
                    stream.receive_window -= length
                    if stream.body_left > 0:
                        stream.body_left -= length
                    if not stream.is_answered:
                        stream.data(view[begin:stop])
                    at = stop
                    continue
            elif (
                kind == HEADERS
                and flags == END_HEADERS
                and stop <= end
                and number > table.highest
                and number & 1
                and number <= self._last_accepted
                and len(streams) < MAX_STREAMS
            ):
                block = bytes(view[begin:stop])
                opening = blocks.known(block)
                if opening is not None:
                    table.highest = number
                    streams[number] = opening.open(self, number)
                elif length > MAX_BLOCK_BYTES or not self._control.is_settled:
                    self._headers(block, flags, number)  # says what is wrong
                else:
                    self._block((number, False, block), is_looked_up=True)
                at = stop
                continue
            if length > MAX_FRAME_BYTES:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR,
                    f"expected frames of at most {MAX_FRAME_BYTES} bytes, got {length}",
                )
            if kind == DATA:
                reached = bodies.begin(view, begin, end, number, flags, length)
                if reached < 0:
                    break
                at = reached
                continue
            if stop > end:
                if length > MAX_BLOCK_BYTES:  # it would wait in memory to be whole
                    raise ConnectionFault(
                        ErrorCode.ENHANCE_YOUR_CALM,
                        f"expected at most {MAX_BLOCK_BYTES} bytes in a frame of type {kind}, "
                        f"got {length}",
                    )
                break
            if kind == HEADERS:
                self._headers(bytes(view[begin:stop]), flags, number)
            elif kind == CONTINUATION:
                whole = assembly.continuation(bytes(view[begin:stop]), flags, number)
                if whole is not None:
                    self._block(whole)
            else:
                self._control.receive(kind, flags, number, view[begin:stop])
            at = stop
        return at

    def _headers(self, payload: bytes, flags: int, number: int) -> None:
        if not self._control.is_settled:
            raise unsettled()
        whole = self._assembly.headers(payload, flags, number)
        if whole is not None:
            self._block(whole)

    def _block(self, whole: WholeBlock, *, is_looked_up: bool = False) -> None:
        """A header block: a request, or the end of one. `is_looked_up`: the block is not known."""
        number, ends, block = whole
        table, blocks = self._table, self._blocks
        try:
            if number <= table.highest:
                self._trailers(number, ends, blocks.decode(block))
                return
            table.highest = number
            opening = blocks.head_of_unknown(block) if is_looked_up else blocks.head(block)
        except CompressionError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        except MalformedRequest as error:
            table.send_reset(number, ErrorCode.PROTOCOL_ERROR)
            table.count_idle()
            self._requests.malformed(str(error))
            return
        except HttpError as error:
            opening = self._requests.refusal(error)
        if number > self._last_accepted or len(table.open) >= MAX_STREAMS:
            table.send_reset(number, ErrorCode.REFUSED_STREAM)
            table.count_idle()
            return
        stream = table.open[number] = opening.open(self, number)
        if ends:
            self._ended(stream)

    def _read(self, block: Block) -> Opening:
        if block.size > MAX_HEAD_BYTES:
            raise HttpError(
                Problem.HEAD_TOO_LARGE,
                f"expected header fields of at most {MAX_HEAD_BYTES} bytes, got {block.size}",
            )
        return self._requests.opening(read_request(block.fields))

    def _trailers(self, number: int, ends: bool, block: Block) -> None:
        table = self._table
        stream = table.open.get(number)
        if stream is None:
            if not table.was_reset(number):
                raise ConnectionFault(
                    ErrorCode.STREAM_CLOSED, f"expected no HEADERS on closed stream {number}"
                )
            table.count_idle()
            return
        try:
            if not stream.can_receive:
                raise StreamFault(ErrorCode.STREAM_CLOSED, "expected no HEADERS after the end")
            if not ends:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "expected trailers to end the stream")
            check_trailers(block.fields)
        except MalformedRequest as error:
            table.fault(stream, number, StreamFault(ErrorCode.PROTOCOL_ERROR, str(error)))
        except StreamFault as fault:
            table.fault(stream, number, fault)
        else:
            self._ended(stream)

    def _ended(self, stream: Stream) -> None:
        """The peer ended its side with a header block."""
        stream.can_receive = False
        if stream.body_left > 0:
            message = "expected as many bytes as content-length says"
            fault = StreamFault(ErrorCode.PROTOCOL_ERROR, message)
            self._table.fault(stream, stream.number, fault)
        elif not stream.is_answered:
            stream.ended()
