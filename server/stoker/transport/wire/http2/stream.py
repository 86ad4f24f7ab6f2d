"""One request and its answer on an HTTP/2 connection, for the session and the protocols above it.

A stream is half closed by each side in turn:

    OPEN -> the peer ended -> CLOSED        requests are read whole before they are answered
    OPEN -> we ended       -> CLOSED        an early answer; what the peer still sends is dropped
    any  -> CLOSED                          reset by either side, or the connection is lost

`session.py` moves it between these; a protocol (REST, gRPC) derives from it and hears of bytes.
Hot path.  Source: RFC 9113, section 5.1.
"""

from typing import TYPE_CHECKING, Protocol

from stoker.errors import ServingError
from stoker.request import Lease
from stoker.transport.wire.http2.frames import ErrorCode
from stoker.transport.wire.http2.hpack import Field
from stoker.transport.wire.http2.request_fields import Http2Head
from stoker.transport.wire.limits import STREAM_WINDOW
from stoker.transport.wire.problems import HttpError

if TYPE_CHECKING:
    from stoker.transport.wire.http2.session import Session
    from stoker.transport.wire.outgoing import Outgoing


class Stream:
    """The base of what requests are. The session owns the fields."""

    # No __slots__, and defaults in the class: most streams never leave them, and setting
    # four fields takes less than setting twelve for each call.

    is_endless: bool = False
    """Only its client would end it: a server that goes away does not wait for it."""
    can_receive: bool = True
    """The peer has not ended its side."""
    body_left: int = -1
    """Bytes that content-length promises and that have not come; -1: it promised nothing."""
    receive_window: int = STREAM_WINDOW
    outgoing: "Outgoing | None" = None
    """What waits for the peer's window."""
    moved_at: int = 0
    """Since when what waits has waited, or the second in which the peer last took some of it."""
    trailers: bytes | None = None
    """The frame that ends our side, once it may follow what waits."""
    is_answered: bool = False
    """An answer has begun. Nothing that comes of the request matters any more: the session passes
    no data on, and drops a second answer."""
    charged: int = 0
    """Bytes of the answer that the budget holds until they have left."""
    lease: Lease | None = None
    """Of the memory that the answer's pieces are views of."""

    def __init__(self, session: "Session", number: int) -> None:
        self.session = session
        self.number = number
        self.opened_at = session.seconds
        """Of the session's whole seconds."""
        self.send_window = session.sending.peer_window

    def whole(self, view: memoryview, begin: int, end: int) -> None:
        """All of the body came at once, `view[begin:end]`, and ends. The view is valid during the
        call only."""
        self.data(view[begin:end])
        if self.session.holds(self):
            self.ended()

    def data(self, payload: memoryview) -> None:
        """Bytes of the body came. The view is valid during the call only."""
        raise NotImplementedError

    def ended(self) -> None:
        """The body is whole."""
        raise NotImplementedError

    def lost(self, code: ErrorCode) -> None:
        """The stream is over before its answer was sent: nobody waits for it. Whether the request
        was whole, or an answer had begun, the stream lets go of everything."""
        raise NotImplementedError

    def refuse(self, error: ServingError | HttpError) -> None:
        """Answers with this error now, whatever is under way."""
        raise NotImplementedError

    def is_slow(self, seconds: int) -> bool:
        """Whether a body came too slowly, `seconds` whole ones after its request began."""
        return False

    def sent(self) -> None:
        """Everything that waited has been sent, and the stream goes on."""


class Opening(Protocol):
    """What is known of a request by its head alone; remembered with the header block."""

    def open(self, session: "Session", number: int) -> Stream:
        """A stream for such a request."""

    def varied(self, fresh: list[Field]) -> "Opening":
        """Such a request with these fields besides, which are sound."""


class Requests(Protocol):
    """What the session asks who serves requests."""

    def opening(self, head: Http2Head) -> Opening:
        """How a request with this head is served."""

    def refusal(self, error: HttpError) -> Opening:
        """How a request is answered whose head is refused."""

    def malformed(self, message: str) -> None:
        """A stream was reset because its head is no request."""
