"""gzip and deflate of whole bodies, both ways. `deflate` is the zlib format (RFC 1950).

The service calls it in a thread: zlib lets go of the GIL. Nothing here knows what a body holds.
"""

import zlib
from functools import lru_cache
from typing import Final

from stoker.errors import InvalidRequest, TooLarge
from stoker.transport.wire.message import HttpResponse, Piece
from stoker.transport.wire.problems import HttpError, Problem

COMPRESS_FROM_BYTES: Final = 64 << 10
"""Smaller answers are sent plain: generic clients offer gzip with every call, and 64 KiB take 1 ms
to compress and less to send."""

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


def inflate(body: bytes | memoryview, coding: str, limit: int) -> bytes:
    """The plain body. Raises TooLarge once it is over `limit`, InvalidRequest if malformed."""
    stream = zlib.decompressobj(_WINDOW[coding])
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidRequest(f"expected a body of {coding} data, got one with: {error}") from error
    if len(plain) > limit:
        raise TooLarge(f"expected a body of at most {limit} bytes when decompressed, got more")
    if not stream.eof or stream.unused_data:
        raise InvalidRequest(
            f"expected a body of one whole {coding} stream, got "
            + ("bytes behind it" if stream.eof else "a part of one")
        )
    return plain


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
    """The same answer, compressed. Its bytes are copies: the caller releases the lease."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[coding])
    pieces: list[Piece] = [stream.compress(piece) for piece in response.pieces]
    pieces.append(stream.flush())
    return HttpResponse(
        response.status,
        (*response.headers, ("Content-Encoding", coding)),
        tuple(piece for piece in pieces if piece),
    )
