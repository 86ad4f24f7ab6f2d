"""Protobuf's wire form, as far as messages are looked at or written by hand: varints and fields.

Written are messages whose parts are made once and joined for each answer. What fields mean is for
others to know.  Source: Protocol Buffers, "Encoding".
"""

from typing import Final

_SMALL: Final = [bytes((each,)) for each in range(0x80)]
"""Numbers that take one byte: most, so that each is made once."""

_MOST_VARINT_BYTES: Final = 10
"""Of 64 bits."""


def varint(number: int) -> bytes:
    """The base-128 form of a number from 0 up, lowest seven bits first."""
    if number < 0x80:
        return _SMALL[number]
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def delimited_head(field: int, size: int) -> bytes:
    """What stands before the content of a string, bytes or message field (numbers up to 15), which
    has `size` bytes."""
    return _SMALL[field << 3 | 2] + varint(size)


def delimited(field: int, content: bytes) -> bytes:
    """A whole string, bytes or message field; packed numbers too."""
    return _SMALL[field << 3 | 2] + varint(len(content)) + content


def integer(field: int, value: int) -> bytes:
    """An int32 or int64 field of a value from 0 up; 0 is not written."""
    return _SMALL[field << 3] + varint(value) if value else b""


def has_at_most(fields: int, message: bytes | memoryview) -> bool:
    """Whether a message is a row of so many fields at most, each 0.3 us to look at; what nested
    ones hold is passed over. False for bytes that are no such row."""
    at, size = 0, len(message)
    try:
        for _ in range(fields):
            if at >= size:
                return at == size
            kind = message[at] & 7
            at = _behind_varint(message, at)
            if kind == 2:
                behind = _behind_varint(message, at)
                length = 0
                for byte in reversed(message[at:behind]):
                    length = length << 7 | byte & 0x7F
                at = behind + length
            elif kind == 0:
                at = _behind_varint(message, at)
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            elif kind > 5:
                return False
    except IndexError:
        return False
    return at == size


def _behind_varint(message: bytes | memoryview, at: int) -> int:
    """Where the varint ends that begins here. Raises IndexError if it does not."""
    for place in range(at, at + _MOST_VARINT_BYTES):
        if message[place] < 0x80:
            return place + 1
    raise IndexError
