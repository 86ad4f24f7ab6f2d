"""A large JSON text of an inference call: all but the inputs' data as values, the data in pieces.

`read_in_steps` walks the text once. `inputs[].data` becomes `Pieces` (`json_pieces.py`); the rest,
the frame, is small in every honest call and bounded here, because it becomes Python objects.
Brackets are found by numpy in blocks, not one by one: 1 GB/s, and the GIL is free meanwhile.

A block is looked at from a known state: open arrays and objects, inside of a string or not. Within
it, after escapes are blotted out, a byte is inside of a string if the number of quotes up to it,
and the state, are odd together; brackets outside of strings, summed, give the depth at each.
"""

import re
from typing import Final

import numpy as np

from stoker.errors import InvalidRequest, TooLarge
from stoker.tensor import Array
from stoker.transport.rest import json_standard
from stoker.transport.rest.json_pieces import PIECE_BYTES, Pieces, check
from stoker.transport.steps import Steps

MAX_FRAME_BYTES: Final = 1 << 20
"""JSON besides the inputs' data, without space, with what objects cost besides their text. Reading
1 MiB holds the GIL for up to 30 ms."""

_FIRST_BLOCK_BYTES: Final = 1 << 10

_ENTRY_BYTES: Final = 16
"""What a key, a value, an array or an object counts besides its text: `[]` is two bytes, and 60 as
a list, which the garbage collector follows too."""

_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR: Final = re.compile(rb"[^ \t\n\r,\]}]++")

_COMMA, _OBJECT, _QUOTE = b',{"'
_OPENS, _CLOSES = b"{}"
_CASE: Final = 0x20
"""The bit in which `[` and `{`, `]` and `}` differ."""
_ALIKE: Final = 0xD9
"""The bits in which no two of the four differ."""
_BRACKET: Final = _OPENS & _ALIKE


def read_in_steps(text: bytes | memoryview) -> Steps[object]:
    """The JSON value, with `Pieces` for arrays at `inputs[].data`.

    Raises InvalidRequest for text that is not JSON, but for the inside of pieces, and TooLarge
    for a frame of more than MAX_FRAME_BYTES.
    """
    reader = _FrameReader(memoryview(text))
    value: object
    if reader.next_is(b"{"):
        value = yield from _top(reader)
    else:
        value = yield from reader.value()
    reader.finish()
    return value


def _top(reader: "_FrameReader") -> Steps[dict[str, object]]:
    top: dict[str, object] = {}
    has_more = reader.enter(b"}")
    while has_more:
        key = reader.key()
        if key == "inputs" and reader.next_is(b"["):
            inputs = []
            has_more = reader.enter(b"]")
            while has_more:
                inputs.append((yield from _input(reader)))
                has_more = reader.goes_on(b"]")
            top[key] = inputs
        else:
            top[key] = yield from reader.value()
        has_more = reader.goes_on(b"}")
    return top


def _input(reader: "_FrameReader") -> Steps[object]:
    if not reader.next_is(b"{"):
        return (yield from reader.value())
    entry: dict[str, object] = {}
    has_more = reader.enter(b"}")
    while has_more:
        key = reader.key()
        if key == "data" and reader.next_is(b"["):
            earlier = entry.get(key)
            if isinstance(earlier, Pieces):  # the last counts, but both must be JSON
                yield from check(earlier)
            entry[key] = yield from reader.pieces()
        else:
            entry[key] = yield from reader.value()
        has_more = reader.goes_on(b"}")
    return entry


class _FrameReader:
    """A position in the text, always at something that is no space, and what may yet be read."""

    def __init__(self, text: memoryview) -> None:
        self._text = text
        self._at = 0
        self._left = MAX_FRAME_BYTES
        self._skip_space()

    def next_is(self, byte: bytes) -> bool:
        """Whether this comes next."""
        return self._text[self._at : self._at + 1] == byte

    def enter(self, closing: bytes) -> bool:
        """Takes an opening bracket. False if its closing one follows, which is taken too."""
        self._take(1)
        if self.next_is(closing):
            self._take(1)
            return False
        return True

    def goes_on(self, closing: bytes) -> bool:
        """Takes a comma, or else the closing bracket: then False."""
        goes_on = self.next_is(b",")
        if not goes_on and not self.next_is(closing):
            raise self._malformed(f"no comma or {closing.decode()}")
        self._take(1)
        return goes_on

    def key(self) -> str:
        """Takes a key and its colon."""
        if not self.next_is(b'"'):
            raise self._malformed("no key")
        key = self._parsed(self._match(_STRING, "an endless key"))
        if not self.next_is(b":"):
            raise self._malformed("no colon behind a key")
        self._take(1)
        self._count(_ENTRY_BYTES)
        assert isinstance(key, str)
        return key

    def value(self) -> Steps[object]:
        """Takes any value, as Python objects."""
        if self.next_is(b'"'):
            return self._parsed(self._match(_STRING, "an endless string"))
        if not (self.next_is(b"{") or self.next_is(b"[")):
            return self._parsed(self._match(_SCALAR, "no value"))
        brackets, begin, at = _Brackets(), self._at, self._at
        while not brackets.are_closed:
            if at - begin > self._left:
                raise _too_large()
            at = self._look(brackets, at)
            yield 0
        self._count(_ENTRY_BYTES * (brackets.opened - 1))
        return self._parsed(bytes(self._text[begin:at]))

    def pieces(self) -> Steps[Pieces]:
        """Takes an array, which stays text."""
        at = self._at
        pieces, brackets = Pieces(self._text, at), _Brackets()
        while not brackets.are_closed:
            begin, at = at, self._look(brackets, at)
            pieces.depth = brackets.deepest
            if pieces.object_at < 0:
                if brackets.comma >= 0:
                    pieces.cuts.append((begin + brackets.comma + 1, brackets.comma_depth))
                if brackets.object >= 0:
                    pieces.object_at = begin + brackets.object
                    pieces.object_depth = brackets.object_depth
            yield 0
        pieces.end = at
        self._at = at
        self._count(_ENTRY_BYTES)
        self._skip_space()
        return pieces

    def finish(self) -> None:
        """Raises InvalidRequest if something follows."""
        if self._at < len(self._text):
            raise self._malformed("more behind the value")

    def _look(self, brackets: "_Brackets", at: int) -> int:
        """Looks at a block and gives the position behind it. Most arrays end in the first one."""
        size = _FIRST_BLOCK_BYTES if at == self._at else PIECE_BYTES
        size = brackets.look(bytes(self._text[at : at + size]))
        if not size:
            raise self._malformed("brackets that are not closed")
        return at + size

    def _match(self, pattern: re.Pattern[bytes], problem: str) -> bytes:
        found = pattern.match(self._text, self._at, self._at + self._left + 1)
        if found is None:
            if len(self._text) - self._at > self._left:
                raise _too_large()
            raise self._malformed(problem)
        return found[0]

    def _parsed(self, text: bytes) -> object:
        """Takes this text, which is a whole value."""
        try:
            value: object = json_standard.parse(text)
        except (ValueError, RecursionError) as error:
            raise self._malformed(str(error)) from error
        self._take(len(text))
        self._count(_ENTRY_BYTES)
        return value

    def _take(self, size: int) -> None:
        self._at += size
        self._count(size)
        self._skip_space()

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _too_large()

    def _skip_space(self) -> None:
        while True:
            found = _SPACE.match(self._text, self._at, self._at + PIECE_BYTES)
            assert found is not None
            self._at = found.end()
            if found.end() - found.start() < PIECE_BYTES:
                return

    def _malformed(self, problem: str) -> InvalidRequest:
        return InvalidRequest(f"expected a JSON text, got one with: {problem} (at byte {self._at})")


def _too_large() -> TooLarge:
    return TooLarge(
        f"expected JSON of at most {MAX_FRAME_BYTES} bytes besides the inputs' data, with "
        f"{_ENTRY_BYTES} added for each key and value, got more"
    )


class _Brackets:
    """Arrays and objects that are open, block after block."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = False
        self.are_closed = False
        """The bracket that came first is closed."""
        self.opened = 0
        """All that were opened so far."""
        self.deepest = 0
        self.comma = -1
        """In the last block: its last comma in no string and before any object. -1 without one."""
        self.comma_depth = 0
        self.object = -1
        """In the last block: its first `{` in no string. -1 without one."""
        self.object_depth = 0

    def look(self, block: bytes) -> int:
        """Takes the block, up to the bracket that closes all or to its end. Gives the bytes taken;
        0 where the text ends inside of a bracket."""
        self.comma = self.object = -1
        if not self._is_in_string and not any(mark in block for mark in _NOT_FLAT):
            self.comma, self.comma_depth = block.rfind(b","), self._depth
            return len(block)
        outside: Array | None = None
        if self._is_in_string or b'"' in block:
            # An escape must not be cut: the next block would take its second byte for a quote.
            if (len(block) - len(block.rstrip(b"\\"))) % 2:
                block = block[:-1]
            outside = self._outside_of_strings(block)
        codes = np.frombuffer(block, np.uint8)
        # Two passes over all bytes find what may be a bracket; the rest looks at those alone.
        where = np.flatnonzero((codes & _ALIKE) == _BRACKET)
        folded = codes[where] | _CASE
        is_bracket = (folded == _OPENS) | (folded == _CLOSES)
        if outside is not None:
            is_bracket &= outside[where]
        where, folded = where[is_bracket], folded[is_bracket]
        depths = np.cumsum(np.where(folded == _OPENS, 1, -1)) + self._depth
        size = len(block)
        closed = np.flatnonzero(depths == 0)
        if len(closed):
            self.are_closed = True
            size = int(where[closed[0]]) + 1
            where, depths = where[: closed[0] + 1], depths[: closed[0] + 1]
        objects = np.flatnonzero(codes[where] == _OBJECT)
        if len(objects):
            self.object = int(where[objects[0]])
            self.object_depth = int(depths[objects[0]]) - 1
        self._find_comma(block, outside, size if self.object < 0 else self.object, where, depths)
        if len(depths):
            self.opened += (len(depths) + int(depths[-1]) - self._depth) // 2
            self._depth = int(depths[-1])
            self.deepest = max(self.deepest, int(depths.max()))
        return size

    def _outside_of_strings(self, block: bytes) -> Array:
        if b"\\" in block:  # pairs first: of `\\"` the quote is none of the escape's
            block = block.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        quotes = np.frombuffer(block, np.uint8) == _QUOTE
        odd = np.cumsum(quotes, dtype=np.uint8) & 1
        if self._is_in_string:
            odd ^= 1
        self._is_in_string = bool(len(odd) and odd[-1])
        outside: Array = odd == 0
        return outside

    def _find_comma(
        self, block: bytes, outside: Array | None, end: int, where: Array, depths: Array
    ) -> None:
        if outside is None:
            self.comma = block.rfind(b",", 0, end)
        else:
            commas = np.flatnonzero(
                (np.frombuffer(block, np.uint8)[:end] == _COMMA) & outside[:end]
            )
            self.comma = int(commas[-1]) if len(commas) else -1
        before = int(np.searchsorted(where, self.comma))
        self.comma_depth = int(depths[before - 1]) if before else self._depth


_NOT_FLAT: Final = (b'"', b"[", b"]", b"{", b"}")
"""A block without them is numbers and commas."""
