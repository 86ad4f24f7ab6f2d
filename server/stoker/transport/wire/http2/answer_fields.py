"""Header blocks of answers: plain literals that touch no table, so that a block can be made once.

Source: RFC 7541, section 6.2.2 (literals without indexing); RFC 9113, section 8.3.2.
"""

import time
from collections.abc import Iterable
from email.utils import formatdate
from typing import Final

_STATUS: Final = {200: 8, 204: 9, 206: 10, 304: 11, 400: 12, 404: 13, 500: 14}
"""Statuses that have an entry of the static table."""

_STATUS_NAME: Final = 8
_CONTENT_TYPE: Final = 31


def head(status: int, fields: Iterable[tuple[str, str]] = ()) -> bytes:
    """The block that begins an answer."""
    known = _STATUS.get(status)
    first = bytes((0x80 | known,)) if known else bytes((_STATUS_NAME,)) + _text(str(status))
    return first + trailers(fields)


def trailers(fields: Iterable[tuple[str, str]]) -> bytes:
    """Fields alone; names are sent in lower case."""
    return b"".join([_literal(name.lower(), value) for name, value in fields])


def content_length(size: int) -> bytes:
    """The field of a body's size."""
    digits = b"%d" % size
    return b"\x0f\x0d%c%b" % (len(digits), digits)


class Date:
    """The Date field, written once a second (RFC 9110, section 6.6.1)."""

    __slots__ = ("_field", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._field = b""

    def field(self) -> bytes:
        """The field of this second."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._field = b"\x0f\x12" + _text(formatdate(second, usegmt=True))
        return self._field


def _literal(name: str, value: str) -> bytes:
    if name == "content-type":
        return b"\x0f" + bytes((_CONTENT_TYPE - 15,)) + _text(value)
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    raw = text.encode("latin-1")
    length = len(raw)
    if length < 0x7F:
        return bytes((length,)) + raw
    length -= 0x7F
    size = bytearray((0x7F,))
    while length >= 0x80:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return bytes(size) + raw
