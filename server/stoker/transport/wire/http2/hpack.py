"""Decodes header blocks: one HPACK decoder for each connection.

A block is a row of fields: indices into a static and a dynamic table, or literals, of which some
enter the dynamic table. So every block must be decoded, in order, even one whose request is
refused. `Block` says what a cache of blocks needs to know: whether decoding changed the table, and
whether it read it. Each call of a client that sends a fresh deadline or trace id is such a block:
`hpack` takes 16 to 25 us for it, this 2.4 to 4.5 (benchmarks/results/0005-header-blocks.md). Tests
hold this decoder equal to `hpack`.

Names and values are text of one character a byte. Whether they form a request is not looked at
here (`request_fields.py`).  Hot path.  Source: RFC 7541.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from stoker.transport.wire.http2.huffman import HuffmanError, decode

Field: TypeAlias = tuple[str, str]
"""Name and value."""

ENTRY_BYTES: Final = 32
"""What an entry counts besides its name and value (RFC 7541, 4.1)."""

_STATIC: Final[tuple[Field, ...]] = (
    ("", ""),  # indices begin at 1
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
)
_STATIC_ENTRIES: Final = len(_STATIC) - 1
_MOST_INTEGER_BYTES: Final = 5
"""Continuation bytes of an integer: 35 bits, more than any length or index needs."""


class CompressionError(Exception):
    """The block cannot be decoded, so the table is lost, and the connection with it."""


@dataclass(slots=True)
class Block:
    """What a header block holds. Not frozen: it is built for every block that no cache knows."""

    fields: list[Field]
    """In order; without those after `size` passed the limit."""
    size: int
    """Bytes of the list as RFC 9113, 6.5.2 counts it: also of fields that are left out."""
    changes_table: bool
    """Something was added to the dynamic table, or the table's size was set."""
    reads_table: bool
    """Something was taken from the dynamic table."""
    literal_at: int
    """Where the first literal begins, behind fields that are indices; -1 where one comes later."""
    literals: int
    """Fields from there on."""


class Decoder:
    """The dynamic table of one direction of one connection."""

    def __init__(self, *, max_table_bytes: int, max_list_bytes: int) -> None:
        """`max_table_bytes` is what our SETTINGS_HEADER_TABLE_SIZE allows. Lists are cut at
        `max_list_bytes`, by their size as SETTINGS_MAX_HEADER_LIST_SIZE counts."""
        self._allowed = max_table_bytes
        self._capacity = max_table_bytes
        self._most = max_list_bytes
        self._table: list[Field] = []
        """The newest entry is last."""
        self._bytes = 0
        self.entered = 0
        """Entries that the table ever took. The one that came as number n, counted from 0, has the
        index `61 + entered - n`, as long as it is there."""
        self.changes = 0
        """Grows with every block that did something to the table."""

    @property
    def oldest(self) -> int:
        """The number of the oldest entry that is there, as `entered` counts."""
        return self.entered - len(self._table)

    @property
    def table(self) -> tuple[Field, ...]:
        """The dynamic table, newest entry first."""
        return tuple(reversed(self._table))

    def decode(self, block: bytes, at: int = 0) -> Block:
        """The fields of the block from `at` on, where one begins; the table changes as they say.
        Raises CompressionError."""
        try:
            return self._decode(block, at)
        except IndexError:
            raise CompressionError("expected a whole header block, got one that is cut") from None
        except HuffmanError as error:
            raise CompressionError(str(error)) from error

    def _decode(self, block: bytes, at: int) -> Block:
        # Without a call for each integer, string and entry, and with what changes in locals: a
        # block that fails ends the connection, and with it the table.
        is_amid, end = at > 0, len(block)
        table, most, capacity = self._table, self._most, self._capacity
        filled, entered = self._bytes, 0
        fields: list[Field] = []
        size = 0
        changes = reads = False
        literal_at, indexed = -1, 0
        while at < end:
            first = block[at]
            at += 1
            if first >= 0x80:
                index = first - 0x80
                if index == 0x7F:
                    index, at = _integer(block, at, index)
                if 0 < index <= _STATIC_ENTRIES:
                    field = _STATIC[index]
                elif 0 < index - _STATIC_ENTRIES <= len(table):
                    field = table[_STATIC_ENTRIES - index]
                    reads = True
                else:
                    raise self._no_entry(index)
                size += len(field[0]) + len(field[1]) + ENTRY_BYTES
            elif 0x20 <= first < 0x40:
                if fields or size or is_amid:
                    raise CompressionError("expected table sizes before the first field")
                size_wanted = first & 0x1F
                if size_wanted == 0x1F:
                    size_wanted, at = _integer(block, at, size_wanted)
                self._resize(size_wanted)
                capacity, filled = self._capacity, self._bytes
                changes = True
                continue
            else:
                if literal_at < 0:
                    literal_at, indexed = at - 1, len(fields)
                index = first - 0x40 if first >= 0x40 else first & 0x0F
                if index == (0x3F if first >= 0x40 else 0x0F):
                    if block[at] < 0x80:
                        index += block[at]
                        at += 1
                    else:
                        index, at = _integer(block, at, index)
                if not index:
                    name, at = _text(block, at)
                elif index <= _STATIC_ENTRIES:
                    name = _STATIC[index][0]
                elif index - _STATIC_ENTRIES <= len(table):
                    name = table[_STATIC_ENTRIES - index][0]
                    reads = True
                else:
                    raise self._no_entry(index)
                length = block[at]  # from here as `_text`
                at += 1
                is_coded = length >= 0x80
                if is_coded:
                    length -= 0x80
                if length == 0x7F:
                    length, at = _integer(block, at, length)
                raw = block[at : at + length]
                at += length
                if at > end:
                    raise _cut(length, len(raw))
                value = decode(raw) if is_coded else raw.decode("latin-1")
                field = name, value
                added = len(name) + len(value) + ENTRY_BYTES
                size += added
                if first >= 0x40:
                    # The oldest entries go until this one fits. One that is larger than the table
                    # empties it and is not kept (RFC 7541, 4.4).
                    changes = True
                    filled += added
                    while filled > capacity and table:
                        name, value = table[0]
                        filled -= len(name) + len(value) + ENTRY_BYTES
                        del table[0]  # of at most 128
                    if filled > capacity:
                        filled = 0
                    else:
                        table.append(field)
                        entered += 1
            if size <= most:
                fields.append(field)
        if changes:
            self._bytes = filled
            self.entered += entered
            self.changes += 1
        return Block(fields, size, changes, reads, literal_at, len(fields) - indexed)

    def _no_entry(self, index: int) -> CompressionError:
        return CompressionError(
            f"expected an index from 1 to {_STATIC_ENTRIES + len(self._table)}, got {index}"
        )

    def _resize(self, capacity: int) -> None:
        if capacity > self._allowed:
            raise CompressionError(
                f"expected a table of at most {self._allowed} bytes, got {capacity}"
            )
        self._capacity = capacity
        table = self._table
        while self._bytes > capacity:
            name, value = table.pop(0)
            self._bytes -= len(name) + len(value) + ENTRY_BYTES


def list_bytes(fields: list[Field]) -> int:
    """The size of a list of fields as RFC 9113, 6.5.2 counts it."""
    return sum([len(name) + len(value) + ENTRY_BYTES for name, value in fields])


def _integer(block: bytes, at: int, value: int) -> tuple[int, int]:
    """An integer that did not fit its prefix, and where it ends (RFC 7541, 5.1)."""
    for shift in range(0, 7 * _MOST_INTEGER_BYTES, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise CompressionError(f"expected integers of at most {_MOST_INTEGER_BYTES + 1} bytes")


def _text(block: bytes, at: int) -> tuple[str, int]:
    """A string literal, and where it ends (RFC 7541, 5.2)."""
    first = block[at]
    at += 1
    length = first & 0x7F
    if length == 0x7F:
        length, at = _integer(block, at, length)
    end = at + length
    raw = block[at:end]
    if len(raw) < length:
        raise _cut(length, len(raw))
    return decode(raw) if first & 0x80 else raw.decode("latin-1"), end


def _cut(length: int, came: int) -> CompressionError:
    return CompressionError(f"expected {length} bytes of a string, got {came}")
