"""From header blocks to request heads, each block once while its meaning cannot change.

Clients send the same block for every call, so a connection remembers what each one meant. That is
sound only under two rules:

  1. A block that changes the dynamic table is never remembered: decoding it is its meaning.
  2. A block that reads the dynamic table is remembered until the table changes; one that does not
     is remembered for ever.

Counting the entries of the table would not do: a full one that takes an entry and drops another
looks unchanged.  Hot path.  Source: RFC 7541, section 2.3; design, section "The wire".
"""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from stoker.transport.wire.http2.hpack import Block, Decoder

REMEMBERED_BLOCKS: Final = 64
"""Of one connection; at the limit all are forgotten. A client has a few: one for each method that
it calls and each of its deadlines."""

REMEMBERED_BYTES: Final = 2 << 10
"""Of a block and of its fields. Longer ones carry tokens and hardly come twice; a short one may
stand for many times its bytes by its indices. Some 256 KiB for a connection at most."""

HeadT = TypeVar("HeadT")


class HeaderBlocks(Generic[HeadT]):
    """What the header blocks of one connection mean."""

    def __init__(self, decoder: Decoder, read: Callable[[Block], HeadT]) -> None:
        """`read` makes a head of a decoded block; what it raises passes through `head`."""
        self._decoder = decoder
        self._read = read
        self._lasting: dict[bytes, HeadT] = {}
        self._until_change: dict[bytes, HeadT] = {}

    def known(self, block: bytes) -> HeadT | None:
        """The head that a remembered block stands for."""
        return self._lasting.get(block) or self._until_change.get(block)

    def head(self, block: bytes) -> HeadT:
        """The head that a block stands for. Raises CompressionError, and what `read` raises."""
        known = self.known(block)
        if known is not None:
            return known
        decoded = self.decode(block)
        head = self._read(decoded)
        if not decoded.changes_table and max(len(block), decoded.size) <= REMEMBERED_BYTES:
            remembered = self._until_change if decoded.reads_table else self._lasting
            if len(remembered) >= REMEMBERED_BLOCKS:
                remembered.clear()
            remembered[block] = head
        return head

    def decode(self, block: bytes) -> Block:
        """The fields of a block that is no request's, such as trailers. Raises CompressionError."""
        decoded = self._decoder.decode(block)
        if decoded.changes_table:
            self._until_change.clear()
        return decoded
