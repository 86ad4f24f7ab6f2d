"""HTTP/1.1's reading side without I/O: bytes in, whole requests out.

A connection gives what the kernel received (`receive`, or `space` and `advance` where the kernel
writes into a large body itself) and takes requests one at a time (`take`), so that it decides how
many of a pipeline are under way.

States:  HEAD -> SIZED | CHUNKED -> HEAD ...    any -> BROKEN
  1. Bytes that are not part of a finished request wait in `_rest`; only HEAD and CHUNKED use it.
  2. Of a body larger than WHOLE_BODY_BYTES that is SIZED, every byte that comes after `take` saw
     its head goes straight into the body's own memory: one copy, by the kernel.
  3. The memory of a body is reserved in the budget before it is allocated, and grows with arrival:
     `numpy.empty` maps pages that exist when they are written. (`bytearray(n)` writes zeros: 0.3 s
     for 1 GiB.) The reservation goes with the request; whoever takes the request gives it back.
  4. A client that is answered before it sends again sends whole requests, nearly all with the same
     head: what comes is compared with the last head and is not searched (`take_known`).
  5. After an error the stream's position is unknown: the state is BROKEN and nothing is read.
Source: RFC 9112, sections 2.2, 6 and 7.  Hot path.
"""

import re
from enum import Enum, auto
from typing import Final, Protocol

import numpy as np

from stoker.errors import TooLarge
from stoker.transport.wire.head import REMEMBERED_BYTES, Head, known_head, parse_head
from stoker.transport.wire.limits import (
    MAX_CHUNK_LINE_BYTES,
    MAX_EMPTY_RATIO,
    MAX_HEAD_BYTES,
    MAX_TRAILER_BYTES,
    RECEIVE_BYTES,
    WHOLE_BODY_BYTES,
    BufferBudget,
)
from stoker.transport.wire.message import HttpRequest, RequestHead
from stoker.transport.wire.problems import HttpError, Problem

_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?")
_TRAILER_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_TLS_HANDSHAKE: Final = b"\x16\x03"
_FREE_FRAMING: Final = 64 << 10


class ReaderState(Enum):
    """What the next byte belongs to."""

    HEAD = auto()
    SIZED = auto()
    CHUNKED = auto()
    BROKEN = auto()


class BodyLimits(Protocol):
    """Who says how large a body may be. `Handler` does."""

    def body_limit(self, head: RequestHead) -> int:
        """Bytes; raises HttpError or ServingError to refuse the body unread."""


class Received:
    """One whole request, its framing's consequences, and what it holds of the budget."""

    __slots__ = ("head", "request", "reserved")

    def __init__(self, head: Head, request: HttpRequest, reserved: int) -> None:
        self.head = head
        self.request = request
        self.reserved = reserved


class RequestReader:
    """One connection's requests. `take` raises HttpError or ServingError, once: then BROKEN."""

    __slots__ = (
        "_body",
        "_budget",
        "_chunk_left",
        "_filled",
        "_framing",
        "_head",
        "_limit",
        "_limits",
        "_reserved",
        "_rest",
        "_searched",
        "_skipped_line",
        "_trailer_bytes",
        "_view",
        "fills_body",
        "known",
        "state",
        "wants_continue",
    )

    def __init__(self, limits: BodyLimits, budget: BufferBudget) -> None:
        self.state = ReaderState.HEAD
        self.fills_body = False
        """The next bytes belong into `space()`."""
        self.wants_continue = False
        """The client waits for `100 Continue` before it sends the body."""
        self.known: Head | None = None
        """The last head, if it may come again with a body that is small and of known size."""
        self._limits = limits
        self._budget = budget
        self._rest = b""
        self._searched = 0
        self._skipped_line = False
        self._head: Head | None = None
        self._view: memoryview | None = None
        self._filled = 0
        self._reserved = 0
        self._body = bytearray()
        self._limit = 0
        self._chunk_left = 0
        self._framing = 0
        self._trailer_bytes = -1

    @property
    def is_between_requests(self) -> bool:
        """Not one byte of a next request is here."""
        return self.state is ReaderState.HEAD and not self._rest

    @property
    def is_in_body(self) -> bool:
        """A head is complete and its body is not."""
        return self.state is ReaderState.SIZED or self.state is ReaderState.CHUNKED

    @property
    def head(self) -> RequestHead | None:
        """That of the request whose body is not whole, or was refused."""
        return None if self._head is None else self._head.request

    @property
    def body_bytes(self) -> int:
        """Bytes of the unfinished body that are here."""
        if self.state is ReaderState.SIZED:
            return len(self._rest) if self._view is None else self._filled
        return len(self._body)

    @property
    def reserved_bytes(self) -> int:
        """Bytes that the unfinished body holds of the budget."""
        return self._reserved

    def space(self) -> memoryview:
        """Where the next bytes belong while `fills_body`.

        Never more than one receive buffer: the loop is to see other connections in between.
        """
        assert self._view is not None
        return self._view[self._filled : self._filled + RECEIVE_BYTES]

    def advance(self, count: int) -> None:
        """`count` bytes were written into `space()`."""
        self._filled += count

    def receive(self, data: bytes) -> None:
        """These bytes came. Not called while `fills_body`."""
        if self.state is not ReaderState.BROKEN:
            self._rest = self._rest + data if self._rest else data

    def take_known(self, data: bytes) -> HttpRequest | None:
        """The request that `data` is: a head that came before, which is `known` then, and its whole
        body, which is reserved in the budget. None, and nothing is taken, for all else: that is for
        `receive`."""
        head = self.known
        if head is None or not data.startswith(head.text):
            head = known_head(data)
            if head is None or head.is_chunked or head.content_length > WHOLE_BODY_BYTES:
                return None
        size, begins = head.content_length, len(head.text)
        if (
            len(data) != begins + size
            or self._rest
            or self.state is not ReaderState.HEAD
            or self._skipped_line
        ):
            return None
        budget = self._budget
        if budget.used + size > budget.limit:
            return None  # `take` says so
        budget.used += size
        self.known = head
        return HttpRequest(head.request, data[begins:])

    def take(self) -> Received | None:
        """The next whole request, or None until more bytes come."""
        try:
            if self.state is ReaderState.HEAD and not self._read_head():
                return None
            if self.state is ReaderState.SIZED:
                return self._take_sized()
            if self.state is ReaderState.CHUNKED:
                return self._take_chunked()
        except Exception:
            self.close()
            raise
        return None

    def close(self) -> None:
        """Forgets everything and gives the unfinished body's reservation back."""
        self.state = ReaderState.BROKEN
        self._budget.release(self._reserved)
        self._reserved = 0
        self._rest = b""
        self._view = None
        self.fills_body = False
        self._body = bytearray()
        self.wants_continue = False

    def _read_head(self) -> bool:
        rest = self._rest
        if not self._skipped_line and rest.startswith(b"\r\n"):
            self._skipped_line = True  # RFC 9112, 2.2: one empty line before a request is fine
            rest = self._rest = rest[2:]
        end = rest.find(b"\r\n\r\n", max(self._searched - 4, 0))
        if len(rest) >= MAX_HEAD_BYTES if end < 0 else end + 4 > MAX_HEAD_BYTES:
            raise HttpError(
                Problem.HEAD_TOO_LARGE,
                f"expected a request line and header fields of at most {MAX_HEAD_BYTES} bytes",
            )
        if end < 0:
            _refuse_what_never_ends(rest, self._searched)
            self._searched = len(rest)
            return False
        head = self._head = parse_head(rest[: end + 4])
        self._rest = rest[end + 4 :]
        self._searched = 0
        self._skipped_line = False
        size = head.content_length
        if head.is_chunked or size > WHOLE_BODY_BYTES or len(head.text) > REMEMBERED_BYTES:
            self.known = None
        else:
            self.known = head
        if head.is_chunked:
            self._limit = self._limits.body_limit(head.request)
            self._chunk_left, self._framing, self._trailer_bytes = 0, 0, -1
            self.wants_continue = head.expects_continue and not self._rest
            self.state = ReaderState.CHUNKED
            return True
        if size > WHOLE_BODY_BYTES:
            limit = self._limits.body_limit(head.request)
            if size > limit:
                raise _too_large(limit, str(size))
        if size:
            self._budget.reserve(size)
            self._reserved = size
            self.wants_continue = head.expects_continue and not self._rest
        if size > WHOLE_BODY_BYTES:
            self._view = np.empty(size, np.uint8).data
            self.fills_body = True
            first = self._rest[:size]
            self._view[: len(first)] = first
            self._filled = len(first)
            self._rest = self._rest[size:]
        self.state = ReaderState.SIZED
        return True

    def _take_sized(self) -> Received | None:
        head = self._head
        assert head is not None
        size = head.content_length
        if self._view is not None:
            if self._filled < size:
                return None
            body, self._view = self._view, None
            self.fills_body = False
            return self._finish(head, body)
        rest = self._rest
        if len(rest) < size:
            return None
        if len(rest) == size:
            self._rest = b""
            return self._finish(head, rest)
        self._rest = rest[size:]
        return self._finish(head, rest[:size])

    def _finish(self, head: Head, body: bytes | memoryview) -> Received:
        reserved, self._reserved = self._reserved, 0
        self._head = None
        self.wants_continue = False
        self.state = ReaderState.HEAD
        return Received(head, HttpRequest(head.request, body), reserved)

    def _take_chunked(self) -> Received | None:
        """Moves over whole lines and what is here of chunks; the rest waits."""
        head, rest, at = self._head, self._rest, 0
        assert head is not None
        while True:
            if self._chunk_left > 2:  # data, then CRLF
                piece = rest[at : at + self._chunk_left - 2]
                if not piece:
                    break
                self._body += piece
                self._chunk_left -= len(piece)
                at += len(piece)
            elif self._chunk_left:
                if len(rest) - at < 2:
                    break
                if rest[at : at + 2] != b"\r\n":
                    raise HttpError(Problem.MALFORMED, "expected CRLF after a chunk's data")
                self._chunk_left = 0
                at += 2
            else:
                end = rest.find(b"\r\n", at)
                line = rest[at:].removesuffix(b"\r") if end < 0 else rest[at:end]
                self._check_length(line)
                if end < 0:
                    break
                at = end + 2
                if self._trailer_bytes >= 0:
                    self._trailer_bytes += len(line) + 2
                    if not line:
                        self._rest = rest[at:]
                        body, self._body = self._body, bytearray()
                        small = len(body) <= WHOLE_BODY_BYTES
                        return self._finish(head, bytes(body) if small else memoryview(body))
                    if not _TRAILER_LINE.fullmatch(line):
                        raise HttpError(
                            Problem.MALFORMED, f"expected a trailer field, got {line[:32]!r}"
                        )
                else:
                    self._begin_chunk(line)
        self._rest = rest[at:]
        return None

    def _check_length(self, line: bytes) -> None:
        """Refuses a line, perhaps unfinished, that is too long."""
        if self._trailer_bytes >= 0:
            if self._trailer_bytes + len(line) > MAX_TRAILER_BYTES:
                raise HttpError(
                    Problem.HEAD_TOO_LARGE,
                    f"expected trailers of at most {MAX_TRAILER_BYTES} bytes",
                )
        elif len(line) > MAX_CHUNK_LINE_BYTES:
            raise HttpError(
                Problem.MALFORMED,
                f"expected a chunk size line of at most {MAX_CHUNK_LINE_BYTES} bytes",
            )

    def _begin_chunk(self, line: bytes) -> None:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise HttpError(
                Problem.MALFORMED, f"expected a chunk size in hex digits, got {line[:32]!r}"
            )
        size = int(match[1], 16)
        if size == 0:
            self._trailer_bytes = 0
            return
        total = len(self._body) + size
        if total > self._limit:
            raise _too_large(self._limit, f"{total} or more")
        self._framing += len(line) + 4
        if self._framing > _FREE_FRAMING + MAX_EMPTY_RATIO * total:
            raise HttpError(
                Problem.MALFORMED,
                f"expected at most {MAX_EMPTY_RATIO} bytes of chunk framing for a byte of body",
            )
        self._budget.reserve(size)
        self._reserved += size
        self._chunk_left = size + 2


def _refuse_what_never_ends(rest: bytes, searched: int) -> None:
    """Tells at once of a head that would only run into its time limit."""
    if rest.startswith(_TLS_HANDSHAKE):
        raise HttpError(Problem.MALFORMED, "expected HTTP, got a TLS handshake: the port is plain")
    if _BARE_LF.search(rest, max(searched - 1, 0)):
        raise HttpError(Problem.MALFORMED, "expected lines that end with CRLF, got one with LF")


def _too_large(limit: int, got: str) -> TooLarge:
    return TooLarge(f"expected a body of at most {limit} bytes, got {got}")
