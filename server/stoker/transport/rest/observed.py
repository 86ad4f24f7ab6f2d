"""Calls of HTTP where somebody looks at them: each has an observation from its arrival to the end
of its answer.

Stands before the REST service while tracing or the access log is on, and asks of each request
before anything is made: one that nobody wants to know of is handled as without an observer.
Questions about health are not observed: they are a probe's, every few seconds. Implements `Handler`
for HTTP/2 and `WireObserver`.
Source: W3C Trace Context (`traceparent`, `tracestate`).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from stoker.errors import ServingError
from stoker.inference import Cancel
from stoker.telemetry.observation import Caller, Observation, SpanIdentity, current
from stoker.telemetry.observer import Observer
from stoker.transport.answer_end import AnswerEnd
from stoker.transport.rest.call_head import CallHead
from stoker.transport.rest.router import Endpoint, Route, resolve
from stoker.transport.wire.arrival import ArrivedHead, Handle
from stoker.transport.wire.message import (
    NO_HEADERS,
    Answer,
    FailedResponse,
    Handler,
    HttpRequest,
    HttpResponse,
    RequestHead,
    error_response,
)
from stoker.transport.wire.peer import Peer
from stoker.transport.wire.problems import HttpError

_OF_PROBES: Final = frozenset((Endpoint.SERVER_LIVE, Endpoint.SERVER_READY, Endpoint.MODEL_READY))
_NO_HEAD: Final = RequestHead("", "", NO_HEADERS)
_ROUTE: Final = "/v2/models/{model}/infer"
_ROUTE_OF_VERSION: Final = "/v2/models/{model}/versions/{version}/infer"


class _HttpArrival:
    """How a request came. Implements `Arrival`."""

    __slots__ = ("_head", "_peer", "_protocol_version", "_route")

    def __init__(
        self, head: RequestHead, peer: Peer, protocol_version: str, route: Route | None
    ) -> None:
        self._head = head
        self._peer = peer
        self._protocol_version = protocol_version
        self._route = route

    def describe(self) -> Caller:
        """Implements `Arrival`."""
        head, peer = self._head, self._peer
        return Caller(
            is_grpc=False,
            method=head.method,
            path=head.path,
            route=_template(self._route),
            peer=peer.address,
            scheme=peer.scheme,
            protocol_version=self._protocol_version,
            request_id=head.headers.get("x-request-id", ""),
            traceparent=head.headers.get("traceparent", ""),
        )


class ObservedHttp:
    """See the module's docstring."""

    def __init__(self, plain: Handler, handler: Handler, observer: Observer) -> None:
        """`handler` handles what somebody wants to know of: as `plain` does, over an
        `ObservedEngine`."""
        self.plain = plain
        self.sample = observer.sample
        self.looks_at_all = observer.looks_at_all
        self._handler = handler
        self._observer = observer

    def body_limit(self, head: RequestHead) -> int:
        """See `Handler`."""
        return self._handler.body_limit(head)

    def handle(self, request: HttpRequest, answer: Answer) -> Cancel | None:
        """See `Handler`: a request of HTTP/2."""
        head = request.head
        if not isinstance(head, ArrivedHead):
            return self.plain.handle(request, answer)
        plain = HttpRequest(head.original, request.body)
        return self._observed(plain, answer, head.peer, head.arrived, "2", head.span)

    def connection(self, peer: Peer, began: Callable[[], float | None]) -> Handle:
        """See `WireObserver`."""
        sample, looks_at_all, plain = self.sample, self.looks_at_all, self.plain.handle

        def handle(request: HttpRequest, answer: Answer) -> Cancel | None:
            headers = request.head.headers
            parent = headers.get("traceparent")
            span = sample("", "") if parent is None else sample(parent, _state(headers))
            if span is None and not looks_at_all:
                return plain(request, answer)
            now = self._observer.clock()
            arrived = began()
            # Connections keep the loop's time, which is that of the turn's begin, in milliseconds.
            arrived = now if arrived is None else min(arrived, now)
            return self._observed(request, answer, peer, arrived, "1.1", span)

        return handle

    def refused(
        self,
        error: ServingError | HttpError,
        head: RequestHead | None,
        peer: Peer,
        *,
        protocol_version: str,
    ) -> None:
        """See `WireObserver`."""
        asked, now = head or _NO_HEAD, self._observer.clock()
        if isinstance(asked, ArrivedHead):
            span = asked.span
        else:
            span = self.sample(asked.headers.get("traceparent", ""), _state(asked.headers))
        if span is None and not self.looks_at_all:
            return
        observation = Observation(_HttpArrival(asked, peer, protocol_version, None), now, 0, span)
        _note(observation, error_response(error))
        self._observer.end(observation)

    def _observed(
        self,
        request: HttpRequest,
        answer: Answer,
        peer: Peer,
        arrived: float,
        protocol_version: str,
        span: SpanIdentity | None,
    ) -> Cancel | None:
        head = request.head
        known = head.meaning
        route = known.route if isinstance(known, CallHead) else _route_of(head)
        if route is not None and route.endpoint in _OF_PROBES:
            return self.plain.handle(request, answer)
        arrival = _HttpArrival(head, peer, protocol_version, route)
        observation = Observation(arrival, arrived, len(request.body), span)
        token = current.set(observation)
        try:
            return self._handler.handle(request, partial(self._answered, observation, answer))
        finally:
            current.reset(token)

    def _answered(self, observation: Observation, answer: Answer, response: HttpResponse) -> None:
        """The call's answer is ready. A span ends when its bytes have left, which the lease of an
        answer says; the access log does not wait for that."""
        _note(observation, response)
        if observation.span is None:
            answer(response)
            self._observer.end(observation)
            return
        lease = AnswerEnd(response.lease, self._observer, observation)
        answer(HttpResponse(response.status, response.headers, response.pieces, lease))


def _note(observation: Observation, response: HttpResponse) -> None:
    observation.status = response.status
    observation.bytes_out = response.size
    if isinstance(response, FailedResponse):
        observation.code = response.code


def _state(headers: Mapping[str, str]) -> str:
    return headers.get("tracestate", "")


def _route_of(head: RequestHead) -> Route | None:
    """None for a path that is not served, which the handler says."""
    try:
        return resolve(head.method, head.path)
    except (ServingError, HttpError):
        return None


def _template(route: Route | None) -> str:
    if route is None or route.endpoint is not Endpoint.INFER:
        return ""
    return _ROUTE_OF_VERSION if route.version else _ROUTE
