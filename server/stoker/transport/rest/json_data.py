"""JSON text <-> tensors: numbers straight into arrays, and back.

The codec reads a request's text with `load` and turns each input's `data` into an array with
`to_tensor`; `encode.py` prints outputs with `to_json`. Nothing here knows a request.  Hot path.

Three parsers. orjson reads small texts. From SIMD_FROM_BYTES on simdjson reads the text and copies
each array of numbers into a buffer, nested or flat: 3 MB of doubles take 4 ms, 10 ms by orjson and
numpy. Its objects live until their copy is made and no longer: each text has its own parser. What
either refuses the standard library decides (`json_standard.py`). From
PIECES_FROM_BYTES on the arrays are read in pieces (`json_frame.py`, `json_pieces.py`), or one text
would hold the GIL for seconds.
"""

from itertools import chain
from typing import Any, Final, TypeAlias

import numpy as np
import orjson
import simdjson

from stoker.errors import InvalidRequest
from stoker.tensor import Array, DataType, Tensor, element_count, shape_text
from stoker.transport.rest import json_frame, json_pieces, json_standard
from stoker.transport.rest.json_elements import (
    FLOATS,
    buffer_of,
    check_types,
    fits,
    flattened,
    kind,
    narrowed,
    values,
)
from stoker.transport.rest.json_pieces import Pieces
from stoker.transport.steps import run_through

SIMD_FROM_BYTES: Final = 1024
"""Equal at 16 numbers (400 bytes), 1.3 times faster at 64, twice from 256 on."""

PIECES_FROM_BYTES: Final = 64 << 10
"""Below it the standard parser is done in 10 ms, whatever the text."""

_BYTE_ORDER_MARK: Final = "\ufeff".encode()

_WITHOUT_JSON: Final = frozenset((DataType.FP16, DataType.BF16))

Data: TypeAlias = "list[Any] | simdjson.Array | Pieces"


def load(text: bytes | memoryview) -> object:
    """The JSON value. Arrays under `inputs[].data` may be other objects, for `to_tensor` only.

    Raises InvalidRequest for text that is not JSON, or nested deeper than a parser goes, and
    TooLarge as `json_frame.read_in_steps`.
    """
    if len(text) >= PIECES_FROM_BYTES:
        return run_through(json_frame.read_in_steps(text))
    try:
        if len(text) < SIMD_FROM_BYTES:
            return orjson.loads(text)
        return _load_large(text)
    except (ValueError, RuntimeError):  # RuntimeError: simdjson's for integers over 64 bits
        pass
    try:
        return json_standard.parse(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"expected a JSON text, got one with: {error}") from error


def _load_large(text: bytes | memoryview) -> object:
    if text[0] == _BYTE_ORDER_MARK[0]:  # simdjson skips it, all others refuse it
        raise ValueError("a byte order mark")
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
    check_has_json(name, datatype)
    if isinstance(data, Pieces):
        return run_through(json_pieces.to_tensor_in_steps(name, datatype, shape, data))
    count = element_count(shape, tensor=name)
    if isinstance(data, simdjson.Array):
        wide = buffer_of(datatype, data)
        if wide is not None:
            _check_count(name, datatype, shape, count, len(wide))
            if datatype in FLOATS:
                array = narrowed(name, datatype, wide)
                return Tensor(name, datatype, shape, array.reshape(shape))
            if fits(datatype, wide):
                array = wide.astype(datatype.numpy)
                return Tensor(name, datatype, shape, array.reshape(shape))
        data = data.as_list()
    if not isinstance(data, list):
        raise InvalidRequest(f"input '{name}': expected `data` to be an array, got {kind(data)}")
    flat, kinds = flattened(name, data)
    _check_count(name, datatype, shape, count, len(flat))
    check_types(name, datatype, flat, kinds)
    elements = values(name, datatype, flat)
    if isinstance(elements, np.ndarray):
        elements = elements.reshape(shape)
    return Tensor(name, datatype, shape, elements)


def check_has_json(name: str, datatype: DataType) -> None:
    """Raises InvalidRequest for an input of a datatype that JSON does not carry."""
    if datatype in _WITHOUT_JSON:
        raise InvalidRequest(
            f"input '{name}': expected {datatype.wire} as binary data, got JSON, which has no form "
            "for it"
        )


def _check_count(
    name: str, datatype: DataType, shape: tuple[int, ...], count: int, got: int
) -> None:
    if got != count:
        raise InvalidRequest(
            f"input '{name}': expected {count} elements for {datatype.wire} {shape_text(shape)}, "
            f"got {got}"
        )


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
    if tensor.datatype in FLOATS and b"n" in text:
        return _with_literals(text, array)
    return text


def to_json_rows(datatype: DataType, array: Array) -> list[bytes] | None:
    """The elements of each row of an output, as they stand between the brackets that `to_json`
    prints. None for what is not printed like that: texts, NaN, datatypes without a JSON form."""
    if datatype is DataType.BYTES or datatype in _WITHOUT_JSON or not array.size:
        return None
    rows = np.ascontiguousarray(array).reshape(len(array), -1)
    text = orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)
    if datatype in FLOATS and b"n" in text:
        return None
    return text[2:-2].split(b"],[")


def _with_literals(text: bytes, array: Array) -> bytes:
    """The text with NaN and infinities by name, for which orjson writes `null`."""
    words = [
        b"NaN" if each != each else b"Infinity" if each > 0 else b"-Infinity"
        for each in array[~np.isfinite(array)].tolist()
    ]
    pieces = text.split(b"null")
    return b"".join(chain.from_iterable(zip(pieces, (*words, b""), strict=True)))


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
