"""What is remembered of header blocks never shows: heads are those that whole blocks give."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import hpack
import pytest
from hpack.struct import NeverIndexedHeaderTuple
from hypothesis import given, settings
from hypothesis import strategies as st
from stoker.transport.wire.http2.header_blocks import HeaderBlocks
from stoker.transport.wire.http2.hpack import Block, CompressionError, Decoder, Field
from stoker.transport.wire.http2.repeated_heads import RepeatedHeads
from stoker.transport.wire.http2.request_fields import (
    Http2Head,
    MalformedRequest,
    read_request,
    with_fresh,
)

Heads: TypeAlias = "HeaderBlocks[_Head]"

FRESH_NAMES = ("grpc-timeout", "traceparent", "grpc-trace-bin")
WAYS = ("indexed", "literal", "never indexed")
PSEUDO = [(":method", "POST"), (":scheme", "http")]
LASTING = [("content-type", "application/grpc"), ("user-agent", "u" * 30), ("x-a", "1")]

NAMES = [name for name, _ in [*PSEUDO, *LASTING]]

# How a client writes each field: as grpcio, as curl, or in any way.
GRPCIO = dict.fromkeys([*NAMES, ":path"], "indexed") | dict.fromkeys(FRESH_NAMES, "literal")
CURL = GRPCIO | {":path": "literal"}
ways = (
    st.just(GRPCIO)
    | st.just(CURL)
    | st.fixed_dictionaries(dict.fromkeys([*NAMES, ":path", *FRESH_NAMES], st.sampled_from(WAYS)))
)
fresh = st.lists(
    st.tuples(st.sampled_from(FRESH_NAMES), st.sampled_from(["1S", "2S", "3S", "\1"])),
    max_size=3,
)
any_request = st.tuples(
    st.sampled_from(["/a", "/b"]),
    fresh,
    st.sampled_from(["behind", "behind", "behind", "amid", "before"]),
    st.sampled_from([0, 0, 1]),  # which of the two ways of the client
    st.sampled_from([None, None, None, None, 0, 70, 150, 4096]),  # the table's size from here on
)
# What most clients send: the same call again and again, with a field that is fresh.
usual_request = st.tuples(
    st.just("/a"),
    st.lists(st.tuples(st.sampled_from(FRESH_NAMES), st.sampled_from(["1S", "2S"])),
             min_size=1, max_size=2),
    st.just("behind"),
    st.just(0),
    st.none(),
)  # fmt: skip
requests = usual_request | usual_request | any_request


class _Head:
    """A request's head, varied as that of a REST request is."""

    def __init__(self, head: Http2Head) -> None:
        self.head = head

    @classmethod
    def read(cls, block: Block) -> "_Head":
        return cls(read_request(block.fields))

    def varied(self, fields: list[Field]) -> "_Head":
        return _Head(with_fresh(self.head, fields))


def remembering() -> Heads:
    return HeaderBlocks(decoder(), _Head.read, RepeatedHeads(_Head.read))


def decoder() -> Decoder:
    return Decoder(max_table_bytes=4096, max_list_bytes=1 << 15)


def literal(name: str, value: str) -> bytes:
    """A field that enters no table."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def entered(name: str, value: str) -> bytes:
    """A field that enters the dynamic table."""
    return b"\x40" + literal(name, value)[1:]


def encoded(encoder: hpack.Encoder, fields: Sequence[Field], how: dict[str, str]) -> bytes:
    block = bytes(encoder.encode([]))  # a change of the table's size stands first
    for name, value in fields:
        way = how[name]
        if way == "literal":
            block += literal(name, value)
        elif way == "never indexed":
            block += encoder.encode([NeverIndexedHeaderTuple(name, value)], huffman=False)
        else:
            block += encoder.encode([(name, value)])
    return block


def outcome(read: Callable[[], Http2Head]) -> tuple[str, str, dict[str, str], int | None] | None:
    """What a head says; None for one that is malformed."""
    try:
        head = read()
    except MalformedRequest:
        return None
    request = head.request
    return request.method, request.path, dict(request.headers), head.content_length


@settings(max_examples=200)
@given(st.lists(requests, min_size=2, max_size=10), st.tuples(ways, ways))
def test_remembered_heads_are_those_that_whole_blocks_give(
    calls: list[tuple[str, list[Field], str, int, int | None]],
    client: tuple[dict[str, str], dict[str, str]],
) -> None:
    encoder, whole, blocks = hpack.Encoder(), decoder(), remembering()
    for path, new, place, which, table_bytes in calls:
        if table_bytes is not None:
            encoder.header_table_size = table_bytes
        fields = [*PSEUDO, (":path", path), *LASTING]
        at = {"behind": len(fields), "amid": 4, "before": 1}[place]
        block = encoded(encoder, [*fields[:at], *new, *fields[at:]], client[which])
        expected = whole.decode(block).fields
        assert outcome(lambda: blocks.head(block).head) == outcome(lambda: read_request(expected))  # noqa: B023 (called at once)


def test_a_request_whose_path_is_in_no_table_may_carry_a_trace() -> None:
    """As curl and nginx send it: without its :path the block's beginning is no request."""
    blocks = remembering()
    block = b"\x83\x86" + literal(":path", "/v2") + literal("traceparent", "00-1")
    assert blocks.head(block).head.request.path == "/v2"


def test_a_deadline_in_the_table_and_another_one_are_malformed() -> None:
    blocks = remembering()
    blocks.decode(entered(":path", "/p") + entered("grpc-timeout", "1S"))
    beginning = b"\x83\x86\xbf\xbe"
    blocks.head(beginning + literal("traceparent", "00-1"))
    with pytest.raises(MalformedRequest, match="one grpc-timeout"):
        blocks.head(beginning + literal("grpc-timeout", "2S"))


def test_a_table_size_behind_a_beginning_that_is_known_is_a_compression_error() -> None:
    blocks = remembering()
    blocks.decode(entered(":path", "/p"))
    beginning = b"\x83\x86\xbe"
    blocks.head(beginning + literal("traceparent", "00-1"))
    with pytest.raises(CompressionError, match="before the first field"):
        blocks.head(beginning + b"\x20" + literal("traceparent", "00-2"))


def test_what_a_block_began_with_is_varied_by_the_fresh_fields_behind_it() -> None:
    blocks = remembering()
    blocks.decode(entered(":path", "/p"))
    for trace in ("00-1", "00-2", "00-3"):
        head = blocks.head(b"\x83\x86\xbe" + literal("traceparent", trace)).head
        assert (head.request.path, dict(head.request.headers)) == ("/p", {"traceparent": trace})


def test_a_beginning_with_other_fields_behind_it_is_read_whole() -> None:
    blocks = remembering()
    blocks.decode(entered(":path", "/p"))
    beginning = b"\x83\x86\xbe"
    blocks.head(beginning + literal("traceparent", "00-1"))
    head = blocks.head(beginning + literal("traceparent", "00-2") + literal("x-a", "1")).head
    assert dict(head.request.headers) == {"traceparent": "00-2", "x-a": "1"}


def test_a_beginning_is_forgotten_when_the_table_that_it_reads_changes() -> None:
    blocks = remembering()
    blocks.decode(entered(":path", "/old"))
    beginning = b"\x83\x86\xbe"
    blocks.head(beginning + literal("traceparent", "00-1"))
    blocks.decode(entered(":path", "/new"))
    head = blocks.head(beginning + literal("traceparent", "00-2")).head
    assert head.request.path == "/new"
