"""Protobuf's wire form, as far as messages are written by hand: varints and delimited fields.

For messages whose parts are made once and joined for each answer. What they mean is their writers'
to know.  Source: Protocol Buffers, "Encoding".
"""

from typing import Final

_SMALL: Final = [bytes((each,)) for each in range(0x80)]
"""Numbers that take one byte: most, so that each is made once."""


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
