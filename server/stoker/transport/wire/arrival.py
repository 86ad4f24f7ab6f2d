"""What the wire tells of calls where somebody looks at them: who is connected, when one began.

Without an observer none of this is used: a connection decides when it is made, and a head of HTTP/2
when it is first seen, so that no request is asked about. With one, each request is: of most nobody
wants to know. Implemented by `rest/observed.py`.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from stoker.errors import ServingError
from stoker.inference import Cancel
from stoker.telemetry.observation import SpanIdentity
from stoker.transport.wire.message import Answer, Handler, HttpRequest, RequestHead
from stoker.transport.wire.peer import Peer
from stoker.transport.wire.problems import HttpError

Handle: TypeAlias = Callable[[HttpRequest, Answer], Cancel | None]
"""`Handler.handle`."""


class ArrivedHead(RequestHead):
    """The head of one request of HTTP/2 that somebody wants to know of, with what is known of its
    arrival."""

    __slots__ = ("arrived", "original", "peer", "span")

    def __init__(
        self, original: RequestHead, arrived: float, peer: Peer, span: SpanIdentity | None
    ) -> None:
        super().__init__(original.method, original.path, original.headers)
        self.original = original
        """The head that is remembered, of all requests that are alike."""
        self.arrived = arrived
        """time.monotonic() seconds."""
        self.peer = peer
        self.span = span
        """None: it is not traced."""


class WireObserver(Protocol):
    """Who looks. On the loop."""

    plain: Handler
    """Handles the requests that nobody wants to know of."""
    sample: Callable[[str, str], SpanIdentity | None]
    looks_at_all: bool
    """See `telemetry.observer.Observer`."""

    def connection(self, peer: Peer, began: Callable[[], float | None]) -> Handle:
        """What handles the requests of a connection of HTTP/1. `began` says, while one is handled,
        when its first bytes came (`time.monotonic()` seconds); None: all of it came just now."""

    def refused(
        self,
        error: ServingError | HttpError,
        head: RequestHead | None,
        peer: Peer,
        *,
        protocol_version: str,
    ) -> None:
        """A request was refused before its handler saw it; None: not even its head was read. Of
        HTTP/2 only one with an `ArrivedHead` was asked about."""
