"""What a REST body's Content-Encoding and Accept-Encoding ask for, and answers in a coding.

The work itself is in `transport/coding.py`.
"""

from functools import lru_cache
from typing import Final

from stoker.transport.coding import WINDOW, deflate_in_steps
from stoker.transport.steps import Steps, run_through
from stoker.transport.wire.message import HttpResponse
from stoker.transport.wire.problems import HttpError, Problem

COMPRESS_FROM_BYTES: Final = 64 << 10
"""Smaller answers are sent plain: generic clients offer gzip with every call, and 64 KiB take 1 ms
to compress and less to send."""

_NAMES: Final = ("gzip", "deflate", "identity")


def request_coding(text: str | None) -> str | None:
    """The coding of a body by its Content-Encoding; None if it is plain. Raises HttpError (415)."""
    if text is None:
        return None
    coding = text.strip().lower()
    if coding in ("", "identity"):
        return None
    if coding not in WINDOW:
        raise HttpError(
            Problem.UNSUPPORTED_MEDIA,
            f"expected content-encoding gzip, deflate or identity, got '{text[:64]}'",
            (("Accept-Encoding", "gzip, deflate"),),
        )
    return coding


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
    pieces = yield from deflate_in_steps(response.pieces, coding)
    return HttpResponse(response.status, (*response.headers, ("Content-Encoding", coding)), pieces)
