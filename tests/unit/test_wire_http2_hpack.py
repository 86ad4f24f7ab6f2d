"""Header blocks: ours is held equal to the `hpack` package; what RFC 7541 forbids is refused."""

import hpack
import pytest
from hpack.exceptions import HPACKError
from hypothesis import given
from hypothesis import strategies as st
from stoker.transport.wire.http2 import huffman
from stoker.transport.wire.http2.hpack import CompressionError, Decoder, Field

TABLE_BYTES = 4096
LIST_BYTES = 1 << 16

texts = st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=40)
names = st.sampled_from([":path", ":method", "te", "grpc-timeout", "x-a", "x-b", "cookie"]) | texts
field_lists = st.lists(st.tuples(names, texts), max_size=12)


def decoder(max_list_bytes: int = LIST_BYTES) -> Decoder:
    return Decoder(max_table_bytes=TABLE_BYTES, max_list_bytes=max_list_bytes)


def reference() -> hpack.Decoder:
    made = hpack.Decoder(max_header_list_size=1 << 30)
    made.max_allowed_table_size = TABLE_BYTES
    return made


def as_bytes(fields: list[Field]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]


def encoded(encoder: hpack.Encoder, fields: list[Field], *, is_huffman: bool) -> bytes:
    return bytes(encoder.encode(as_bytes(fields), huffman=is_huffman))


def decoded_by(reference: hpack.Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in reference.decode(block, raw=True)]


def same_tables(ours: Decoder, theirs: hpack.Decoder) -> bool:
    entries = [(bytes(name), bytes(value)) for name, value in theirs.header_table.dynamic_entries]
    return as_bytes(list(ours.table)) == entries


@given(st.lists(st.tuples(field_lists, st.booleans(), st.sampled_from([0, 40, 200, 4096]))))
def test_what_an_encoder_says_is_understood(blocks: list[tuple[list[Field], bool, int]]) -> None:
    encoder, ours, theirs = hpack.Encoder(), decoder(), reference()
    for fields, is_huffman, table_bytes in blocks:
        encoder.header_table_size = table_bytes
        block = encoded(encoder, fields, is_huffman=is_huffman)
        assert ours.decode(block).fields == fields
        decoded_by(theirs, block)
        assert same_tables(ours, theirs)


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_fields_or_a_compression_error_as_for_hpack(blocks: list[bytes]) -> None:
    ours, theirs = decoder(), reference()
    for block in blocks:
        try:
            expected = decoded_by(theirs, block)
        except HPACKError:
            with pytest.raises(CompressionError):
                ours.decode(block)
            return
        assert as_bytes(ours.decode(block).fields) == expected
        assert same_tables(ours, theirs)


@given(st.binary(max_size=200))
def test_huffman_undoes_the_encoder(text: bytes) -> None:
    encoder = hpack.huffman.HuffmanEncoder(
        hpack.huffman_constants.REQUEST_CODES, hpack.huffman_constants.REQUEST_CODES_LENGTH
    )
    assert huffman.decode(encoder.encode(text)) == text.decode("latin-1")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"\xff\xff\xff\xff", "end-of-string"),  # 30 ones are the end of string
        (b"\x00", "padding"),  # 5 bits are "0", and 3 zeros
        (b"\x07\xff", "padding"),  # 5 bits are "0", and 11 ones
    ],
)
def test_huffman_codes_end_with_few_ones(code: bytes, reason: str) -> None:
    with pytest.raises(huffman.HuffmanError, match=reason):
        huffman.decode(code)


@pytest.mark.parametrize(
    ("block", "changes_table", "reads_table"),
    [
        (b"\x82\x86", False, False),  # indexed, static
        (b"\x00\x01a\x01b", False, False),  # literal without indexing
        (b"\x10\x01a\x01b", False, False),  # literal never indexed
        (b"\x40\x01a\x01b", True, False),  # literal with incremental indexing
        (b"\x20", True, False),  # table size 0
        (b"\xbe", False, True),  # indexed, dynamic
        (b"\x0f\x2f\x01v", False, True),  # literal whose name is in the dynamic table
        (b"\x7e\x01v", True, True),
    ],
)
def test_a_block_says_what_it_does_with_the_table(
    block: bytes, changes_table: bool, reads_table: bool
) -> None:
    ours = decoder()
    ours.decode(b"\x40\x01n\x01v")
    read = ours.decode(block)
    assert (read.changes_table, read.reads_table) == (changes_table, reads_table)


def test_a_full_table_drops_its_oldest_entries() -> None:
    ours = Decoder(max_table_bytes=2 * (32 + 2), max_list_bytes=LIST_BYTES)
    for name in (b"a", b"b", b"c"):
        ours.decode(b"\x40\x01" + name + b"\x01v")
    assert ours.table == (("c", "v"), ("b", "v"))


def test_an_entry_larger_than_the_table_empties_it() -> None:
    ours = Decoder(max_table_bytes=40, max_list_bytes=LIST_BYTES)
    ours.decode(b"\x40\x01a\x01v")
    assert ours.decode(b"\x40\x01b\x14" + b"v" * 20).fields == [("b", "v" * 20)]
    assert not ours.table
    ours.decode(b"\x40\x01c\x01v")
    assert list(ours.table) == [("c", "v")]


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"\x80", "index from 1 to 61, got 0"),
        (b"\xbe", "index from 1 to 61, got 62"),
        (b"\x40\x05ab", "5 bytes of a string, got 2"),
        (b"\x40", "cut"),
        (b"\xff", "cut"),
        (b"\xff" + b"\x80" * 6, "integers of at most 6 bytes"),
        (b"\x3f\xe2\x1f", "table of at most 4096 bytes, got 4097"),
        (b"\x82\x20", "before the first field"),
    ],
)
def test_a_broken_block_is_a_compression_error(block: bytes, reason: str) -> None:
    with pytest.raises(CompressionError, match=reason):
        decoder().decode(block)


def test_a_list_is_cut_at_its_limit_and_the_table_is_not() -> None:
    ours = decoder(max_list_bytes=100)
    ours.decode(b"\x40\x01a\x14" + b"v" * 20)  # 53 bytes
    read = ours.decode(b"\xbe" * 1000 + b"\x40\x01b\x01v")
    assert read.fields == [("a", "v" * 20)]
    assert read.size == 1000 * 53 + 34
    assert ours.table[0] == ("b", "v")
