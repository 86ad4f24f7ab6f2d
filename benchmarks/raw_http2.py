"""A client's side of HTTP/2 on a raw socket, cheap enough to load a fast server from one core.

Not a benchmark itself. It is on a client's side only and trusts its server: what it does not expect
ends the run. Three things make it cheap, and each is allowed by RFC 9113:

1. Header blocks are encoded before the clock starts; a call is two frame heads around bytes that
   are there already.
2. It announces a header table of 0 bytes, so that the server's blocks mean the same wherever they
   stand: each different block is decoded once and remembered, and the status of every answer is
   still known.
3. It announces windows that hardly ever fill, and skips the bytes of answers.

Windows and the stream limit of the server are obeyed, so that large messages work.
"""

import socket
import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 5, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
HEADER_TABLE_SIZE, MAX_STREAMS, INITIAL_WINDOW = 1, 3, 4
LARGEST = (1 << 31) - 1
FRAME = 16384
HTTP_STATUS = 1000
"""An answer's code is its gRPC status, 0 without one; a failure of HTTP is 1000 + its status."""
RESET = 2000
"""The code of a stream that the server reset is 2000 + the error code."""

_head = struct.Struct(">BHBBI")
_setting = struct.Struct(">HI")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return _head.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def opening() -> bytes:
    """What a client says first: preface, settings, and a connection window that never fills."""
    settings = _setting.pack(HEADER_TABLE_SIZE, 0) + _setting.pack(INITIAL_WINDOW, LARGEST)
    grown = (LARGEST - 65535).to_bytes(4, "big")
    return PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, grown)


class ServerGone(Exception):
    """The server closed the connection, or said something that a plain run never sees."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request: its header block as this connection's encoder made it, and its body."""

    block: bytes
    body: bytes


class _Upload:
    """A body that the windows did not let through at once."""

    __slots__ = ("rest", "stream", "window")

    def __init__(self, stream: int, body: bytes, window: int) -> None:
        self.stream = stream
        self.rest = memoryview(body)
        self.window = window


class Http2Client:
    """One connection. Calls are numbered by whoever sends them, and answered by that number."""

    def __init__(self, port: int, streams: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wanted_streams = self._streams = streams
        self._next = 1
        self._numbers: dict[int, int] = {}
        """The calls that wait for their answer, by stream."""
        self._bad: dict[int, int] = {}
        """Streams whose header block already tells of a failure."""
        self._meanings: dict[bytes, int] = {}
        self._window = self._initial = 65535
        self._uploads: deque[_Upload] = deque()
        self._out: deque[bytes | memoryview] = deque()
        self._received = 0
        self._buffer = bytearray(1 << 18)
        self._filled = 0
        self.table_bytes = 4096
        """Size of the header table that an encoder for this connection may use."""
        self._settled = False
        self._socket.sendall(opening())
        while not self._settled:
            self.read()
        self.flush()
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def close(self) -> None:
        """Ends the connection, whatever is still under way."""
        self._socket.close()

    def room(self) -> int:
        """How many calls may be sent."""
        return self._streams - len(self._numbers)

    def send(self, number: int, call: Call) -> None:
        """Queues a call; `flush` writes what is queued."""
        stream = self._next
        self._next += 2
        self._numbers[stream] = number
        block, body = call.block, call.body
        size = len(body)
        if size <= FRAME and size <= self._window and size <= self._initial and not self._uploads:
            self._window -= size
            self._out.append(
                _head.pack(0, len(block), HEADERS, END_HEADERS, stream)
                + block
                + _head.pack(0, size, DATA, END_STREAM, stream)
                + body
            )
            return
        self._out.append(frame(HEADERS, END_HEADERS, stream, block))
        self._uploads.append(_Upload(stream, body, self._initial))
        self._pump()

    def flush(self) -> bool:
        """Writes as much as the socket takes; whether anything is left."""
        out = self._out
        while out:
            pieces: list[bytes | memoryview] = list(islice(out, 256))
            try:
                sent = self._socket.sendmsg(pieces)
            except BlockingIOError:
                return True
            for piece in pieces:
                if sent < len(piece):
                    out[0] = memoryview(piece)[sent:]
                    break
                sent -= len(piece)
                out.popleft()
        return False

    def read(self) -> list[tuple[int, int]]:
        """Reads once what is there; the calls that were answered, as (number, code)."""
        buffer = self._buffer
        try:
            got = self._socket.recv_into(memoryview(buffer)[self._filled :])
        except BlockingIOError:
            return []
        if not got:
            raise ServerGone("the server closed the connection")
        self._received += got
        if self._received > LARGEST // 2:  # data are not told from the rest: more than was used
            self._out.append(frame(WINDOW_UPDATE, 0, 0, (LARGEST // 4).to_bytes(4, "big")))
            self._received -= LARGEST // 4
        end = self._filled + got
        at, answered = self._frames(end)
        self._filled = end - at
        if self._filled:
            buffer[: self._filled] = buffer[at:end]
            if self._filled == len(buffer):
                buffer.extend(bytes(len(buffer)))
        return answered

    def _frames(self, end: int) -> tuple[int, list[tuple[int, int]]]:
        """Goes over the whole frames before `end`: where they stop, and what was answered."""
        buffer, at = self._buffer, 0
        numbers, meanings, unpack = self._numbers, self._meanings, _head.unpack_from
        answered: list[tuple[int, int]] = []
        while end - at >= 9:
            high, low, kind, flags, stream = unpack(buffer, at)
            begin = at + 9
            after = begin + (high << 16 | low)
            if after > end:
                break
            at = after
            if kind == HEADERS:
                block = bytes(buffer[begin:after])
                code = meanings.get(block, -1)
                if code < 0:
                    code = self._meaning(block, flags)
                if flags & END_STREAM:
                    answered.append((numbers.pop(stream), self._bad.pop(stream, code)))
                elif code:
                    self._bad[stream] = code
            elif kind == DATA:
                if flags & END_STREAM:
                    answered.append((numbers.pop(stream), self._bad.pop(stream, 0)))
            elif kind == RST_STREAM:
                self._drop(stream)
                if stream in numbers:
                    reason = int.from_bytes(buffer[begin:after], "big")
                    answered.append((numbers.pop(stream), RESET + reason))
            else:
                self._control(kind, flags, stream, bytes(buffer[begin:after]))
        return at, answered

    def _meaning(self, block: bytes, flags: int) -> int:
        """The code that a header block tells, remembered."""
        if flags & PADDED or not flags & END_HEADERS:
            raise ServerGone("a padded or continued header block: not expected here")
        decoder = hpack.Decoder()
        decoder.max_allowed_table_size = 0
        decoder.header_table_size = 0
        fields = {str(name): str(value) for name, value in decoder.decode(block)}
        code = int(fields.get("grpc-status", "0"))
        if fields.get(":status", "200") != "200":
            code = HTTP_STATUS + int(fields[":status"])
        if len(self._meanings) < 4096:
            self._meanings[block] = code
        return code

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            grown = int.from_bytes(payload, "big")
            if stream == 0:
                self._window += grown
            for upload in self._uploads:
                if upload.stream == stream:
                    upload.window += grown
            self._pump()
        elif kind == PING and not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS and not flags & ACK:
            self._obey(_setting.iter_unpack(payload))
            self._out.append(frame(SETTINGS, ACK, 0))
        elif kind == GOAWAY:
            raise ServerGone(f"the server said GOAWAY: {payload[8:].decode(errors='replace')}")

    def _obey(self, settings: Iterable[tuple[int, ...]]) -> None:
        self._settled = True
        for name, value in settings:
            if name == INITIAL_WINDOW:
                for upload in self._uploads:
                    upload.window += value - self._initial
                self._initial = value
            elif name == MAX_STREAMS:
                self._streams = min(self._wanted_streams, value)
            elif name == HEADER_TABLE_SIZE:
                self.table_bytes = min(4096, value)
        self._pump()

    def _drop(self, stream: int) -> None:
        """Forgets the rest of a body that nobody wants."""
        for upload in self._uploads:
            if upload.stream == stream:
                self._uploads.remove(upload)
                break

    def _pump(self) -> None:
        """Queues what the windows let through, body after body."""
        while self._uploads and self._window > 0:
            for upload in self._uploads:
                if upload.window > 0:
                    break
            else:
                return
            size = min(FRAME, self._window, upload.window, len(upload.rest))
            piece, upload.rest = upload.rest[:size], upload.rest[size:]
            self._window -= size
            upload.window -= size
            is_last = not upload.rest
            flags = END_STREAM if is_last else 0
            self._out.append(_head.pack(0, size, DATA, flags, upload.stream))
            self._out.append(piece)
            if is_last:
                self._uploads.remove(upload)
