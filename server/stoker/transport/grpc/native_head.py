"""What the head of a native gRPC call asks for: deadline, coding, metadata. Worked out once for a
header block that repeats.  Source: gRPC over HTTP2, "Requests" and "Custom-Metadata".
"""

import binascii
import math
import re
from collections.abc import Mapping
from typing import Final

from stoker.errors import InvalidRequest, Unsupported
from stoker.transport.coding import WINDOW
from stoker.transport.grpc.call import Metadata
from stoker.transport.grpc.call_end import ACCEPTED_CODINGS, CONTENT_TYPE

_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_FORMATS: Final = ("", "proto")


def is_grpc(content_type: str) -> bool:
    """Whether a Content-Type says gRPC, and not for instance gRPC-Web."""
    kind = content_type.partition(";")[0].rstrip().lower()
    return kind == CONTENT_TYPE or kind.startswith(CONTENT_TYPE + "+")


def check_format(content_type: str) -> None:
    """Raises Unsupported where messages are no protobuf."""
    form = content_type.partition(";")[0].strip().lower().partition("+")[2]
    if form not in _FORMATS:
        raise Unsupported(
            f"expected content-type {CONTENT_TYPE} or {CONTENT_TYPE}+proto, "
            f"got '{content_type[:64]}'"
        )


def timeout(headers: Mapping[str, str]) -> float:
    """Seconds that the call may take; infinite without a grpc-timeout. Raises InvalidRequest."""
    text = headers.get("grpc-timeout")
    if text is None:
        return math.inf
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        raise InvalidRequest(
            "expected a grpc-timeout of up to 8 digits and one of H, M, S, m, u, n, "
            f"got '{text[:32]}'"
        )
    return int(match[1]) * _UNITS[match[2]]


def message_coding(headers: Mapping[str, str]) -> str | None:
    """The coding of the call's compressed messages, None for identity. Raises Unsupported, after
    which the client is to be told of ACCEPTED_CODINGS."""
    coding = headers.get("grpc-encoding", "identity").strip().lower()
    if coding == "identity":
        return None
    if coding not in WINDOW:
        raise UnsupportedCoding(
            f"expected grpc-encoding out of {ACCEPTED_CODINGS}, got '{coding[:32]}'"
        )
    return coding


class UnsupportedCoding(Unsupported):
    """The call's messages are in a coding that is not served."""


def answer_coding(headers: Mapping[str, str], coding: str | None) -> str | None:
    """The coding of the answer's messages: the request's own, if the client takes it. Clients offer
    gzip with every call; one that compresses is one whose network is worth it."""
    if coding is None:
        return None
    accepted = headers.get("grpc-accept-encoding", "")
    return coding if coding in [each.strip().lower() for each in accepted.split(",")] else None


def metadata(headers: Mapping[str, str]) -> Metadata:
    """What handlers see: values of `-bin` keys as bytes, of these the last one. Raises
    InvalidRequest for one that is no base64."""
    binary = [name for name in headers if name.endswith("-bin")]
    if not binary:
        return headers
    return {**headers, **{name: _decoded(name, headers[name]) for name in binary}}


def _decoded(name: str, text: str) -> bytes:
    last = text.rpartition(",")[2].strip()
    try:
        return binascii.a2b_base64(last + "=" * (-len(last) % 4), strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"metadata '{name}': expected base64, got '{last[:64]}'") from error
