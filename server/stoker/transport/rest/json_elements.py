"""Elements of a JSON array, as Python objects or as simdjson read them -> numbers of a datatype.

The innermost part of reading JSON: whole small arrays (`json_data.py`) and pieces of large ones
(`json_pieces.py`) come here. All that is wrong with an element is said here, with its index.
Knows neither shapes nor requests.  Hot path.
"""

import json
import struct
from collections.abc import Callable
from itertools import chain
from typing import Any, Final, Literal

import numpy as np
import simdjson

from stoker.errors import InvalidRequest
from stoker.tensor import Array, DataType

MAX_DEPTH: Final = 100
"""Nesting of an input's `data`, as Triton."""

FLOATS: Final = frozenset((DataType.FP32, DataType.FP64))
_ELEMENTS: Final[dict[DataType, tuple[frozenset[type], str]]] = {
    DataType.BOOL: (frozenset((bool, int)), "true, false, 0 or 1"),
    DataType.BYTES: (frozenset((str,)), "a string"),
    DataType.FP32: (frozenset((int, float)), "a number"),
    DataType.FP64: (frozenset((int, float)), "a number"),
}
_FORMATS: Final[dict[DataType, str]] = {
    DataType.UINT8: "B",
    DataType.UINT16: "H",
    DataType.UINT32: "I",
    DataType.UINT64: "Q",
    DataType.INT8: "b",
    DataType.INT16: "h",
    DataType.INT32: "i",
    DataType.INT64: "q",
    DataType.FP32: "f",
    DataType.FP64: "d",
}
_INTEGER: Final = (frozenset((int,)), "an integer")
_KINDS: Final[dict[type, str]] = {
    bool: "a boolean",
    int: "an integer",
    float: "a number with a fraction",
    str: "a string",
    dict: "an object",
    list: "an array",
    type(None): "null",
}


def too_deep(name: str) -> InvalidRequest:
    """The refusal of arrays in arrays in arrays."""
    return InvalidRequest(f"input '{name}': expected arrays nested at most {MAX_DEPTH} deep")


def kind(value: object) -> str:
    """What it is, for messages."""
    return _KINDS.get(type(value), "another value")


# Numbers that simdjson has read.


def buffer_of(datatype: DataType, data: simdjson.Array) -> Array | None:
    """The numbers of 64 bits, flat, without a Python object for each. None where not all of them
    are numbers of the datatype's kind, and of datatypes that are none."""
    of_type: Literal["d", "i", "u"]
    if datatype in FLOATS:
        of_type, wide = "d", DataType.FP64.numpy
    elif datatype is DataType.UINT64:
        of_type, wide = "u", DataType.UINT64.numpy
    elif datatype is DataType.BYTES or datatype is DataType.BOOL:
        return None
    else:
        of_type, wide = "i", DataType.INT64.numpy
    try:
        return np.frombuffer(data.as_buffer(of_type=of_type), wide)
    except (TypeError, ValueError):  # not all of its elements are such numbers
        return None


def fits(datatype: DataType, wide: Array) -> bool:
    """Whether integers that `buffer_of` gave are in the datatype's range."""
    if datatype.size == 8 or not len(wide):
        return True
    limits = np.iinfo(datatype.numpy)
    return bool(wide.min() >= limits.min and wide.max() <= limits.max)


def narrowed(name: str, datatype: DataType, wide: Array, first: int = 0) -> Array:
    """Doubles as `datatype`. Raises InvalidRequest where a finite number becomes infinite; the
    first of them is element `first` of the input."""
    if datatype is DataType.FP64:
        return wide
    try:
        return _cast(wide, datatype.numpy)
    except FloatingPointError:
        with np.errstate(over="ignore"):
            narrow: Array = wide.astype(datatype.numpy)
    index = int((np.isinf(narrow) & np.isfinite(wide)).argmax())
    raise InvalidRequest(
        f"input '{name}': element {first + index}: expected a number that {datatype.wire} "
        f"holds, got {wide[index]}"
    )


# The processor says that a number became infinite: to look for one takes 2 us more, a decorator
# half of what a `with` takes (benchmarks/results/0007-json.md).
@np.errstate(over="raise")
def _cast(wide: Array, to: np.dtype[Any]) -> Array:
    return wide.astype(to)


# Elements that are Python objects.


def flattened(name: str, data: list[Any]) -> tuple[list[Any], set[type]]:
    """The elements in order, and their types. Raises InvalidRequest for too deep a nesting."""
    flat = data
    for _ in range(MAX_DEPTH):
        kinds = set(map(type, flat))
        if list not in kinds:
            return flat, kinds
        if len(kinds) == 1:
            flat = list(chain.from_iterable(flat))
        else:
            flat = [item for each in flat for item in (each if isinstance(each, list) else (each,))]
    raise too_deep(name)


def check_types(
    name: str, datatype: DataType, flat: list[Any], kinds: set[type], first: int = 0
) -> None:
    """Raises InvalidRequest for the first element of a type that the datatype does not take."""
    allowed, words = _ELEMENTS.get(datatype, _INTEGER)
    if not kinds <= allowed:
        expected = f"{words} ({datatype.wire})"
        _refuse(name, flat, first, expected, lambda each: type(each) in allowed)


def packing(datatype: DataType, count: int) -> Callable[..., bytes] | None:
    """What makes the raw form of `count` elements. It raises struct.error or OverflowError for one
    of the wrong type, but for booleans, or out of range. None: there is no such form."""
    if datatype not in _FORMATS:
        return None
    return struct.Struct(f"<{count}{_FORMATS[datatype]}").pack


def values(name: str, datatype: DataType, flat: list[Any], first: int = 0) -> Array | bytes:
    """The elements, of right types, as an array or in the raw form.

    Raises InvalidRequest for the first value that the datatype does not hold.
    """
    words = _ELEMENTS.get(datatype, _INTEGER)[1]
    if datatype is DataType.BYTES:
        if not all(map(_is_text, flat)):
            _refuse(name, flat, first, "text of valid Unicode (BYTES)", _is_text)
        texts = np.empty(len(flat), object)
        texts[:] = flat
        return texts
    if datatype is DataType.BOOL:
        if not all(each in (0, 1) for each in flat):
            _refuse(name, flat, first, words, lambda each: each in (0, 1))
        return np.array(flat, np.bool_)
    # struct, not numpy: it refuses what is out of range, for floats too, and gives the raw form
    # that batches are made of (16 numbers: 0.8 us, by numpy with the same checks 7 us).
    pack = struct.Struct(f"<{len(flat)}{_FORMATS[datatype]}").pack
    try:
        return pack(*flat)
    except (struct.error, OverflowError):
        one = struct.Struct(f"<{_FORMATS[datatype]}").pack

        def is_in_range(each: float) -> bool:
            try:
                one(each)
            except (struct.error, OverflowError):
                return False
            return True

        _refuse(name, flat, first, f"{words} in the range of {datatype.wire}", is_in_range)
        raise  # not reached: what fits alone fits together


def _refuse(
    name: str, flat: list[Any], first: int, words: str, is_right: Callable[[Any], bool]
) -> None:
    """Raises InvalidRequest for the first element that is not right."""
    for index, each in enumerate(flat, first):
        if not is_right(each):
            text = kind(each) if isinstance(each, list | dict) or each is None else _quoted(each)
            raise InvalidRequest(f"input '{name}': element {index}: expected {words}, got {text}")


def _quoted(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, int) or abs(value) < 1 << 128 else "more"
    return text if len(text) <= 64 else text[:61] + "..."


def _is_text(element: str) -> bool:
    """Whether it has a UTF-8 form: JSON can spell halves of surrogate pairs."""
    if element.isascii():
        return True
    try:
        element.encode()
    except UnicodeEncodeError:
        return False
    return True
