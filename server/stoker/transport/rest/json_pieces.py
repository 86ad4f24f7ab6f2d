"""An input's `data` in a large JSON text: cut into pieces, read one after another.

`json_frame.py` finds the array and cuts it at commas; here each piece, closed to an array of its
own, becomes numbers in their place in the tensor. A piece of PIECE_BYTES takes a parser 0.2 ms,
rarely more than 3 ms, and what it makes is dropped before the next: neither the time that the GIL
is held nor the memory besides the tensor grows with the text. One string is never cut: 60 MB of it
hold the GIL for as long as it takes to copy them.

What simdjson refuses, piece by piece the standard library decides; but numbers with NaN and
Infinity among them are read twice, with different digits in place of the literals: where the two
differ, a literal stood.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import simdjson

from stoker.errors import InvalidRequest
from stoker.tensor import Array, DataType, Tensor, element_count, shape_text
from stoker.transport.rest import json_standard
from stoker.transport.rest.json_elements import (
    FLOATS,
    MAX_DEPTH,
    buffer_of,
    check_types,
    fits,
    flattened,
    narrowed,
    too_deep,
    values,
)
from stoker.transport.steps import Steps

PIECE_BYTES: Final = 128 << 10
"""128 KiB of numbers stay in the processor's second cache, and their overhead is 5 %."""

_UNCUT_BYTES: Final = 1 << 20
"""A piece this large has no comma in it: one long string, or nothing. The standard parser reads the
string in two holds of the GIL, and gives up on the rest where the others first look at all."""

_SPACE: Final = b" \t\n\r"
_LITERALS: Final = ((b"-Infinity", b"3"), (b"Infinity", b"2"), (b"NaN", b"1"))
_VALUES: Final = np.array([0, np.nan, np.inf, -np.inf])


class Pieces:
    """A whole array of a JSON text, its brackets balanced, and where it may be cut.

    Piece i is what stands between cut i and cut i + 1. A cut is the position behind a comma that
    is in no string and no object, with the number of arrays that are open there. What stands
    behind an object is in no piece: the object makes the data wrong.
    """

    __slots__ = ("_text", "begin", "cuts", "depth", "end", "object_at", "object_depth")

    def __init__(self, text: memoryview, begin: int) -> None:
        self._text = text
        self.begin = begin
        self.cuts = [(begin, 0)]
        self.depth = 0
        """Of the deepest array."""
        self.end = begin
        self.object_at = -1
        """Where the first object stands; -1 without one."""
        self.object_depth = 0
        """Arrays that are open there."""

    @property
    def size(self) -> int:
        """Bytes of text."""
        return self.end - self.begin

    def texts(self) -> Iterator[bytes]:
        """Each piece as an array. Raises InvalidRequest where a cut hid that an element misses."""
        if self.depth > MAX_DEPTH:
            raise InvalidRequest(f"expected arrays nested at most {MAX_DEPTH} deep")
        has_object = self.object_at >= 0
        end = self.object_at if has_object else self.end
        last = len(self.cuts) - 1
        for index, (start, depth) in enumerate(self.cuts):
            if index < last:
                stop, closing = self.cuts[index + 1]
                text = bytes(self._text[start : stop - 1])
                if text.rstrip(_SPACE)[-1:] in (b"", b"["):
                    raise _missing(stop - 1)
            else:
                text = bytes(self._text[start:end]) + (b"{}" if has_object else b"")
                closing = self.object_depth
            if index and text.lstrip(_SPACE)[:1] in (b"", b"]"):
                raise _missing(start)
            yield b"[" * depth + text + b"]" * closing


def _missing(at: int) -> InvalidRequest:
    return InvalidRequest(f"expected a JSON text, got one that misses a value at byte {at}")


def check(pieces: Pieces) -> Steps[None]:
    """Reads it for nothing. Raises InvalidRequest if it is not JSON."""
    reader = _PieceReader()
    for text in pieces.texts():
        reader.read(text, DataType.FP64)
        yield 0


def to_tensor_in_steps(
    name: str, datatype: DataType, shape: tuple[int, ...], pieces: Pieces
) -> Steps[Tensor]:
    """The input. Raises InvalidRequest; of several reasons that of `json_data.to_tensor`."""
    if pieces.depth > MAX_DEPTH:
        raise too_deep(name)
    filling = _Filling(name, datatype, shape, pieces)
    reader = _PieceReader()
    for text in pieces.texts():
        filling.add(reader.read(text, datatype))
        yield 0
    return filling.tensor()


class _PieceReader:
    """The parsers, tried in turn. Its own simdjson parser is used for all pieces of an array."""

    def __init__(self) -> None:
        self._parser = simdjson.Parser()

    def read(self, text: bytes, datatype: DataType) -> Array | list[Any]:
        """The numbers as `buffer_of` gives them, or else the elements, nested as they are.

        Raises InvalidRequest for what is not JSON.
        """
        is_cut = len(text) < _UNCUT_BYTES
        try:
            if is_cut:
                data = self._parse(text)
                numbers = buffer_of(datatype, data)
                if numbers is not None and (datatype in FLOATS or fits(datatype, numbers)):
                    return numbers
                return data.as_list()
        except (ValueError, RuntimeError):
            pass
        if is_cut and datatype in FLOATS and (b"N" in text or b"I" in text):
            numbers = self._with_literals(text)
            if numbers is not None:
                return numbers
        try:
            elements: list[Any] = json_standard.parse(text)
        except ValueError as error:
            raise InvalidRequest(f"expected a JSON text, got one with: {error}") from error
        return elements

    def _with_literals(self, text: bytes) -> Array | None:
        """Doubles of which some are NaN, Infinity or -Infinity. None where something else is."""
        zeros = marks = text
        for literal, digit in _LITERALS:  # spaces around: `1NaN` must not become a number
            zeros = zeros.replace(literal, b"0".center(len(literal)))
            marks = marks.replace(literal, digit.center(len(literal)))
        try:
            numbers = buffer_of(DataType.FP64, self._parse(zeros))
            marked = buffer_of(DataType.FP64, self._parse(marks))
        except (ValueError, RuntimeError):
            return None
        if numbers is None or marked is None:
            return None
        numbers = numbers.copy()
        where = numbers != marked
        numbers[where] = _VALUES[marked[where].astype(np.intp)]
        return numbers

    def _parse(self, text: bytes) -> simdjson.Array:
        data = self._parser.parse(text)
        assert isinstance(data, simdjson.Array)
        return data


class _Filling:
    """A tensor that is filled from pieces.

    All pieces are read, whatever is wrong: a wrong count comes before an element of the wrong
    type, and that before a value out of range. Texts, not exceptions, are kept: an exception
    keeps its frames.
    """

    def __init__(
        self, name: str, datatype: DataType, shape: tuple[int, ...], pieces: Pieces
    ) -> None:
        self._name = name
        self._datatype = datatype
        self._shape = shape
        self._count = element_count(shape, tensor=name)
        self._seen = 0
        # A shape may promise more than the text has room for: an element takes two bytes of it.
        self._into = np.empty(min(self._count, pieces.size // 2), datatype.numpy)
        self._is_whole = pieces.object_at < 0
        self._wrong_type = ""
        self._wrong_value = ""

    def add(self, piece: Array | list[Any]) -> None:
        """The next elements."""
        name, datatype, first = self._name, self._datatype, self._seen
        into = self._into
        if isinstance(piece, np.ndarray):
            self._seen = seen = first + len(piece)
            if self._is_wanted() and not self._wrong_type and not self._wrong_value:
                try:
                    into[first:seen] = (
                        narrowed(name, datatype, piece, first) if datatype in FLOATS else piece
                    )
                except InvalidRequest as error:
                    self._wrong_value = error.message
            return
        flat, kinds = flattened(name, piece)
        self._seen = seen = first + len(flat)
        if not self._is_wanted() or self._wrong_type:
            return
        try:
            check_types(name, datatype, flat, kinds, first)
        except InvalidRequest as error:
            self._wrong_type = error.message
            return
        if self._wrong_value:
            return
        try:
            right = values(name, datatype, flat, first)
        except InvalidRequest as error:
            self._wrong_value = error.message
            return
        into[first:seen] = (
            right if isinstance(right, np.ndarray) else np.frombuffer(right, into.dtype)
        )

    def _is_wanted(self) -> bool:
        """Whether what is there so far can be right."""
        return self._seen <= len(self._into)

    def tensor(self) -> Tensor:
        """When all pieces are there."""
        if self._seen != self._count and (self._is_whole or not self._wrong_type):
            raise InvalidRequest(
                f"input '{self._name}': expected {self._count} elements for "
                f"{self._datatype.wire} {shape_text(self._shape)}, got {self._seen}"
            )
        problem = self._wrong_type or self._wrong_value
        if problem:
            raise InvalidRequest(problem)
        return Tensor(self._name, self._datatype, self._shape, self._into.reshape(self._shape))
