"""gzip and deflate of whole messages and bodies, both ways, in steps. `deflate` is the zlib format
(RFC 1950).

Large ones are worked on in a thread: zlib lets go of the GIL. Nothing here knows what they hold, or
which protocol they came by.
"""

import zlib
from collections.abc import Iterable
from typing import Final

from stoker.errors import InvalidRequest, TooLarge
from stoker.transport.steps import Steps, run_through
from stoker.transport.wire.limits import WHOLE_BODY_BYTES
from stoker.transport.wire.message import Piece

RESERVED_BYTES: Final = 1 << 20
"""What a body that is inflated reserves at a time: one question to the loop for 3 ms of work, and
a body that does not fit is refused when it is at most so much too large."""

INLINE_BYTES: Final = 256 << 10
"""A body that is no larger when inflated is inflated on the loop: at most 1 ms."""
_INLINE_COMPRESSED_BYTES: Final = 16 << 10
"""Larger ones rarely inflate to so little, and trying costs the loop what the thread does again."""

_FEED_BYTES: Final = 64 << 10
"""Compressed bytes of a step: zlib copies what it did not use of them with each call."""
_STEP_BYTES: Final = 256 << 10
"""Plain bytes of a step: about 1 ms of inflating, 3 ms of compressing."""

_LEVEL: Final = 1
"""Tensors hardly shrink; higher levels take three to ten times as long for a few per cent."""

WINDOW: Final = {"gzip": 31, "deflate": 15}
"""The codings, and what zlib calls them."""


def inflate(body: Piece, coding: str, limit: int) -> Piece:
    """The plain body, at once. Raises as `inflate_in_steps`."""
    return run_through(inflate_in_steps(body, coding, limit))


def inflate_small(body: Piece, coding: str, limit: int) -> Piece | None:
    """The plain body, at once, of a small one; None for others. Raises as `inflate_in_steps`."""
    if len(body) > _INLINE_COMPRESSED_BYTES:
        return None
    try:
        return inflate(body, coding, min(limit, INLINE_BYTES))
    except TooLarge:
        if limit <= INLINE_BYTES:
            raise
        return None


def inflate_in_steps(body: Piece, coding: str, limit: int) -> Steps[Piece]:
    """The plain body; what it takes is wanted before it is there, RESERVED_BYTES at a time.

    A gzip body may have several members (RFC 1952, 2.2), which are put together. Raises TooLarge
    once it is over `limit`, InvalidRequest if malformed.
    """
    compressed_view, at = memoryview(body), 0
    plain = bytearray()
    stream = zlib.decompressobj(WINDOW[coding])
    feed: Piece = b""
    room = 0
    while True:
        if not feed:
            feed = compressed_view[at : at + _FEED_BYTES]
            at += len(feed)
        is_last = not feed
        if not room:
            room = min(RESERVED_BYTES, limit - len(plain))
            if room:
                yield room
            else:
                room = 1  # shows whether it is over the limit
        try:
            piece = stream.decompress(feed, min(room, _STEP_BYTES))
        except zlib.error as error:
            raise InvalidRequest(
                f"expected a body of {coding} data, got one with: {error}"
            ) from error
        plain += piece
        room -= len(piece)
        if len(plain) > limit:
            raise TooLarge(f"expected a body of at most {limit} bytes when decompressed, got more")
        if not stream.eof:
            if is_last and not piece:
                raise _not_whole(coding, "a part of one")
            feed = stream.unconsumed_tail
        else:
            feed = stream.unused_data
            if not feed and at == len(compressed_view):
                return bytes(plain) if len(plain) <= WHOLE_BODY_BYTES else memoryview(plain)
            if coding != "gzip":
                raise _not_whole(coding, "bytes behind it")
            stream = zlib.decompressobj(WINDOW[coding])
        yield 0


def _not_whole(coding: str, got: str) -> InvalidRequest:
    return InvalidRequest(f"expected a body of one whole {coding} stream, got {got}")


def deflate_in_steps(pieces: Iterable[Piece], coding: str) -> Steps[tuple[bytes, ...]]:
    """The pieces' bytes, compressed: copies, whatever becomes of the pieces."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, WINDOW[coding])
    compressed: list[bytes] = []
    for piece in pieces:
        view = memoryview(piece)
        for at in range(0, len(view), _STEP_BYTES):
            compressed.append(stream.compress(view[at : at + _STEP_BYTES]))
            yield 0
    compressed.append(stream.flush())
    return tuple([piece for piece in compressed if piece])
