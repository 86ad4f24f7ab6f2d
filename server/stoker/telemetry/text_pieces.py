"""Text that is written a little at a time and leaves as it is: in pieces, never as one.

To join a scrape of 8 MB takes milliseconds of the loop, or of the core that it runs on, and the
socket takes it in shares anyhow. So what was written is joined piece by piece as it comes, each
large enough that nobody joins it with its neighbours later.

Knows nothing of metrics.
"""

from typing import Final

PIECE_BYTES: Final = 32 << 10
"""A piece has at least so many bytes, but for those that are in the way of a larger one. From half
of it on no transport copies a piece."""


class TextPieces:
    """`pieces`, one after another, are the text, once `end` was called."""

    __slots__ = ("_size", "_waiting", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._waiting: list[bytes] = []
        self._size = 0

    def add(self, text: bytes) -> int:
        """Puts `text` behind what was added before. Gives the bytes that this copied."""
        if len(text) >= PIECE_BYTES:
            copied = self.end()
            self.pieces.append(text)
            return copied
        self._waiting.append(text)
        self._size += len(text)
        return self.end() if self._size >= PIECE_BYTES else 0

    def end(self) -> int:
        """Joins what waits. Gives its bytes."""
        size = self._size
        if size:
            self.pieces.append(b"".join(self._waiting))
            self._waiting.clear()
            self._size = 0
        return size
