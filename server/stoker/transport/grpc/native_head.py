"""What the head of a native gRPC call asks for: deadline, coding, metadata. Worked out once for a
header block that repeats.  Source: gRPC over HTTP2, "Requests" and "Custom-Metadata".
"""

import binascii
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from stoker.errors import InvalidRequest, Unsupported
from stoker.transport.coding import WINDOW
from stoker.transport.grpc.call_end import ACCEPTED_CODINGS, CONTENT_TYPE
from stoker.transport.wire.http2.hpack import Field

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
    return math.inf if text is None else timeout_seconds(text)


def timeout_seconds(text: str) -> float:
    """The seconds of a grpc-timeout: up to 8 digits and a unit. Raises InvalidRequest."""
    digits, unit = text[:-1], _UNITS.get(text[-1:])
    if unit is None or len(text) > 9 or not (text.isascii() and digits.isdigit()):
        raise InvalidRequest(
            "expected a grpc-timeout of up to 8 digits and one of H, M, S, m, u, n, "
            f"got '{text[:32]}'"
        )
    return int(digits) * unit


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


class CallMetadata(Mapping[str, str | bytes]):
    """A call's metadata as `CallContext` has it: values of `-bin` keys are bytes.

    Raises InvalidRequest for one that is no base64, when it is asked for.
    """

    __slots__ = ("_fields", "_fresh")

    def __init__(self, fields: Mapping[str, str | bytes], fresh: Sequence[Field] = ()) -> None:
        """`fresh` are fields besides, with other names."""
        self._fields = fields
        self._fresh = fresh

    def __getitem__(self, name: str) -> str | bytes:
        for fresh, value in self._fresh:
            if fresh == name:
                return _decoded(name, value) if name.endswith("-bin") else value
        found = self._fields[name]
        return _decoded(name, found) if name.endswith("-bin") else found

    def __iter__(self) -> Iterator[str]:
        yield from self._fields
        for name, _ in self._fresh:
            yield name

    def __len__(self) -> int:
        return len(self._fields) + len(self._fresh)


def _decoded(name: str, text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return text
    last = text.rpartition(",")[2].strip()
    try:
        return binascii.a2b_base64(last + "=" * (-len(last) % 4), strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"metadata '{name}': expected base64, got '{last[:64]}'") from error
