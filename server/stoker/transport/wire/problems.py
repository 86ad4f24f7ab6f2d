"""HTTP's own errors: what is wrong with a request before anyone looks at its meaning.

The parser and the routers raise `HttpError`; the connection answers it. What goes wrong later is a
`ServingError` and has its status in `transport/status.py`.  Source: RFC 9110, section 15.5.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final


class Problem(Enum):
    """The table: each problem's HTTP status."""

    MALFORMED = 400
    NO_SUCH_PATH = 404
    METHOD_NOT_ALLOWED = 405
    TOO_SLOW = 408
    TARGET_TOO_LONG = 414
    UNSUPPORTED_MEDIA = 415
    EXPECTATION_FAILED = 417
    HEAD_TOO_LARGE = 431
    METHOD_UNKNOWN = 501
    TOO_MANY_CONNECTIONS = 503
    VERSION_UNKNOWN = 505


OK: Final = 200
NOT_READY: Final = 503
"""A health question's answer when it is "no": an answer, not an error."""

REASONS: Final[Mapping[int, str]] = MappingProxyType(
    {
        100: "Continue",
        200: "OK",
        400: "Bad Request",
        401: "Unauthorized",
        403: "Forbidden",
        404: "Not Found",
        405: "Method Not Allowed",
        408: "Request Timeout",
        413: "Content Too Large",
        414: "URI Too Long",
        415: "Unsupported Media Type",
        417: "Expectation Failed",
        429: "Too Many Requests",
        431: "Request Header Fields Too Large",
        499: "Client Closed Request",
        500: "Internal Server Error",
        501: "Not Implemented",
        503: "Service Unavailable",
        504: "Gateway Timeout",
        505: "HTTP Version Not Supported",
    }
)


class HttpError(Exception):
    """A request that HTTP itself refuses. `headers` are added to the answer."""

    def __init__(
        self, problem: Problem, message: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(message)
        self.problem = problem
        self.message = message
        self.headers = headers
