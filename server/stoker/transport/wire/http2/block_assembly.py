"""From HEADERS and CONTINUATION frames to whole header blocks. Pure; knows no stream's state.

Source: RFC 9113, sections 4.3, 6.2 and 6.10.
"""

from typing import Final, TypeAlias

from stoker.transport.wire.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PRIORITISED,
    ConnectionFault,
    ErrorCode,
)
from stoker.transport.wire.limits import MAX_BLOCK_BYTES, MAX_CONTINUATIONS

_PRIORITY_BYTES: Final = 5

WholeBlock: TypeAlias = tuple[int, bool, bytes]
"""Stream, whether it ends with the block, and the block."""


class BlockAssembly:
    """The header block that a peer is sending; there is at most one."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        """Of a block that is not whole."""
        self._number = 0
        self._ends = False

    @property
    def is_amid(self) -> bool:
        """Whether nothing but CONTINUATION may come."""
        return bool(self.pieces)

    def headers(self, payload: bytes, flags: int, number: int) -> WholeBlock | None:
        """HEADERS came; the block if it is whole. Raises ConnectionFault."""
        if not number & 1:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"expected HEADERS on an odd stream, got it on {number}"
            )
        if len(payload) > MAX_BLOCK_BYTES:
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"expected a head of at most {MAX_BLOCK_BYTES} bytes, got {len(payload)}",
            )
        if flags & (PADDED | PRIORITISED):
            payload = _unwrapped(payload, flags)
        if flags & END_HEADERS:
            return number, bool(flags & END_STREAM), payload
        self._number, self._ends = number, bool(flags & END_STREAM)
        self._add(payload)
        return None

    def continuation(self, payload: bytes, flags: int, number: int) -> WholeBlock | None:
        """CONTINUATION came; the block if it is whole. Raises ConnectionFault."""
        if not self.pieces or number != self._number:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "expected CONTINUATION only after a part of a head"
            )
        self._add(payload)
        if not flags & END_HEADERS:
            return None
        block = b"".join(self.pieces)
        self.pieces.clear()
        return number, self._ends, block

    def _add(self, piece: bytes) -> None:
        self.pieces.append(piece)
        too_many = len(self.pieces) > MAX_CONTINUATIONS + 1
        if too_many or sum(map(len, self.pieces)) > MAX_BLOCK_BYTES:
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"expected a head of at most {MAX_BLOCK_BYTES} bytes in at most "
                f"{MAX_CONTINUATIONS} CONTINUATION frames",
            )


def _unwrapped(payload: bytes, flags: int) -> bytes:
    """A header block without padding and priority."""
    begin, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "expected a pad length in HEADERS")
        begin, end = 1, end - payload[0]
    if flags & PRIORITISED:
        begin += _PRIORITY_BYTES
    if begin <= end:
        return payload[begin:end]
    if begin > len(payload):
        raise ConnectionFault(
            ErrorCode.FRAME_SIZE_ERROR, f"expected {_PRIORITY_BYTES} bytes of priority in HEADERS"
        )
    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected less padding than payload in HEADERS")
