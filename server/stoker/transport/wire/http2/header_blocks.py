"""From header blocks to request heads, each block once while its meaning cannot change.

Clients send the same block for every call, so a connection remembers what each one meant. That is
sound only under two rules:

  1. A block that changes the dynamic table is never remembered: decoding it is its meaning.
  2. A block that reads the dynamic table is remembered until the table changes; one that does not
     is remembered for ever.

Counting the entries of the table would not do: a full one that takes an entry and drops another
looks unchanged.

Of blocks that end in fresh literals only those are decoded, and what the block begins with, a row
of indices, is remembered. Where the fresh ones enter the table, every call moves its other entries
by as many places. So a third rule:

  3. A beginning that reads the dynamic table is remembered while all entries that it reads are
     there. After others entered, it is the one whose indices are higher by their number: an entry
     has the same number for ever, counted from the first that the table took, and its index is how
     many came after it (RFC 7541, section 2.3.2).
Hot path.  Source: RFC 7541, section 2.3; design, section "The wire".
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from stoker.transport.wire.http2.hpack import Block, Decoder, Field, list_bytes
from stoker.transport.wire.http2.repeated_heads import FRESH, RepeatedHeads, Varied, are_fresh
from stoker.transport.wire.limits import MAX_HEAD_BYTES, REMEMBERED_BYTES, REMEMBERED_HEADS

HeadT = TypeVar("HeadT", bound=Varied)

_DYNAMIC: Final = 0x80 + 62
"""The byte that is the first index of the dynamic table."""
_LONG: Final = 0xFF
"""The byte that begins an index of several bytes."""

_MOVED: Final = [
    bytes([byte if byte < _DYNAMIC else (byte + by) & 0xFF for byte in range(256)])
    for by in range(_LONG - _DYNAMIC)
]
"""What indices become, each in one byte, when so many entries have entered the table."""


class _Beginning(Generic[HeadT]):
    """What blocks began with that were alike but for literals at their end."""

    __slots__ = ("block", "changes", "entered", "fields", "head", "oldest", "reads_table", "room",
                 "size")  # fmt: skip

    def __init__(
        self,
        block: bytes,
        fields: list[Field],
        head: HeadT,
        size: int,
        entered: int,
        changes: int,
    ) -> None:
        """`entered` and `changes` are the decoder's from before it decoded the block."""
        self.block = block
        self.fields = fields
        self.head = head
        self.size = size
        self.entered = entered
        self.changes = changes
        highest = max(block)
        self.reads_table = highest >= _DYNAMIC
        self.room = _LONG - 1 - highest
        """By how much its indices may still grow; negative where they have several bytes each."""
        self.oldest = entered + _DYNAMIC - 1 - highest
        """The number of the oldest entry that it reads, where each index is one byte."""

    def follows(self, decoder: Decoder) -> bool:
        """Makes it the beginning of a block that says the same with the table as it is; False
        where none does."""
        self.changes = decoder.changes
        by = decoder.entered - self.entered
        self.room -= by
        if self.room < 0 or self.oldest < decoder.oldest:
            return False
        self.entered += by
        self.block = self.block.translate(_MOVED[by])
        return True


class HeaderBlocks(Generic[HeadT]):
    """What the header blocks of one connection mean."""

    def __init__(
        self,
        decoder: Decoder,
        read: Callable[[Block], HeadT],
        heads: RepeatedHeads[HeadT],
    ) -> None:
        """`read` makes a head of a decoded block, and `heads` of one that differs from an earlier
        one in fresh fields only; what they raise passes through `head`."""
        self._decoder = decoder
        self._read = read
        self._heads = heads
        self._lasting: dict[bytes, HeadT] = {}
        self._until_change: dict[bytes, HeadT] = {}
        self._beginning: _Beginning[HeadT] | None = None

    def known(self, block: bytes) -> HeadT | None:
        """The head that a remembered block stands for."""
        return self._lasting.get(block) or self._until_change.get(block)

    def head(self, block: bytes) -> HeadT:
        """The head that a block stands for. Raises CompressionError, and what `read` raises."""
        return self.known(block) or self.head_of_unknown(block)

    def head_of_unknown(self, block: bytes) -> HeadT:
        """The same for a block that is not `known`."""
        decoder, beginning = self._decoder, self._beginning
        entered, changes = decoder.entered, decoder.changes
        if (
            beginning is not None
            and beginning.changes != changes
            and beginning.reads_table
            and not beginning.follows(decoder)
        ):
            beginning = self._beginning = None
        if beginning is not None and block.startswith(beginning.block):
            rest = decoder.decode(block, len(beginning.block))
            if rest.changes_table:
                self._until_change.clear()
            if beginning.size + rest.size <= MAX_HEAD_BYTES:
                varied = self._heads.behind(beginning.head, rest.fields)
                if varied is not None:
                    return varied
            decoded = Block(
                beginning.fields + rest.fields,
                beginning.size + rest.size,
                rest.changes_table,
                rest.reads_table or beginning.reads_table,
                -1,
                0,
            )
        else:
            decoded = self.decode(block)
        if decoded.size <= MAX_HEAD_BYTES:
            varied = self._heads.varied(decoded)
            if varied is not None:
                self._begin(block, decoded, entered, changes)
                return varied
        head = self._read(decoded)
        if not decoded.changes_table and max(len(block), decoded.size) <= REMEMBERED_BYTES:
            remembered = self._until_change if decoded.reads_table else self._lasting
            if len(remembered) >= REMEMBERED_HEADS:
                remembered.clear()
            remembered[block] = head
        return head

    def _begin(self, block: bytes, decoded: Block, entered: int, changes: int) -> None:
        """Remembers what a block began with that has its fresh fields, and no others, as literals
        at its end. Others among them are the request's own, such as the :path of clients that
        index no paths: without them its head would be another request's, or none."""
        if decoded.literal_at < 2 or block[0] < 0x80:  # a table's size
            return
        at = len(decoded.fields) - decoded.literals
        fields = decoded.fields[:at]
        if not (are_fresh(decoded.fields[at:]) and FRESH.isdisjoint([name for name, _ in fields])):
            return
        size = list_bytes(fields)
        if max(size, decoded.literal_at) > REMEMBERED_BYTES:
            return
        self._beginning = _Beginning(
            block[: decoded.literal_at],
            fields,
            self._heads.lasting(fields),
            size,
            entered,
            changes,
        )

    def decode(self, block: bytes) -> Block:
        """The fields of a block that is no request's, such as trailers. Raises CompressionError."""
        decoded = self._decoder.decode(block)
        if decoded.changes_table:
            self._until_change.clear()
        return decoded
