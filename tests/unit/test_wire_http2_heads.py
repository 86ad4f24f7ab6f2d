"""What is remembered of header blocks never shows: heads are those that whole blocks give."""

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import hpack
import pytest
from hpack.hpack import encode_integer
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

# How a client writes each field: as grpcio, as grpc-go, as curl, or in any way.
GRPCIO = dict.fromkeys([*NAMES, ":path"], "indexed") | dict.fromkeys(FRESH_NAMES, "literal")
GRPC_GO = GRPCIO | dict.fromkeys(FRESH_NAMES, "indexed")
CURL = GRPCIO | {":path": "literal"}
ways = (
    st.just(GRPCIO)
    | st.just(GRPC_GO)
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
    st.lists(
        st.tuples(
            st.sampled_from(FRESH_NAMES), st.sampled_from(["1S", "2S"]) | st.text("1", max_size=300)
        ),
        min_size=1,
        max_size=2,
    ),
    st.just("behind"),
    st.just(0),
    st.none(),
)
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
    length = bytes(encode_integer(len(value), 7))
    return b"\0" + bytes([len(name)]) + name.encode() + length + value.encode()


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


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 1200), min_size=40, max_size=80),
    st.sampled_from([0, 1, 70]),
    st.booleans(),
)
def test_heads_stay_true_while_fresh_fields_fill_the_table_and_drop_its_entries(
    sizes: list[int], most_resized: int, is_plain: bool
) -> None:
    encoder, whole, blocks = hpack.Encoder(), decoder(), remembering()
    fields = [*PSEUDO, (":path", "/a"), *LASTING]
    for number, size in enumerate(sizes):
        if number == most_resized:
            encoder.header_table_size = 1000
        fresh = [("grpc-timeout", f"{number}S"), ("traceparent", "0" * size)]
        block = encoder.encode([*fields, *fresh], huffman=not is_plain)
        expected = whole.decode(block).fields
        assert expected == [*fields, *fresh]
        assert outcome(lambda: blocks.head(block).head) == outcome(lambda: read_request(expected))  # noqa: B023 (called at once)


BEGINNING = b"\x83\x86\xbe"
"""POST, http, and the newest entry."""


def after(*blocks: bytes) -> Heads:
    """What has seen `:path: /old` enter the table, a call with it, and these blocks."""
    seen = remembering()
    seen.decode(entered(":path", "/old"))
    seen.head(BEGINNING + entered("traceparent", "00-1"))
    for block in blocks:
        seen.decode(block)
    return seen


def path_of(blocks: Heads, block: bytes) -> str:
    return blocks.head(block).head.request.path


def test_a_beginning_is_known_by_higher_indices_when_entries_have_come() -> None:
    blocks = after()
    for index in range(63, 150):  # from 127 on it has two bytes; the table holds some 90 entries
        written = bytes([0x80 + index] if index < 127 else [0xFF, index - 127])
        assert path_of(blocks, b"\x83\x86" + written + entered("traceparent", "")) == "/old"


def test_an_index_names_another_entry_when_entries_have_come() -> None:
    assert path_of(after(entered(":path", "/new")), BEGINNING + literal("traceparent", "")) == (
        "/new"
    )


@pytest.mark.parametrize(
    "drops",
    [
        b"\x20\x3f\xe1\x1f",  # the table's size is 0, then 4096
        entered("x-a", "v" * 100) * 31,
        entered("x-a", "v" * 4224),  # larger than the table
    ],
    ids=["resized", "full", "emptied"],
)
def test_a_beginning_is_forgotten_when_an_entry_that_it_reads_is_dropped(drops: bytes) -> None:
    blocks = after(drops)
    with pytest.raises((CompressionError, MalformedRequest)):
        blocks.head(b"\x83\x86\xbf" + literal("traceparent", "00-2"))


def test_a_beginning_is_not_remembered_whose_entry_its_own_block_drops() -> None:
    blocks = remembering()
    blocks.decode(entered(":path", "/old"))
    blocks.head(BEGINNING + entered("traceparent", "v" * 4224))
    with pytest.raises(CompressionError, match="index from 1 to 61"):
        blocks.head(BEGINNING + literal("traceparent", "00-2"))


def test_a_table_size_at_a_blocks_beginning_is_obeyed_each_time() -> None:
    blocks = remembering()
    sized = b"\x20\x3f\x81\x01\x83\x86\x84"  # 0, 160, and a request
    blocks.head(sized + literal("traceparent", "00-1"))
    blocks.decode(entered("x-a", "1"))
    blocks.head(sized + literal("traceparent", "00-2"))
    with pytest.raises(CompressionError, match="index from 1 to 61, got 62"):
        blocks.decode(b"\xbe")


def test_a_whole_block_is_forgotten_when_a_fresh_field_behind_a_beginning_enters_the_table() -> (
    None
):
    blocks = after()
    block = b"\x83\x86\xbf"
    assert path_of(blocks, block) == "/old"
    assert path_of(blocks, block + entered("traceparent", "00-2")) == "/old"
    with pytest.raises(MalformedRequest, match=":path"):
        blocks.head(block)


def compare_damaged(seed: int) -> int:
    """Plays blocks of one client, some of them damaged, until one is a compression error, and
    holds the heads equal to those that are read whole. Gives how many blocks that were."""
    chance, encoder, whole, blocks = random.Random(seed), hpack.Encoder(), decoder(), remembering()
    how = chance.choice([GRPCIO, GRPC_GO, GRPC_GO, CURL])
    last = b""
    for number in range(60):
        new = [
            (name, chance.choice(["1S", f"{number}S", "0" * chance.choice([9, 55, 400])]))
            for name in chance.sample(FRESH_NAMES, chance.choice([0, 1, 2, 2]))
        ]
        block = encoded(encoder, [*PSEUDO, (":path", "/a"), *LASTING, *new], how)
        kind = chance.randrange(40)
        if kind == 0:
            at = chance.randrange(len(block))
            block = block[:at] + bytes([chance.randrange(256)]) + block[at + 1 :]
        elif kind == 1:
            block = block[: chance.randrange(len(block))]
        elif kind == 2:
            block = last + block
        elif kind == 3:
            at = chance.randrange(len(block) + 1)
            block = block[:at] + chance.choice([b"\x20", b"\x20\x3f\xe1\x1f", b"\xbe"]) + block[at:]
        last = block
        try:
            expected = whole.decode(block).fields
        except CompressionError:
            with pytest.raises(CompressionError):
                blocks.head(block)
            return number
        assert outcome(lambda: blocks.head(block).head) == outcome(lambda: read_request(expected))  # noqa: B023 (called at once)
    return 60


def test_damaged_blocks_give_the_heads_that_whole_blocks_give() -> None:
    assert sum(compare_damaged(seed) for seed in range(60)) > 500
