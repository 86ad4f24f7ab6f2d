"""What the head of an inference call says of its body and its answer.

A function of the head alone, so it is kept with heads that come again: the third step of a request,
behind the wire and the router, is nothing then. The codec keeps the layout of the last body there:
who sends the same head again mostly sends such a body again.  Hot path.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from stoker.transport.rest.binary import json_size
from stoker.transport.rest.codec import KnownBody
from stoker.transport.rest.compression import request_coding, response_coding
from stoker.transport.rest.router import Route


@dataclass(slots=True)
class CallHead:
    """The head of an inference call. Nobody changes it but for `body`."""

    route: Route
    json_size: int | None
    """Bytes of JSON at the body's start; None: all of it."""
    coding: str | None
    """That the body is compressed in."""
    answer_coding: str | None
    """That the client would have the answer in."""
    body: KnownBody | None = None
    """The layout of the last body that came with this head, where neither it nor its answer is
    compressed."""


def read_call_head(route: Route, headers: Mapping[str, str]) -> CallHead:
    """The head. Raises InvalidRequest and HttpError."""
    accepted = headers.get("accept-encoding")
    return CallHead(
        route,
        json_size(headers),
        request_coding(headers.get("content-encoding")),
        None if accepted is None else response_coding(accepted),
    )
