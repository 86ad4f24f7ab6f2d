"""Text that leaves in pieces."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from stoker.telemetry.text_pieces import PIECE_BYTES, TextPieces
from stoker.transport.wire.limits import COPIED_ROW_BYTES

SIZES = st.one_of(st.integers(0, 200), st.integers(0, 3 * PIECE_BYTES))


@given(st.lists(SIZES, max_size=30))
def test_pieces_are_the_text_and_no_two_neighbours_are_small(sizes: list[int]) -> None:
    texts = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    text = TextPieces()

    for each in texts:
        text.add(each)
    text.end()

    lengths = [len(piece) for piece in text.pieces]
    assert b"".join(text.pieces) == b"".join(texts)
    assert 0 not in lengths
    small = [length < PIECE_BYTES for length in lengths]
    assert not any(all(pair) for pair in pairwise(small))


def test_a_large_text_is_not_copied() -> None:
    large = bytes(PIECE_BYTES)
    text = TextPieces()

    copied = [text.add(b"small"), text.add(large), text.add(b"rest"), text.end()]

    assert copied == [0, len(b"small"), 0, len(b"rest")]
    assert text.pieces[1] is large


def test_a_transport_copies_no_piece_again() -> None:
    assert PIECE_BYTES >= COPIED_ROW_BYTES
