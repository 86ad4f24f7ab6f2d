"""Decodes HPACK's Huffman code, a byte at a time.

The code is canonical: its bit lengths give the tree. A state is an inner node of the tree; what a
byte does in a state (the text that it completes, and the row of steps of the state after it) is
worked out when it first happens and remembered: 40 bytes then take 40 look-ups. We never encode:
answers use plain strings, made once.  Hot path.  Source: RFC 7541, section 5.2 and appendix B.
"""

import sys
from typing import Final, TypeAlias, cast

_LENGTHS: Final = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b"
    "080606060505050606060606060607080f060c0a0d0607070707070707070707070707070707070707070707"
    "0807080d130d0e060f05060506050606060507070606060506070605050607070707070f0b0e0d1c14161414"
    "1616161716171717171718171818161718171717171516171617171816151416161717151716161815161717"
    "151516151716171714161616171616171a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a"
    "1c1b1b1b14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
"""Bits of the code of each byte, and of the end of string (256) last."""

Row: TypeAlias = list[tuple["Row", str]]
"""What each byte does in one state."""
_UNKNOWN: Final = cast(tuple[Row, str], ())

_END: Final = 256
_MOST_PADDING: Final = 7


class HuffmanError(Exception):
    """The bytes are no Huffman code. The message says why."""


def decode(data: bytes) -> str:
    """The text that `data` stands for, of one character a byte. Raises HuffmanError."""
    row = _root
    pieces: list[str] = []
    append = pieces.append
    try:
        for byte in data:
            row, piece = row[byte]
            append(piece)
    except ValueError:  # some step is `_UNKNOWN`
        _learn(data)
        return decode(data)
    if id(row) not in _padding:
        raise HuffmanError("expected padding of up to 7 bits, all of them 1")
    return "".join(pieces)


def _learn(data: bytes) -> None:
    """Works out all steps of `data`, and remembers them. Raises HuffmanError."""
    state = 0
    for byte in data:
        at = state
        completed = bytearray()
        for bit in range(7, -1, -1):
            state = _nodes[state][byte >> bit & 1]
            if state < 0:
                if state == -1 - _END:
                    raise HuffmanError("expected no end-of-string symbol")
                completed.append(-1 - state)
                state = 0
        # The same text is one object: what is small stays in the processor's caches.
        _rows[at][byte] = _rows[state], sys.intern(completed.decode("latin-1"))


def _tree() -> list[list[int]]:
    """Inner nodes as [after 0, after 1]: an inner node's number, or -1 - symbol for a leaf."""
    nodes: list[list[int]] = [[0, 0]]
    code = length = 0
    for symbol in sorted(range(len(_LENGTHS)), key=lambda symbol: (_LENGTHS[symbol], symbol)):
        code <<= _LENGTHS[symbol] - length
        length = _LENGTHS[symbol]
        node = 0
        for bit in range(length - 1, 0, -1):
            side = code >> bit & 1
            if not nodes[node][side]:
                nodes.append([0, 0])
                nodes[node][side] = len(nodes) - 1
            node = nodes[node][side]
        nodes[node][code & 1] = -1 - symbol
        code += 1
    return nodes


_nodes: Final = _tree()
_rows: Final[list[Row]] = [[_UNKNOWN] * 256 for _ in _nodes]
_root: Final = _rows[0]


def _padding_rows() -> frozenset[int]:
    """Which rows are of states that up to seven 1s lead to from the root, by their ids."""
    states, node = {0}, 0
    for _ in range(_MOST_PADDING):
        node = _nodes[node][1]
        states.add(node)
    return frozenset([id(_rows[state]) for state in states])


_padding: Final = _padding_rows()
