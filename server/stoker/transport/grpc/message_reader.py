"""Cuts the messages of one gRPC call out of the bytes of its DATA frames.

A message is admitted by its length, before it is there; a large one is received into memory of its
own. Knows no stream and no codec.  Hot path for large messages and streams.
Source: gRPC over HTTP2, "Length-Prefixed-Message".
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from stoker.errors import InvalidRequest
from stoker.transport.wire.limits import WHOLE_BODY_BYTES
from stoker.transport.wire.message import Piece

PREFIX_BYTES: Final = 5
"""A flag (is it compressed?) and a length of four bytes."""

_ALIGNMENT: Final = 16
"""Of what malloc gives, and enough for every datatype."""


class MessageReader:
    """The receiving side of one call. It refers to nothing of the call: with it goes the memory of
    a message that never came whole."""

    __slots__ = ("_filled", "_is_compressed", "_message", "_prefix")

    def __init__(self) -> None:
        self._prefix = b""
        """What came of a prefix that is not whole."""
        self._is_compressed = False
        self._message: memoryview | None = None
        """Of a message that is not whole."""
        self._filled = 0

    @property
    def is_amid(self) -> bool:
        """Whether a message has begun and is not whole."""
        return self._message is not None or bool(self._prefix)

    @property
    def filled(self) -> int:
        """Bytes that came of the message that is not whole."""
        return self._filled

    def fills(self, payload: memoryview) -> bool:
        """Takes bytes that belong to a message which they do not end: most frames of a large one.
        False: `feed` is to read them."""
        message, size = self._message, len(payload)
        if message is None or size >= len(message) - self._filled:
            return False
        message[self._filled : self._filled + size] = payload
        self._filled += size
        return True

    def feed(self, payload: memoryview, admit: Callable[[int], None]) -> list[tuple[bool, Piece]]:
        """The messages that are whole with these bytes, each with whether it is compressed. They
        are their own memory. `admit(size)` hears of each message before its bytes are read. Raises
        InvalidRequest for a prefix that is none, and what `admit` raises."""
        whole: list[tuple[bool, Piece]] = []
        at, end = 0, len(payload)
        while at < end:
            message = self._message
            if message is None:
                begun = self._prefix + bytes(payload[at : at + PREFIX_BYTES - len(self._prefix)])
                at += len(begun) - len(self._prefix)
                if len(begun) < PREFIX_BYTES:
                    self._prefix = begun
                    return whole
                self._prefix = b""
                flag, size = begun[0], int.from_bytes(begun[1:], "big")
                if flag > 1:
                    raise InvalidRequest(
                        f"expected 0 or 1 as the first byte of a message, got {flag}"
                    )
                admit(size)
                if size <= end - at and size <= WHOLE_BODY_BYTES:
                    whole.append((flag == 1, bytes(payload[at : at + size])))
                    at += size
                    continue
                self._is_compressed = flag == 1
                # Tensors stand at the end: their data is aligned, and one alone need not be copied.
                spare = -size % _ALIGNMENT
                self._message = message = np.empty(size + spare, np.uint8)[spare:].data
                self._filled = 0
            part = min(len(message) - self._filled, end - at)
            message[self._filled : self._filled + part] = payload[at : at + part]
            self._filled += part
            at += part
            if self._filled == len(message):
                self._message = None
                self._filled = 0
                whole.append((self._is_compressed, message))
        return whole
