"""Spans in OTLP's wire form, made of their parts.

Seven spans of a call took 210 us as the SDK makes messages of them, an object for each attribute
and each value; joined from bytes they take a tenth (benchmarks/results/0013-tracing.md). Undo it if
that no longer shows. Pure; what the attributes mean is for others to know (`spans.py`).
Source: opentelemetry-proto, trace.proto and common.proto; Protocol Buffers, "Encoding".
"""

from collections.abc import Iterable
from functools import lru_cache
from struct import Struct
from typing import Final, TypeAlias

from stoker.telemetry.observation import SpanIdentity

Value: TypeAlias = str | int | float | bool

INTERNAL: Final = 1
SERVER: Final = 2
"""Kinds of a span."""

_REMEMBERED: Final = 2048
"""Attributes, the least used forgotten: names of models and methods, statuses, peers."""

_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200
"""Of flags: whether it is known if the parent is another process's, and if it is."""
_times: Final = Struct("<BQBQ").pack
_flags: Final = Struct("<I").pack
_double: Final = Struct("<d").pack
_START, _END = 0x39, 0x41
_FLAGS_OF_SPAN: Final = b"\x85\x01"
_FLAGS_OF_LINK: Final = b"\x35" + _flags(_HAS_IS_REMOTE)
_INT64: Final = 1 << 64


def span(
    identity: SpanIdentity,
    name: str,
    kind: int,
    began_ns: int,
    ended_ns: int,
    attributes: Iterable[tuple[str, Value]],
    *,
    links: Iterable[SpanIdentity] = (),
    error: str | None = None,
) -> bytes:
    """A span as a field of ScopeSpans. Times are since the epoch; one that would end before it
    begins ends at once. `error`: its status is ERROR, with this message; None: it is not set."""
    flags = _HAS_IS_REMOTE
    parts = [
        b"\x0a\x10", identity.trace_id.to_bytes(16, "big"),
        b"\x12\x08", identity.span_id.to_bytes(8, "big"),
    ]  # fmt: skip
    if identity.state:
        parts.append(_text(0x1A, identity.state))
    if identity.parent_id:
        parts += (b"\x22\x08", identity.parent_id.to_bytes(8, "big"))
        if identity.parent_is_remote:
            flags |= _IS_REMOTE
    parts += (
        named(name, kind),
        _times(_START, began_ns, _END, ended_ns if ended_ns > began_ns else began_ns),
    )
    for key, value in attributes:
        parts.append(attribute(key, value))
    for link in links:
        parts.append(_link(link))
    if error is not None:
        parts.append(_delimited(0x7A, _text(0x12, error) + b"\x18\x02"))
    parts += (_FLAGS_OF_SPAN, _flags(flags))
    return _delimited(0x12, b"".join(parts))


@lru_cache(_REMEMBERED)
def named(name: str, kind: int) -> bytes:
    """Name and kind of a span, as its fields."""
    return _text(0x2A, name) + bytes((0x30, kind))


@lru_cache(_REMEMBERED, typed=True)
def attribute(key: str, value: Value) -> bytes:
    """An attribute as a field of a span."""
    if isinstance(value, str):
        content = _text(0x0A, value)
    elif isinstance(value, bool):
        content = bytes((0x10, value))
    elif isinstance(value, int):
        content = b"\x18" + varint(value % _INT64)
    else:
        content = b"\x21" + _double(value)
    return _delimited(0x4A, _text(0x0A, key) + _delimited(0x12, content))


def request(resource: bytes, scope: bytes, spans: Iterable[bytes]) -> bytes:
    """An ExportTraceServiceRequest: `resource` and `scope` are those messages, of all `spans`."""
    of_scope = b"".join((_delimited(0x0A, scope), *spans))
    return _delimited(0x0A, _delimited(0x0A, resource) + _delimited(0x12, of_scope))


def varint(number: int) -> bytes:
    """The base-128 form of a number from 0 up."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_lengths: Final = tuple([varint(each) for each in range(2048)])
"""Of most fields."""


def _delimited(tag: int, content: bytes) -> bytes:
    size = len(content)
    head = _lengths[size] if size < len(_lengths) else varint(size)
    return b"%c%b%b" % (tag, head, content)


def _text(tag: int, text: str) -> bytes:
    # Half of a character, as a client may escape it in JSON, has no UTF-8.
    return _delimited(tag, text.encode("utf-8", "replace"))


def _link(to: SpanIdentity) -> bytes:
    return _delimited(
        0x6A,
        b"\x0a\x10%b\x12\x08%b%b"
        % (to.trace_id.to_bytes(16, "big"), to.span_id.to_bytes(8, "big"), _FLAGS_OF_LINK),
    )
