"""Calls of HTTP where somebody looks at them: each has an observation from its arrival to the end
of its answer.

Stands before the REST service while tracing or the access log is on. Questions about health are not
observed: they are a probe's, every few seconds. Implements `Handler` for HTTP/2 and `WireObserver`.
Source: W3C Trace Context (`traceparent`, `tracestate`).
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from stoker.errors import ServingError
from stoker.inference import Cancel
from stoker.telemetry.observation import Caller, Observation, current
from stoker.telemetry.observer import Observer
from stoker.transport.answer_end import AnswerEnd
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
_ROUTE: Final = "/v2/models/{model}/infer"
_ROUTE_OF_VERSION: Final = "/v2/models/{model}/versions/{version}/infer"


class ObservedHttp:
    """See the module's docstring."""

    def __init__(self, handler: Handler, observer: Observer) -> None:
        self._handler = handler
        self._observer = observer

    def body_limit(self, head: RequestHead) -> int:
        """See `Handler`."""
        return self._handler.body_limit(head)

    def handle(self, request: HttpRequest, answer: Answer) -> Cancel | None:
        """See `Handler`: a request of HTTP/2."""
        head = request.head
        if not isinstance(head, ArrivedHead):
            return self._handler.handle(request, answer)
        plain = HttpRequest(head.original, request.body)
        return self._observed(plain, answer, head.peer, head.arrived, "2")

    def connection(self, peer: Peer, began: Callable[[], float | None]) -> Handle:
        """See `WireObserver`."""

        def handle(request: HttpRequest, answer: Answer) -> Cancel | None:
            now = self._observer.clock()
            arrived = began()
            # Connections keep the loop's time, which is that of the turn's begin, in milliseconds.
            return self._observed(
                request, answer, peer, now if arrived is None else min(arrived, now), "1.1"
            )

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
        asked = head or RequestHead("", "", NO_HEADERS)
        now = self._observer.clock()
        observation = self._begin(asked, peer, now, protocol_version, 0, None)
        if observation is not None:
            response = error_response(error)
            _note(observation, response)
            self._observer.end(observation)

    def _observed(
        self,
        request: HttpRequest,
        answer: Answer,
        peer: Peer,
        arrived: float,
        protocol_version: str,
    ) -> Cancel | None:
        head = request.head
        route = _route_of(head)
        if route is not None and route.endpoint in _OF_PROBES:
            return self._handler.handle(request, answer)
        observation = self._begin(head, peer, arrived, protocol_version, len(request.body), route)
        if observation is not None:
            answer = partial(self._answered, observation, answer)
        # None as well: this may run in a turn of the loop that a call before it has asked for, and
        # such turns have that call's context.
        token = current.set(observation)
        try:
            return self._handler.handle(request, answer)
        finally:
            current.reset(token)

    def _begin(
        self,
        head: RequestHead,
        peer: Peer,
        arrived: float,
        protocol_version: str,
        bytes_in: int,
        route: Route | None,
    ) -> Observation | None:
        headers = head.headers
        caller = Caller(
            is_grpc=False,
            method=head.method,
            path=head.path,
            route=_template(route),
            peer=peer.address,
            scheme=peer.scheme,
            protocol_version=protocol_version,
            request_id=headers.get("x-request-id", ""),
            traceparent=headers.get("traceparent", ""),
        )
        return self._observer.begin(caller, headers.get("tracestate", ""), arrived, bytes_in)

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
