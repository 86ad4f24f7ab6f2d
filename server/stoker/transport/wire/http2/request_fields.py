"""From the fields of a header block to the head of a request, or why it is none.

A malformed request ends its stream, not its connection: the block was decoded, the table is sound.
Stricter than RFC 9113 nowhere but in the target, which must be a path.  Hot path.
Source: RFC 9113, sections 8.2 and 8.3; RFC 9110, sections 5.5 and 8.6.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from stoker.transport.wire.http2.hpack import Field
from stoker.transport.wire.limits import MAX_TARGET_BYTES
from stoker.transport.wire.message import RequestHead
from stoker.transport.wire.problems import HttpError, Problem

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(r"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
_PATH: Final = re.compile(r"/[!\"$-~]*")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_PSEUDO: Final = frozenset((":method", ":scheme", ":path", ":authority"))
_OF_A_CONNECTION: Final = frozenset(
    ("connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade")
)

# Fields of which a second one makes two parties see two different requests.
_SINGLE: Final = frozenset(
    ("content-type", "host", "inference-header-content-length", "grpc-timeout", "grpc-encoding")
)

_REMEMBERED: Final = 4096
"""Fields that were looked at and are sound: clients send the same ones again and again, and those
in their tables are the same objects. At the limit all are forgotten."""

_REMEMBERED_BYTES: Final = 256
"""Longer fields are tokens, which nobody keeps longer than the request."""

_sound: dict[Field, None] = {}


class MalformedRequest(Exception):
    """The fields form no request. The message says what was expected and what came."""


@dataclass(frozen=True, slots=True)
class Http2Head:
    """The head of a request that came over HTTP/2."""

    request: RequestHead
    content_length: int | None
    """Bytes of the body, where the client says them."""


def read_request(fields: Sequence[Field]) -> Http2Head:
    """The head that the fields of a header block form. Raises MalformedRequest, and HttpError for
    a target that is too long."""
    pseudo: dict[str, str] = {}
    headers: dict[str, str] = {}
    lengths: set[str] = set()
    for field in fields:
        if field not in _sound:
            _check(field)
        name, value = field
        if name[0] == ":":
            if headers or lengths:
                raise MalformedRequest(f"expected {name} before all other fields")
            if name in pseudo:
                raise MalformedRequest(f"expected one {name}, got two")
            pseudo[name] = value
        elif name == "content-length":
            lengths.add(value)
        elif name in headers:
            if name in _SINGLE:
                raise MalformedRequest(f"expected one {name} field, got two")
            headers[name] += ("; " if name == "cookie" else ", ") + value
        else:
            headers[name] = value
    return _head(pseudo, headers, lengths)


def with_fresh(head: Http2Head, fresh: Sequence[Field]) -> Http2Head:
    """The head with these fields besides, which it does not have, and which are sound."""
    request = head.request
    headers = MappingProxyType({**request.headers, **dict(fresh)})
    return Http2Head(RequestHead(request.method, request.path, headers), head.content_length)


def check_value(name: str, value: str) -> None:
    """Looks at the value of a field whose name is sound. Raises MalformedRequest."""
    # The expression takes longer. No control byte is printable, nor a blank but the space.
    is_plain = value.isprintable() and value.strip() == value
    if not is_plain and not _VALUE.fullmatch(value):
        raise MalformedRequest(
            f"expected a value of {name} without control bytes, or blanks around it"
        )


def check_trailers(fields: Sequence[Field]) -> None:
    """Looks at what follows a body. Raises MalformedRequest."""
    for field in fields:
        if field not in _sound:
            _check(field)
        if field[0][0] == ":":
            raise MalformedRequest(f"expected no {field[0]} after a body")


def _head(pseudo: dict[str, str], headers: dict[str, str], lengths: set[str]) -> Http2Head:
    method, path = pseudo.get(":method"), pseudo.get(":path")
    if not method or not path or not pseudo.get(":scheme"):
        raise MalformedRequest(
            f"expected :method, :scheme and :path, got {', '.join(pseudo) or 'none'}"
        )
    if not _NAME.fullmatch(method.lower()):
        raise MalformedRequest(f"expected a method, got {method[:32]!r}")
    if len(path) > MAX_TARGET_BYTES:
        raise HttpError(
            Problem.TARGET_TOO_LONG,
            f"expected a target of at most {MAX_TARGET_BYTES} bytes, got {len(path)}",
        )
    if not _PATH.fullmatch(path):
        raise MalformedRequest(f"expected a :path that begins with '/', got {path[:64]!r}")
    authority, host = pseudo.get(":authority"), headers.get("host")
    if authority is not None:
        if host is not None and host.lower() != authority.lower():
            raise MalformedRequest("expected host to be as :authority, got another one")
        headers["host"] = authority
    if len(lengths) > 1:
        raise MalformedRequest("expected one content-length, got several")
    length = None
    if lengths:
        (text,) = lengths
        if not _LENGTH.fullmatch(text):
            raise MalformedRequest(f"expected a decimal content-length, got {text[:32]!r}")
        length = int(text)
        headers["content-length"] = text
    path = path.partition("?")[0]
    return Http2Head(RequestHead(method, path, MappingProxyType(headers)), length)


def _check(field: Field) -> None:
    """Whether a field alone may stand in a request; remembers it if so."""
    name, value = field
    if name not in _PSEUDO and not _NAME.fullmatch(name):
        raise MalformedRequest(f"expected a field name in lower case, got {name[:64]!r}")
    check_value(name, value)
    if name in _OF_A_CONNECTION or (name == "te" and value.lower() != "trailers"):
        raise MalformedRequest(f"expected no {name} in HTTP/2, got {value[:32]!r}")
    if len(name) + len(value) <= _REMEMBERED_BYTES:
        if len(_sound) >= _REMEMBERED:
            _sound.clear()
        _sound[field] = None
