"""HTTP/1.1's writing side without I/O: an answer -> the pieces that go to the socket.

Heads are encoded once for each status, header set and connection option, and remembered: what
differs between two answers of one kind is their length and the second of their date.  Hot path.
Source: RFC 9112, section 4; RFC 9110, section 6.6.1 (Date).
"""

import time
from email.utils import formatdate
from typing import Final

from stoker.transport.wire.limits import COPIED_ROW_BYTES
from stoker.transport.wire.message import Headers, HttpResponse, Piece
from stoker.transport.wire.problems import REASONS

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_REMEMBERED: Final = 512
"""Heads that are kept: statuses by answer forms. At the limit all are forgotten."""

_heads: dict[tuple[int, Headers, bool], bytes] = {}


class Clock:
    """The Date field, written once a second."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def date(self) -> bytes:
        """The field and the end of the head."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = b"\r\nDate: " + formatdate(second, usegmt=True).encode() + b"\r\n\r\n"
        return self._text


def encode(
    response: HttpResponse, size: int, clock: Clock, *, closes: bool, without_body: bool
) -> list[Piece]:
    """The answer, whose body has `size` bytes; `without_body` for the answer to a HEAD."""
    line = b"%b%d%b" % (_head(response.status, response.headers, closes), size, clock.date())
    return [line] if without_body else [line, *response.pieces]


def encode_small(response: HttpResponse, size: int, clock: Clock) -> bytes:
    """The answer, whose body is one small piece, to a request that keeps its connection."""
    head = _head(response.status, response.headers, False)
    return b"%b%d%b" % (head, size, clock.date()) + response.pieces[0]


def _head(status: int, headers: Headers, closes: bool) -> bytes:
    key = (status, headers, closes)
    head = _heads.get(key)
    if head is None:
        if len(_heads) >= _REMEMBERED:
            _heads.clear()
        head = _heads[key] = _encode_head(*key)
    return head


def _encode_head(status: int, headers: Headers, closes: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if closes:
        lines.append("Connection: close")
    lines.append("Content-Length: ")
    return "\r\n".join(lines).encode()


def joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbouring small pieces as one; the large ones stay views."""
    result: list[Piece] = []
    small: list[Piece] = []
    for piece in pieces:
        if len(piece) < COPIED_ROW_BYTES:
            small.append(piece)
            continue
        if small:
            result.append(b"".join(small))
            small = []
        result.append(piece)
    if small:
        result.append(b"".join(small))
    return result
