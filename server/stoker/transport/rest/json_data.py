"""JSON text <-> tensors: numbers straight into arrays, and back.

The codec reads a request's text with `load` and turns each input's `data` into an array with
`to_tensor`; `encode.py` prints outputs with `to_json`. Nothing here knows a request.  Hot path.

Three parsers. orjson reads small texts. From SIMD_FROM_BYTES on simdjson reads the text and copies
each array of numbers into a buffer, nested or flat: 3 MB of doubles take 4 ms, 10 ms by orjson and
numpy. Its objects live until their copy is made and no longer: each text has its own parser. What
either refuses the standard library decides: it takes NaN, Infinity, and numbers of any size.
"""

import json
import struct
from collections.abc import Callable
from itertools import chain
from typing import Any, Final, TypeAlias

import numpy as np
import orjson
import simdjson

from stoker.errors import InvalidRequest
from stoker.tensor import Array, DataType, Tensor, element_count, shape_text

SIMD_FROM_BYTES: Final = 1024
"""Equal at 16 numbers (400 bytes), 1.3 times faster at 64, twice from 256 on."""

MAX_DEPTH: Final = 100
"""Nesting of an input's `data`, as Triton."""

_FLOATS: Final = frozenset((DataType.FP32, DataType.FP64))
_WITHOUT_JSON: Final = frozenset((DataType.FP16, DataType.BF16))
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

Data: TypeAlias = "list[Any] | simdjson.Array"


def load(text: bytes | memoryview) -> object:
    """The JSON value. Arrays under `inputs[].data` may be `simdjson.Array`, for `to_tensor` only.

    Raises InvalidRequest for text that is not JSON, or nested deeper than a parser goes.
    """
    try:
        if len(text) < SIMD_FROM_BYTES:
            return orjson.loads(text)
        return _load_large(text)
    except (ValueError, RuntimeError):  # RuntimeError: simdjson's for integers over 64 bits
        pass
    try:
        return json.loads(str(text, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"expected a JSON text, got one with: {error}") from error


def _load_large(text: bytes | memoryview) -> object:
    document = simdjson.Parser().parse(text)
    if not isinstance(document, simdjson.Object):
        return orjson.loads(text)
    value: dict[str, object] = {}
    for key in _keys(document):
        each = document[key]
        if key == "inputs" and isinstance(each, simdjson.Array):
            value[key] = [_input(entry) for entry in each]
        else:
            value[key] = _plain(each)
    return value


def _input(entry: object) -> object:
    if not isinstance(entry, simdjson.Object):
        return _plain(entry)
    # By key: `items()` makes a list of each array, at five times the cost of parsing it.
    values = {key: entry[key] for key in _keys(entry)}
    return {
        key: each if key == "data" and isinstance(each, simdjson.Array) else _plain(each)
        for key, each in values.items()
    }


def _keys(value: simdjson.Object) -> list[str]:
    """Its keys. Raises ValueError if one comes twice: looking it up would find the first, where
    the other parsers keep the last."""
    keys = list(value.keys())
    if len(set(keys)) < len(keys):
        raise ValueError("a key comes twice")
    return keys


def _plain(value: object) -> object:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value


def to_tensor(name: str, datatype: DataType, shape: tuple[int, ...], data: object) -> Tensor:
    """An input from its JSON `data`: an array, flat or nested in any way, of the right count.

    Raises InvalidRequest for the wrong count, an element of the wrong type or out of range, and
    datatypes that JSON does not carry.
    """
    if datatype in _WITHOUT_JSON:
        raise InvalidRequest(
            f"input '{name}': expected {datatype.wire} as binary data, got JSON, which has no form "
            "for it"
        )
    count = element_count(shape, tensor=name)
    if isinstance(data, simdjson.Array):
        array = _from_buffer(name, datatype, data, count, shape)
        if array is not None:
            return Tensor(name, datatype, shape, array.reshape(shape))
        data = data.as_list()
    if not isinstance(data, list):
        raise InvalidRequest(f"input '{name}': expected `data` to be an array, got {_kind(data)}")
    return Tensor(name, datatype, shape, _from_list(name, datatype, data, count, shape))


def _from_buffer(
    name: str, datatype: DataType, data: Any, count: int, shape: tuple[int, ...]
) -> Array | None:
    """The array, without a Python object for each number; None where only the list can tell."""
    if datatype in _FLOATS:
        of_type = "d"
    elif datatype is DataType.UINT64:
        of_type = "u"
    elif datatype is DataType.BYTES or datatype is DataType.BOOL:
        return None
    else:
        of_type = "i"
    try:
        buffer = data.as_buffer(of_type=of_type)
    except (TypeError, ValueError):  # not all of its elements are such numbers
        return None
    wide: Array = np.frombuffer(buffer, {"d": "<f8", "u": "<u8", "i": "<i8"}[of_type])
    _check_count(name, datatype, shape, count, len(wide))
    if datatype in _FLOATS:
        return _narrowed(name, datatype, wide)
    if datatype.size < 8 and count:
        limits = np.iinfo(datatype.numpy)
        if wide.min() < limits.min or wide.max() > limits.max:
            return None
    return wide.astype(datatype.numpy)


def _from_list(
    name: str, datatype: DataType, data: list[Any], count: int, shape: tuple[int, ...]
) -> Array | bytes:
    flat, kinds = _flat(name, data)
    _check_count(name, datatype, shape, count, len(flat))
    allowed, words = _ELEMENTS.get(datatype, _INTEGER)
    if not kinds <= allowed:
        _refuse(name, flat, f"{words} ({datatype.wire})", lambda each: type(each) in allowed)
    if datatype is DataType.BYTES:
        if not all(map(_is_text, flat)):
            _refuse(name, flat, "text of valid Unicode (BYTES)", _is_text)
        texts = np.empty(count, object)
        texts[:] = flat
        return texts.reshape(shape)
    if datatype is DataType.BOOL:
        if not all(each in (0, 1) for each in flat):
            _refuse(name, flat, words, lambda each: each in (0, 1))
        return np.array(flat, np.bool_).reshape(shape)
    # struct, not numpy: it refuses what is out of range, for floats too, and gives the raw form
    # that batches are made of (16 numbers: 0.8 us, by numpy with the same checks 7 us).
    pack = struct.Struct(f"<{count}{_FORMATS[datatype]}").pack
    try:
        return pack(*flat)
    except (struct.error, OverflowError):
        one = struct.Struct(f"<{_FORMATS[datatype]}").pack

        def fits(each: float) -> bool:
            try:
                one(each)
            except (struct.error, OverflowError):
                return False
            return True

        _refuse(name, flat, f"{words} in the range of {datatype.wire}", fits)
        raise  # not reached: what fits alone fits together


def _flat(name: str, data: list[Any]) -> tuple[list[Any], set[type]]:
    """The elements in order, and their types."""
    flat = data
    for _ in range(MAX_DEPTH):
        kinds = set(map(type, flat))
        if list not in kinds:
            return flat, kinds
        if len(kinds) == 1:
            flat = list(chain.from_iterable(flat))
        else:
            flat = [item for each in flat for item in (each if isinstance(each, list) else (each,))]
    raise InvalidRequest(f"input '{name}': expected arrays nested at most {MAX_DEPTH} deep")


def _narrowed(name: str, datatype: DataType, wide: Array) -> Array:
    """Doubles as `datatype`. A finite number that becomes infinite is out of range."""
    if datatype is DataType.FP64:
        return wide
    with np.errstate(over="ignore"):
        narrow: Array = wide.astype(datatype.numpy)
    outside = np.isinf(narrow) & np.isfinite(wide)
    if outside.any():
        index = int(outside.argmax())
        raise InvalidRequest(
            f"input '{name}': element {index}: expected a number that {datatype.wire} holds, "
            f"got {wide[index]}"
        )
    return narrow


def _check_count(
    name: str, datatype: DataType, shape: tuple[int, ...], count: int, got: int
) -> None:
    if got != count:
        raise InvalidRequest(
            f"input '{name}': expected {count} elements for {datatype.wire} {shape_text(shape)}, "
            f"got {got}"
        )


def _refuse(name: str, flat: list[Any], words: str, is_right: Callable[[Any], bool]) -> None:
    """Raises InvalidRequest for the first element that is not right."""
    for index, each in enumerate(flat):
        if not is_right(each):
            text = _kind(each) if isinstance(each, list | dict) or each is None else _quoted(each)
            raise InvalidRequest(f"input '{name}': element {index}: expected {words}, got {text}")


def _quoted(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, int) or abs(value) < 1 << 128 else "more"
    return text if len(text) <= 64 else text[:61] + "..."


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "another value")


def _is_text(element: str) -> bool:
    """Whether it has a UTF-8 form: JSON can spell halves of surrogate pairs."""
    if element.isascii():
        return True
    try:
        element.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_json(tensor: Tensor) -> bytes:
    """An output's elements as one flat JSON array. NaN, Infinity and -Infinity are those literals.

    Raises InvalidRequest for BYTES that are not UTF-8 and for datatypes without a JSON form.
    """
    if tensor.datatype in _WITHOUT_JSON:
        raise without_json(tensor.name, tensor.datatype)
    array = np.ascontiguousarray(tensor.array()).reshape(-1)
    if tensor.datatype is DataType.BYTES:
        return _texts(tensor.name, array)
    text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    if tensor.datatype in _FLOATS and b"n" in text:  # of "null", orjson's word for NaN and Inf
        return json.dumps(array.tolist(), separators=(",", ":")).encode()
    return text


def has_json(datatype: DataType) -> bool:
    """Whether JSON can carry it."""
    return datatype not in _WITHOUT_JSON


def without_json(output: str, datatype: DataType) -> InvalidRequest:
    """The refusal of an output that JSON cannot carry."""
    return InvalidRequest(
        f"output '{output}': {datatype.wire} has no JSON form: ask for it with "
        'parameters {"binary_data": true}'
    )


def _texts(output: str, array: Array) -> bytes:
    texts = []
    for index, element in enumerate(array):
        try:
            text = element.decode() if isinstance(element, bytes) else element
            text.encode()
        except UnicodeError as error:
            raise InvalidRequest(
                f"output '{output}': BYTES element {index} is not valid UTF-8, which JSON needs: "
                'ask for it with parameters {"binary_data": true}'
            ) from error
        texts.append(text)
    return orjson.dumps(texts)
