"""The head of an HTTP/1.1 request: bytes -> method, path, headers, and how its body is framed.

`http1.py` cuts the head out of the stream and asks here; nothing here knows a socket. Two parsers
must agree on each head: a grammar of one regular expression, stricter than RFC 9112 where leniency
smuggles requests past proxies (bare CR or LF, folded lines, blanks before the colon, control bytes
in names, values and targets), and llhttp, which splits it. Both see each head once: parsing depends
on nothing but the bytes, and clients send the same head again and again, so results are remembered.
Source: RFC 9112, sections 2 to 6 and 11.2; RFC 9110, sections 5, 7.2, 8.6 and 10.1.1.  Hot path.
"""

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import httptools

from stoker.transport.wire.limits import MAX_HEADERS, MAX_TARGET_BYTES
from stoker.transport.wire.message import RequestHead
from stoker.transport.wire.problems import HttpError, Problem

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([!\"$-~]+) HTTP/([0-9])\.([0-9])\r\n")
_FIELDS: Final = re.compile(rb"(?:" + _TOKEN + rb":[\t -~\x80-\xff]*\r\n)*\r\n")
_ORIGIN_OF_ABSOLUTE: Final = re.compile(r"https?://[^/?]*", re.IGNORECASE)
_HOST: Final = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=%:\[\]]*")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")

# Fields of which a second one makes two parties see two different requests.
_SINGLE: Final = frozenset(
    ("content-length", "content-type", "host", "inference-header-content-length", "expect")
)

_REMEMBERED_HEADS: Final = 512
"""Heads that are kept: one per client library and tensor size. At the limit all are forgotten."""
REMEMBERED_BYTES: Final = 2 << 10
"""Longer heads carry tokens or traces and hardly come twice; 512 of these take 1 MiB."""

_remembered: dict[bytes, "Head"] = {}


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head, and what it says of its connection and its body's framing."""

    text: bytes
    """From the request line to the blank line. Connections that send it again share this."""
    request: RequestHead
    content_length: int
    """0 when there is none, or when the body is chunked."""
    is_chunked: bool
    keeps_alive: bool
    expects_continue: bool
    asks_for_head: bool
    """The answer has no body."""


def parse_head(head: bytes) -> Head:
    """The head from its request line to the blank line, both included. Raises HttpError."""
    known = _remembered.get(head)
    if known is not None:
        return known
    parsed = _parse(head)
    if len(head) <= REMEMBERED_BYTES:
        if len(_remembered) >= _REMEMBERED_HEADS:
            _remembered.clear()
        _remembered[head] = parsed
    return parsed


def known_head(data: bytes) -> Head | None:
    """The head that begins these bytes, if it is whole and came before."""
    end = data.find(b"\r\n\r\n", 0, REMEMBERED_BYTES)
    return None if end < 0 else _remembered.get(data[: end + 4])


class _Split:
    """What llhttp finds in a head."""

    __slots__ = ("fields", "target")

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))


def _parse(head: bytes) -> Head:
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise _malformed("a request line `METHOD target HTTP/1.1`", head.partition(b"\r\n")[0])
    if line[3] != b"1" or line[4] not in (b"0", b"1"):
        raise HttpError(
            Problem.VERSION_UNKNOWN,
            f"expected HTTP/1.1 or HTTP/1.0, got HTTP/{line[3].decode()}.{line[4].decode()}",
        )
    if len(line[2]) > MAX_TARGET_BYTES:
        raise HttpError(
            Problem.TARGET_TOO_LONG,
            f"expected a target of at most {MAX_TARGET_BYTES} bytes, got {len(line[2])}",
        )
    if not _FIELDS.fullmatch(head, line.end()):
        raise HttpError(
            Problem.MALFORMED,
            "expected header fields `name: value` without control bytes, folded lines, or blanks "
            "before the colon",
        )
    split = _Split()
    # llhttp takes what follows CONNECT, or an Upgrade that it believes in, for another protocol.
    # It says so after the head, which is all that it is given.
    try:
        parser = httptools.HttpRequestParser(split)
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserInvalidMethodError as error:
        raise HttpError(
            Problem.METHOD_UNKNOWN, f"expected a method of HTTP, got {_shown(line[1])}"
        ) from error
    except httptools.HttpParserError as error:
        raise HttpError(
            Problem.MALFORMED, f"expected a request of HTTP/1.1, got one with: {error}"
        ) from error
    if split.target != line[2]:
        raise _malformed("a request target", line[2])
    method, target = line[1].decode(), line[2].decode()
    return _head(head, method, target, line[4] == b"1", _collect(split.fields))


def _collect(fields: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """The fields by lower-case name; latin-1, so that each byte of a value is one character."""
    if len(fields) > MAX_HEADERS:
        raise HttpError(
            Problem.HEAD_TOO_LARGE,
            f"expected at most {MAX_HEADERS} header fields, got {len(fields)}",
        )
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode().lower(), raw_value.decode("latin-1").strip(" \t")
        before = headers.get(name)
        if before is not None:
            if name in _SINGLE:
                raise HttpError(Problem.MALFORMED, f"expected one {name} field, got two")
            value = f"{before}, {value}"
        headers[name] = value
    return headers


def _head(text: bytes, method: str, target: str, is_1_1: bool, headers: dict[str, str]) -> Head:
    host = headers.get("host")
    if (host is None and is_1_1) or not _HOST.fullmatch(host or ""):
        got = "none" if host is None else repr(host)
        raise HttpError(Problem.MALFORMED, f"expected one valid host field, got {got}")
    length_text, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None:
        if length_text is not None:
            raise HttpError(
                Problem.MALFORMED, "expected content-length or transfer-encoding, got both"
            )
        if coding.lower() != "chunked" or not is_1_1:
            raise HttpError(
                Problem.MALFORMED,
                f"expected transfer-encoding chunked, in HTTP/1.1 only, got '{coding}'",
            )
    if length_text is not None and not _LENGTH.fullmatch(length_text):
        raise HttpError(
            Problem.MALFORMED, f"expected a decimal content-length, got '{length_text}'"
        )
    expectation = headers.get("expect") if is_1_1 else None
    if expectation is not None and expectation.lower() != "100-continue":
        raise HttpError(
            Problem.EXPECTATION_FAILED, f"expected `expect: 100-continue`, got '{expectation}'"
        )
    connection = headers.get("connection", "").lower()
    origin = _ORIGIN_OF_ABSOLUTE.match(target)
    if origin is not None:
        target = target[origin.end() :] or "/"
    return Head(
        text,
        RequestHead(method, target.partition("?")[0] or "/", MappingProxyType(headers)),
        content_length=int(length_text or 0),
        is_chunked=coding is not None,
        # HTTP/1.0 clients that ask for keep-alive get a new connection each time: it is legal,
        # and no client worth speeding up speaks it.
        keeps_alive=is_1_1
        and (not connection or "close" not in [each.strip() for each in connection.split(",")]),
        expects_continue=expectation is not None,
        asks_for_head=method == "HEAD",
    )


def _malformed(expected: str, got: bytes) -> HttpError:
    return HttpError(Problem.MALFORMED, f"expected {expected}, got {_shown(got)}")


def _shown(text: bytes) -> str:
    return repr(text[:64])[1:]
