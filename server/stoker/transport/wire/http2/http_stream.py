"""HTTP requests over HTTP/2: the same handler as over HTTP/1.1, a stream for each request.

A body whose length is known is admitted whole, by the handler's limit and the server's budget, or
refused before it comes; then its stream's window is widened to it. One of unknown length is
reserved as it comes. Hot path.  Source: RFC 9113, section 8.1; RFC 9110, section 9.3.2 (HEAD).
"""

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from stoker.errors import ServingError, TooLarge
from stoker.inference import Cancel
from stoker.transport.wire.arrival import ArrivedHead, WireObserver
from stoker.transport.wire.http2 import answer_fields
from stoker.transport.wire.http2.frames import ErrorCode
from stoker.transport.wire.http2.hpack import Field
from stoker.transport.wire.http2.request_fields import Http2Head, with_fresh
from stoker.transport.wire.http2.session import Session
from stoker.transport.wire.http2.stream import Opening, Stream
from stoker.transport.wire.limits import (
    BODY_GRACE_S,
    STREAM_WINDOW,
    WHOLE_BODY_BYTES,
    BufferBudget,
    body_rate,
)
from stoker.transport.wire.message import (
    Handler,
    HttpRequest,
    HttpResponse,
    Piece,
    RequestHead,
    error_response,
)
from stoker.transport.wire.peer import Peer
from stoker.transport.wire.problems import HttpError, Problem

_CONTINUE: Final = answer_fields.head(100)
_date: Final = answer_fields.Date()
_REMEMBERED: Final = 512
"""Heads that are kept: statuses by answer forms. At the limit all are forgotten."""
_heads: dict[tuple[int, tuple[tuple[str, str], ...]], bytes] = {}


class HttpRequests:
    """Serves all requests by one handler. Implements `Requests`."""

    def __init__(
        self,
        handler: Handler,
        budget: BufferBudget,
        *,
        on_refused: Callable[[ServingError | HttpError], None],
        observer: WireObserver | None = None,
    ) -> None:
        """`on_refused` hears of each request that is refused before the handler sees it. With an
        `observer` the handler gets those that somebody wants to know of, with heads that say when
        they came (`ArrivedHead`)."""
        self.handler = handler
        self.budget = budget
        self.on_refused = on_refused
        self.observer = observer
        self.plain = self
        """What serves those that nobody wants to know of."""
        if observer is not None:
            self.plain = HttpRequests(observer.plain, budget, on_refused=on_refused)

    def opening(self, head: Http2Head) -> Opening:
        """Implements `Requests`."""
        if self.observer is None:
            return _Opening(self, head)
        return _ObservedOpening(self, head, self.observer)

    def refusal(self, error: HttpError) -> Opening:
        """Implements `Requests`."""
        return _Refusal(self, error)

    def malformed(self, message: str) -> None:
        """Implements `Requests`."""
        self.on_refused(HttpError(Problem.MALFORMED, message))

    def refused(
        self, error: ServingError | HttpError, head: RequestHead | None, peer: Peer
    ) -> None:
        """A request is refused before the handler sees it."""
        self.on_refused(error)
        if self.observer is not None:
            self.observer.refused(error, head, peer, protocol_version="2")


class _Opening:
    """A request by its head."""

    __slots__ = ("_head", "_requests")

    def __init__(self, requests: HttpRequests, head: Http2Head) -> None:
        self._requests = requests
        self._head = head

    def open(self, session: Session, number: int) -> Stream:
        if "expect" in self._head.request.headers:
            session.interim(number, _CONTINUE)
        return HttpStream(session, number, self._requests, self._head)

    def varied(self, fresh: list[Field]) -> Opening:
        return _Opening(self._requests, with_fresh(self._head, fresh))


class _ObservedOpening(_Opening):
    """A request by its head, of which somebody may want to know."""

    __slots__ = ("_observer", "_parent", "_plain", "_state")

    def __init__(self, requests: HttpRequests, head: Http2Head, observer: WireObserver) -> None:
        super().__init__(requests, head)
        self._observer = observer
        self._plain = _Opening(requests.plain, head)
        headers = head.request.headers
        self._parent = headers.get("traceparent", "")
        self._state = headers.get("tracestate", "")

    def open(self, session: Session, number: int) -> Stream:
        observer = self._observer
        span = observer.sample(self._parent, self._state)
        if span is None and not observer.looks_at_all:
            return self._plain.open(session, number)
        head = self._head
        request = ArrivedHead(head.request, time.monotonic(), session.peer, span)
        return _Opening(self._requests, Http2Head(request, head.content_length)).open(
            session, number
        )

    def varied(self, fresh: list[Field]) -> Opening:
        return _ObservedOpening(self._requests, with_fresh(self._head, fresh), self._observer)


class _Refusal:
    """A request that is answered with an error, whatever it was. One stands for all requests whose
    heads are alike, each of which counts."""

    __slots__ = ("_error", "_requests")

    def __init__(self, requests: HttpRequests, error: HttpError) -> None:
        self._requests = requests
        self._error = error

    def open(self, session: Session, number: int) -> Stream:
        self._requests.refused(self._error, None, session.peer)
        return RefusedStream(session, number, error_response(self._error))

    def varied(self, fresh: list[Field]) -> Opening:
        return self


class RefusedStream(Stream):
    """Answers at once when it may, and drops the body."""

    def __init__(self, session: Session, number: int, response: HttpResponse) -> None:
        super().__init__(session, number)
        self._response = response

    def data(self, payload: memoryview) -> None:
        """The first part of the body: nobody wants more of it."""
        answer(self, self._response)

    def ended(self) -> None:
        """There is no body."""
        answer(self, self._response)

    def lost(self, code: ErrorCode) -> None:
        """It was to be answered with an error: so be it."""

    def refuse(self, error: ServingError | HttpError) -> None:
        """Implements `Stream`: its own error says more."""
        answer(self, self._response)

    def is_slow(self, seconds: int) -> bool:
        """Implements `Stream`: it has waited for a body."""
        return seconds > BODY_GRACE_S


class HttpStream(Stream):
    """One request."""

    def __init__(
        self, session: Session, number: int, requests: HttpRequests, head: Http2Head
    ) -> None:
        super().__init__(session, number)
        self._requests = requests
        self._head = head
        self._body: Piece | bytearray | None = None
        """None before its first byte: nothing is admitted."""
        self._filled = 0
        self._reserved = 0
        self._is_answered = False
        self._is_handed = False
        """The handler has the request."""
        self._cancel: Cancel | None = None
        if head.content_length is not None:
            self.body_left = head.content_length

    def data(self, payload: memoryview) -> None:
        """A part of the body."""
        size = len(payload)
        length = self._head.content_length
        begin = self._filled
        self._filled = end = begin + size
        try:
            if length is None:
                self._admit(size, end, "or more")
                if self._body is None:
                    self._body = bytearray()
                self.session.widen(self, size)
            elif self._body is None:
                self._admit(length, length)
                if size == length <= WHOLE_BODY_BYTES:
                    self._body = bytes(payload)
                    return
                self._body = np.empty(length, np.uint8).data
                self.session.widen(self, length - STREAM_WINDOW)
        except (ServingError, HttpError) as error:
            self._requests.refused(error, self._head.request, self.session.peer)
            self._answer(error_response(error))
            return
        body = self._body
        if isinstance(body, bytearray):
            body += payload
        elif isinstance(body, memoryview):
            body[begin:end] = payload

    def ended(self) -> None:
        """The request is whole."""
        self._is_handed = True
        body, self._body = self._body, None
        if body is None:
            body = b""
        elif isinstance(body, bytearray):
            body = bytes(body) if len(body) <= WHOLE_BODY_BYTES else memoryview(body)
        request = HttpRequest(self._head.request, body)
        cancel = self._requests.handler.handle(request, self._answer)
        if not self._is_answered:
            self._cancel = cancel

    def lost(self, code: ErrorCode) -> None:
        """Nobody waits for the answer. What is reserved for a whole request is given back when the
        handler has answered."""
        self._body = None
        if self._cancel is not None:
            self._cancel()
        elif not self._is_handed:
            self._release()

    def refuse(self, error: ServingError | HttpError) -> None:
        """Implements `Stream`."""
        if self._is_answered:
            return
        cancel = self._cancel
        if not self._is_handed:
            self._requests.refused(error, self._head.request, self.session.peer)
        self._answer(error_response(error))
        if cancel is not None:
            cancel()

    def is_slow(self, seconds: int) -> bool:
        """Implements `Stream`."""
        return self._filled < (seconds - BODY_GRACE_S) * body_rate(self._reserved)

    def _admit(self, size: int, total: int, or_more: str = "") -> None:
        """Reserves `size` bytes of a body that has `total`. Raises what refuses them."""
        if total > WHOLE_BODY_BYTES:
            limit = self._requests.handler.body_limit(self._head.request)
            if total > limit:
                raise TooLarge(
                    f"expected a body of at most {limit} bytes, got {total} {or_more}".rstrip()
                )
        self._requests.budget.reserve(size)
        self._reserved += size

    def _answer(self, response: HttpResponse) -> None:
        """Takes the request's one answer."""
        if self._is_answered:  # it was refused while the handler worked
            if response.lease is not None:
                response.lease.release()
            return
        self._is_answered = True
        self._cancel = None
        self._release()
        answer(self, response, without_body=self._head.request.method == "HEAD")

    def _release(self) -> None:
        self._requests.budget.release(self._reserved)
        self._reserved = 0


def answer(stream: Stream, response: HttpResponse, *, without_body: bool = False) -> None:
    """Sends a whole answer."""
    key = (response.status, response.headers)
    head = _heads.get(key)
    if head is None:
        if len(_heads) >= _REMEMBERED:
            _heads.clear()
        head = _heads[key] = answer_fields.head(*key)
    size = response.size
    block = b"%b%b%b" % (head, answer_fields.content_length(size), _date.field())
    pieces = () if without_body else response.pieces
    stream.session.answer(stream, block, pieces, 0 if without_body else size, lease=response.lease)
