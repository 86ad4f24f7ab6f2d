"""HTTP/1.1's writing side without I/O: an answer -> the pieces that go to the socket.

Heads are encoded once for each status, header set and connection option, and remembered: what
differs between two answers of one kind is their length and the second of their date.  Hot path.
Source: RFC 9112, section 4; RFC 9110, section 6.6.1 (Date).
"""

import time
from collections.abc import Callable
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
    """The Date field, written once a second, and the heads that end with it."""

    __slots__ = ("_heads", "_now", "_second", "_text")

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """`now` gives the seconds since the epoch."""
        self._now = now
        self._second = -1
        self._text = b""
        self._heads: dict[int, tuple[Headers, int, int, bytes]] = {}
        """Of this second's answers: header set, status, length and head, by the identity of the
        header set, which is shared by answers of one form. To hash its texts takes 0.3 us."""

    def date(self) -> bytes:
        """The field and the end of the head."""
        second = int(self._now())
        if second != self._second:
            self._turn(second)
        return self._text

    def head(self, response: HttpResponse, size: int) -> bytes:
        """The whole head of an answer whose body has `size` bytes and whose connection stays."""
        second = int(self._now())
        if second != self._second:
            self._turn(second)
        headers = response.headers
        known = self._heads.get(id(headers))
        if (
            known is not None
            and known[0] is headers
            and known[1] == response.status
            and known[2] == size
        ):
            return known[3]
        head = b"%b%d%b" % (_head(response.status, headers, False), size, self._text)
        if len(self._heads) >= _REMEMBERED:
            self._heads.clear()
        self._heads[id(headers)] = headers, response.status, size, head
        return head

    def _turn(self, second: int) -> None:
        self._second = second
        self._text = b"\r\nDate: " + formatdate(second, usegmt=True).encode() + b"\r\n\r\n"
        self._heads.clear()


def encode(
    response: HttpResponse, size: int, clock: Clock, *, closes: bool, without_body: bool
) -> list[Piece]:
    """The answer, whose body has `size` bytes; `without_body` for the answer to a HEAD."""
    line = b"%b%d%b" % (_head(response.status, response.headers, closes), size, clock.date())
    return [line] if without_body else [line, *response.pieces]


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
