"""A request and an answer of HTTP, whatever its version, and the one who answers.

Connections of every HTTP version build `HttpRequest`s and send `HttpResponse`s; routers and codecs
see nothing else of HTTP. Hot path.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

from stoker.errors import ServingError
from stoker.inference import Cancel
from stoker.request import Lease
from stoker.transport.status import STATUS
from stoker.transport.wire.problems import HttpError

Headers: TypeAlias = tuple[tuple[str, str], ...]
Piece: TypeAlias = bytes | memoryview

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
JSON: Final[Headers] = (("Content-Type", "application/json"),)


@dataclass(slots=True)
class RequestHead:
    """What a request says of itself before its body. Nobody changes it but for `meaning`."""

    method: str
    path: str
    """As sent: percent-encoded, without query and fragment."""
    headers: Mapping[str, str]
    """Names in lower case; a repeated field's values are joined with `, `."""
    meaning: object = None
    """What the handler worked out from the rest, and nothing else: a head that is remembered serves
    many requests, of all ports."""


@dataclass(slots=True)
class HttpRequest:
    """One whole request. Nobody changes it; not frozen because it is built for each request.

    The body is the request's own memory: `bytes`, or a view of what was allocated for it alone.
    """

    head: RequestHead
    body: Piece


@dataclass(slots=True)
class HttpResponse:
    """One whole answer. Nobody changes it; not frozen because it is built for each request.

    With a lease, some pieces are views of memory that is used again after its release; whoever
    takes the response releases it once its bytes have left, or at once when it is dropped.
    """

    status: int
    headers: Headers
    pieces: tuple[Piece, ...]
    lease: Lease | None = None

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.pieces))


@dataclass(slots=True)
class FailedResponse(HttpResponse):
    """The answer of a request that failed."""

    code: str = ""
    """The error's code, or the name of HTTP's own problem."""


Answer: TypeAlias = Callable[[HttpResponse], None]
"""Called on the loop, exactly once a request, perhaps before `handle` returns."""


class Handler(Protocol):
    """Answers requests. Both methods run on the loop."""

    def body_limit(self, head: RequestHead) -> int:
        """Bytes that the body may have. Asked before a body over 64 KiB or of unknown size is
        read. Raises HttpError or ServingError to refuse it unread."""

    def handle(self, request: HttpRequest, answer: Answer) -> Cancel | None:
        """Answers, now or later. Never raises. The returned Cancel ends the request early: it is
        called when the client is gone, and `answer` may still be called after it."""


def error_response(error: ServingError | HttpError) -> FailedResponse:
    """The answer that tells a client of a failure: `{"error": text}` with its status.

    Source: Open Inference Protocol v2, "Inference Response JSON Error Object".
    """
    # Escaped to ASCII: a message may quote text of the request that is no valid Unicode.
    body = json.dumps({"error": error.message}).encode()
    if isinstance(error, HttpError):
        code = error.problem.name
        return FailedResponse(error.problem.value, JSON + error.headers, (body,), code=code)
    headers = JSON
    if error.retry_after is not None:
        # Whole seconds, at least one: "0" asks for the storm that the refusal is to prevent.
        headers += (("Retry-After", str(max(1, math.ceil(error.retry_after)))),)
    return FailedResponse(STATUS[error.code].http, headers, (body,), code=error.code.value)
