"""From header blocks to request heads, each block once while its meaning cannot change.

Clients send the same block for every call, so a connection remembers what each one meant. That is
sound only under two rules:

  1. A block that changes the dynamic table is never remembered: decoding it is its meaning.
  2. A block that reads the dynamic table is remembered until the table changes; one that does not
     is remembered for ever.

Counting the entries of the table would not do: a full one that takes an entry and drops another
looks unchanged. The same holds for what a block begins with: of blocks that end in fresh literals
only those are decoded.  Hot path.  Source: RFC 7541, section 2.3; design, section "The wire".
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from stoker.transport.wire.http2.hpack import Block, CompressionError, Decoder, Field, list_bytes
from stoker.transport.wire.http2.repeated_heads import FRESH, RepeatedHeads, Varied, are_fresh
from stoker.transport.wire.limits import MAX_HEAD_BYTES, REMEMBERED_BYTES, REMEMBERED_HEADS

HeadT = TypeVar("HeadT", bound=Varied)


class _Beginning(Generic[HeadT]):
    """What blocks began with that were alike but for literals at their end."""

    __slots__ = ("block", "fields", "head", "reads_table", "size")

    def __init__(
        self, block: bytes, fields: list[Field], head: HeadT, size: int, reads_table: bool
    ) -> None:
        self.block = block
        self.fields = fields
        self.head = head
        self.size = size
        self.reads_table = reads_table


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
        known = self.known(block)
        if known is not None:
            return known
        beginning = self._beginning
        if beginning is not None and block.startswith(beginning.block):
            rest = self.decode(block[len(beginning.block) :])
            if rest.changes_table and block[len(beginning.block)] & 0xE0 == 0x20:
                raise CompressionError("expected table sizes before the first field")
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
                self._begin(block, decoded)
                return varied
        head = self._read(decoded)
        if not decoded.changes_table and max(len(block), decoded.size) <= REMEMBERED_BYTES:
            remembered = self._until_change if decoded.reads_table else self._lasting
            if len(remembered) >= REMEMBERED_HEADS:
                remembered.clear()
            remembered[block] = head
        return head

    def _begin(self, block: bytes, decoded: Block) -> None:
        """Remembers what a block began with that has its fresh fields, and no others, as literals
        at its end. Others among them are the request's own, such as the :path of clients that
        index no paths: without them its head would be another request's, or none."""
        if decoded.literal_at < 2 or decoded.changes_table:
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
            decoded.reads_table,
        )

    def decode(self, block: bytes) -> Block:
        """The fields of a block that is no request's, such as trailers. Raises CompressionError."""
        decoded = self._decoder.decode(block)
        if decoded.changes_table:
            self._until_change.clear()
            if self._beginning is not None and self._beginning.reads_table:
                self._beginning = None
        return decoded
