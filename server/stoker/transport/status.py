"""ErrorCode -> (gRPC status, HTTP status): the one table. No other status number of ours exists.

Both transports read it when they turn a `ServingError` into an answer. It imports neither grpc nor
an HTTP library: numbers and names are those of the two standards. HTTP's own errors (a malformed
request, an unknown path) are no `ServingError`s; their table is in `wire/problems.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from stoker.errors import ErrorCode


@dataclass(frozen=True, slots=True)
class Status:
    """What one ErrorCode is called on the two wires."""

    grpc: int
    """The number of the gRPC status code."""
    grpc_name: str
    http: int


_INVALID_ARGUMENT: Final = (3, "INVALID_ARGUMENT")
_RESOURCE_EXHAUSTED: Final = (8, "RESOURCE_EXHAUSTED")
_INTERNAL: Final = (13, "INTERNAL")
_UNAVAILABLE: Final = (14, "UNAVAILABLE")

STATUS: Final[Mapping[ErrorCode, Status]] = MappingProxyType(
    {
        ErrorCode.INVALID_REQUEST: Status(*_INVALID_ARGUMENT, 400),
        ErrorCode.MODEL_NOT_FOUND: Status(5, "NOT_FOUND", 404),
        ErrorCode.MODEL_NOT_READY: Status(*_UNAVAILABLE, 503),
        ErrorCode.OVERLOADED: Status(*_RESOURCE_EXHAUSTED, 429),
        ErrorCode.DEADLINE_EXCEEDED: Status(4, "DEADLINE_EXCEEDED", 504),
        ErrorCode.CANCELLED: Status(1, "CANCELLED", 499),
        ErrorCode.TOO_LARGE: Status(*_RESOURCE_EXHAUSTED, 413),
        ErrorCode.UNAUTHENTICATED: Status(16, "UNAUTHENTICATED", 401),
        ErrorCode.PERMISSION_DENIED: Status(7, "PERMISSION_DENIED", 403),
        ErrorCode.DRAINING: Status(*_UNAVAILABLE, 503),
        ErrorCode.UNSUPPORTED: Status(12, "UNIMPLEMENTED", 501),
        ErrorCode.EXECUTION_FAILED: Status(*_INTERNAL, 500),
        ErrorCode.OUT_OF_MEMORY: Status(*_RESOURCE_EXHAUSTED, 503),
        ErrorCode.DEVICE_FAILED: Status(*_UNAVAILABLE, 503),
        ErrorCode.ALREADY_EXISTS: Status(6, "ALREADY_EXISTS", 400),
        ErrorCode.INTERNAL: Status(*_INTERNAL, 500),
    }
)
