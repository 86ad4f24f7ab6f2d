"""How native gRPC calls end: heads, trailers and statuses as header blocks.

Made once where nothing of a call is in them.  Source: gRPC over HTTP2, "Responses" and
"Status-Message"; gRFC A6 (retry pushback).
"""

import binascii
import re
from typing import Final

from stoker.errors import ServingError
from stoker.transport.grpc.message_reader import PREFIX_BYTES
from stoker.transport.grpc.status_details import FIELD, pushback_ms, status_details
from stoker.transport.status import STATUS
from stoker.transport.wire.http2 import answer_fields
from stoker.transport.wire.http2.flow import MessageForm

CONTENT_TYPE: Final = "application/grpc"
ACCEPTED_CODINGS: Final = "identity,deflate,gzip"

MAX_DETAILS_BYTES: Final = 2048
"""A longer message is cut. Percent-encoding makes it up to three times as long, and clients refuse
trailers above 8 KiB (grpc.max_metadata_size), which would hide the status itself."""

_TRAVELS: Final = re.compile(rb"(?:[!-$&-~](?:[ -$&-~]*[!-$&-~])?)?")
"""Texts that need no encoding: most."""

HEAD: Final = answer_fields.head(200, (("content-type", CONTENT_TYPE),))
"""Of an answer whose messages are plain."""
OK: Final = answer_fields.trailers((("grpc-status", "0"),))
"""The trailers of a call that went well."""


def _prefix(size: int) -> bytes:
    return b"\0" + (size - PREFIX_BYTES).to_bytes(4, "big")


PLAIN: Final = MessageForm(HEAD, OK, _prefix, PREFIX_BYTES)
"""Of a call that went well with one plain message."""


def coded_head(coding: str) -> bytes:
    """Of an answer whose messages may be compressed."""
    return HEAD + answer_fields.trailers((("grpc-encoding", coding),))


def failed(error: ServingError, *, more: tuple[tuple[str, str], ...] = ()) -> bytes:
    """The trailers of a call that failed; tells clients that retry when that makes sense."""
    message = details(error.message)
    encoded = percent_encoded(message)
    fields = [("grpc-status", str(STATUS[error.code].grpc)), ("grpc-message", encoded), *more]
    status = status_details(error, message, encoded)
    if status is not None:
        fields.append((FIELD, _base64(status)))
    retry_ms = pushback_ms(error)
    if retry_ms is not None:
        fields.append(("grpc-retry-pushback-ms", str(retry_ms)))
    return answer_fields.trailers(fields)


def failed_at_once(error: ServingError, *, more: tuple[tuple[str, str], ...] = ()) -> bytes:
    """The whole answer of a call that failed before it had a message ("Trailers-Only")."""
    return HEAD + failed(error, more=more)


def details(message: str) -> bytes:
    """A message as UTF-8, cut to what fits into trailers."""
    encoded = message[: MAX_DETAILS_BYTES + 1].encode("utf-8", "replace")
    if len(encoded) <= MAX_DETAILS_BYTES:
        return encoded
    return encoded[:MAX_DETAILS_BYTES].decode(errors="ignore").encode() + b"..."


def _base64(data: bytes) -> str:
    """A `-bin` field's value. Source: gRPC over HTTP2, "Custom-Metadata": without padding."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode()


def percent_encoded(text: bytes) -> str:
    """A status message as it travels: printable ASCII but `%`, all else as %XX. So are spaces at
    its ends: HTTP/2 has no field values with them (RFC 9113, section 8.2.1), and strict clients
    refuse the whole answer."""
    if _TRAVELS.fullmatch(text):
        return text.decode()
    encoded = [
        chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}" for byte in text
    ]
    for end in (0, -1):
        if encoded[end] == " ":
            encoded[end] = "%20"
    return "".join(encoded)
