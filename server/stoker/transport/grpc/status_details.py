"""What a failed gRPC call tells programs besides its code and text: why, and when to try again.

A `google.rpc.Status` with an `ErrorInfo`, which names our ErrorCode (several share a status of
gRPC), and a `RetryInfo` where the time to retry is known. It travels in the trailer
`grpc-status-details-bin`. Written by hand: four flat messages, and ErrorInfo is the same bytes for
all errors of a code. Both transports send it; knows neither grpcio nor HTTP/2.
Source: google/rpc/status.proto and error_details.proto.
"""

import math
from typing import Final

from stoker.errors import ErrorCode, ServingError
from stoker.transport.grpc.wire_form import delimited, integer
from stoker.transport.status import STATUS

FIELD: Final = "grpc-status-details-bin"
DOMAIN: Final = "stoker"
"""Of the reasons in `ErrorInfo`."""

MAX_BYTES: Final = 7 << 10
"""Of the text and the details as they travel. Clients refuse trailers above 8 KiB
(grpc.max_metadata_size), which would hide the status itself; the other fields take under 512."""


def status_details(error: ServingError, message: bytes, encoded_message: str) -> bytes | None:
    """The serialized Status of an error whose text is sent as `message`, percent-encoded as
    `encoded_message`. Its text is the same, since clients (grpcio-status) refuse a Status that says
    another. None where both do not fit: then the text goes alone."""
    retry_ms = pushback_ms(error)
    status = (
        _CODE[error.code]
        + delimited(2, message)
        + _ERROR_INFO[error.code]
        + (b"" if retry_ms is None else _retry_info(retry_ms))
    )
    return status if len(encoded_message) + _base64_size(status) <= MAX_BYTES else None


def pushback_ms(error: ServingError) -> int | None:
    """Whole milliseconds after which a retry makes sense, none of them too early; None where
    nothing is known."""
    return None if error.retry_after is None else max(0, math.ceil(error.retry_after * 1000))


def _base64_size(data: bytes) -> int:
    return (len(data) * 4 + 2) // 3


def _type(name: str) -> bytes:
    """The type_url of an Any."""
    return delimited(1, f"type.googleapis.com/google.rpc.{name}".encode())


def _detail(kind: bytes, value: bytes) -> bytes:
    """An element of Status.details: an Any of this type."""
    return delimited(3, kind + delimited(2, value))


def _retry_info(milliseconds: int) -> bytes:
    seconds, rest = divmod(milliseconds, 1000)
    delay = integer(1, seconds) + integer(2, rest * 1_000_000)
    return _detail(_RETRY_INFO, delimited(1, delay))


_RETRY_INFO: Final = _type("RetryInfo")
_CODE: Final = {code: integer(1, STATUS[code].grpc) for code in ErrorCode}
_ERROR_INFO: Final = {
    code: _detail(
        _type("ErrorInfo"), delimited(1, code.name.encode()) + delimited(2, DOMAIN.encode())
    )
    for code in ErrorCode
}
