"""gzip and deflate of whole bodies, both ways, in steps. `deflate` is the zlib format (RFC 1950).

The service takes the steps in a thread: zlib lets go of the GIL. Nothing here knows what a body
holds.
"""

import zlib
from functools import lru_cache
from typing import Final

from stoker.errors import InvalidRequest, TooLarge
from stoker.transport.rest.steps import Steps, run_through
from stoker.transport.wire.limits import WHOLE_BODY_BYTES
from stoker.transport.wire.message import HttpResponse, Piece
from stoker.transport.wire.problems import HttpError, Problem

COMPRESS_FROM_BYTES: Final = 64 << 10
"""Smaller answers are sent plain: generic clients offer gzip with every call, and 64 KiB take 1 ms
to compress and less to send."""

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

_WINDOW: Final = {"gzip": 31, "deflate": 15}
_NAMES: Final = ("gzip", "deflate", "identity")


def request_coding(text: str | None) -> str | None:
    """The coding of a body by its Content-Encoding; None if it is plain. Raises HttpError (415)."""
    if text is None:
        return None
    coding = text.strip().lower()
    if coding in ("", "identity"):
        return None
    if coding not in _WINDOW:
        raise HttpError(
            Problem.CONTENT_ENCODING,
            f"expected content-encoding gzip, deflate or identity, got '{text[:64]}'",
            (("Accept-Encoding", "gzip, deflate"),),
        )
    return coding


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
    stream = zlib.decompressobj(_WINDOW[coding])
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
            stream = zlib.decompressobj(_WINDOW[coding])
        yield 0


def _not_whole(coding: str, got: str) -> InvalidRequest:
    return InvalidRequest(f"expected a body of one whole {coding} stream, got {got}")


@lru_cache(maxsize=64)
def response_coding(accept: str) -> str | None:
    """What an Accept-Encoding asks for: the heaviest of the names we know, the first of equals."""
    best, weight = None, 0.0
    for choice in accept.lower().split(","):
        name, _, parameter = (part.strip() for part in choice.partition(";"))
        if name not in _NAMES:
            continue
        quality = 1.0
        if parameter.startswith("q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                continue
        if quality > weight:
            best, weight = name, quality
    return None if best == "identity" else best


def compressed(response: HttpResponse, coding: str) -> HttpResponse:
    """The same answer, compressed at once. Its bytes are copies: the caller releases the lease."""
    return run_through(compress_in_steps(response, coding))


def compress_in_steps(response: HttpResponse, coding: str) -> Steps[HttpResponse]:
    """`compressed`, in steps."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[coding])
    pieces: list[Piece] = []
    for piece in response.pieces:
        view = memoryview(piece)
        for at in range(0, len(view), _STEP_BYTES):
            pieces.append(stream.compress(view[at : at + _STEP_BYTES]))
            yield 0
    pieces.append(stream.flush())
    return HttpResponse(
        response.status,
        (*response.headers, ("Content-Encoding", coding)),
        tuple(piece for piece in pieces if piece),
    )
