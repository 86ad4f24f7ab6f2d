"""The management port: probes of the kubelet and the scrape of Prometheus. GET and HEAD only.

What the answers are, `app.py` says by the four callables; nothing here knows a model. Probes must
answer in the first loop turn, so they only read what is known. `/metrics` may answer later: the
text is rendered a few models per loop turn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import orjson

from stoker.errors import ServingError
from stoker.inference import Cancel
from stoker.model import Readiness
from stoker.transport.wire.message import (
    JSON,
    Answer,
    HttpRequest,
    HttpResponse,
    RequestHead,
    error_response,
)
from stoker.transport.wire.problems import NOT_READY, OK, HttpError, Problem

Probe: TypeAlias = Callable[[], Readiness]
"""Answers at once; the reasons of a "no" are told in the body."""

Scraped: TypeAlias = tuple[str, tuple[bytes, ...]]
"""The content type, and the text in pieces."""

GiveMetrics: TypeAlias = Callable[[Scraped | ServingError], None]
"""Takes the text, or why there is none. Called on the loop, once."""

Metrics: TypeAlias = Callable[[str, GiveMetrics], None]
"""Takes the request's Accept header and gives the text, now or in a later loop turn."""

_MAX_BODY: Final = 0
_METHODS: Final = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class ManagementEndpoints:
    """A `Handler` of the management port."""

    probes: dict[str, Probe]
    metrics: Metrics

    def body_limit(self, head: RequestHead) -> int:
        """Nothing here takes a body."""
        return _MAX_BODY

    def handle(self, request: HttpRequest, answer: Answer) -> Cancel | None:
        """See `Handler`."""
        head = request.head
        path = head.path.removesuffix("/")
        probe = self.probes.get(path)
        if probe is None and path != "/metrics":
            known = ", ".join((*self.probes, "/metrics"))
            answer(_error(Problem.NO_SUCH_PATH, f"expected one of {known}, got '{head.path}'"))
        elif head.method not in _METHODS:
            answer(
                _error(
                    Problem.METHOD_NOT_ALLOWED,
                    f"expected method GET or HEAD, got {head.method}",
                    (("Allow", ", ".join(_METHODS)),),
                )
            )
        elif probe is None:
            self.metrics(head.headers.get("accept", ""), lambda given: answer(_scraped(given)))
        else:
            answer(_probed(probe()))
        return None


def _scraped(given: Scraped | ServingError) -> HttpResponse:
    if isinstance(given, ServingError):
        return error_response(given)
    content_type, pieces = given
    return HttpResponse(OK, (("Content-Type", content_type),), pieces)


def _probed(state: Readiness) -> HttpResponse:
    said: dict[str, object] = {"ok": state.ready}
    if not state.ready:
        said["error"] = "; ".join(state.reasons) or "not ready"
        said["reasons"] = state.reasons
    if state.details:
        said["details"] = state.details
    return HttpResponse(OK if state.ready else NOT_READY, JSON, (orjson.dumps(said),))


def _error(
    problem: Problem, message: str, headers: tuple[tuple[str, str], ...] = ()
) -> HttpResponse:
    return error_response(HttpError(problem, message, headers))


def management_handler(
    *, live: Probe, ready: Probe, started: Probe, metrics: Metrics
) -> ManagementEndpoints:
    """The `Handler` of the management port."""
    return ManagementEndpoints({"/livez": live, "/readyz": ready, "/startupz": started}, metrics)
