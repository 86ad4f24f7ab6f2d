"""Tensors and their datatypes: the one table of wire, numpy and ONNX names.

Codecs build `Tensor`s from bytes, the batcher lays them one after another, the runtime feeds them.
Knows nothing of transports, models or ONNX Runtime.  Source: Open Inference Protocol v2, "Tensor
Data Types", with Triton's FP16 and BF16.

In memory a tensor is one of two things:
  1. raw: the bytes of the wire's raw layout (row-major, little-endian, no padding), or a view;
  2. an ndarray of `datatype.numpy` in the tensor's shape.
BYTES tensors are always (2), arrays of `str` objects, because ONNX Runtime takes text; BOOL
tensors are always (2), because raw bytes other than 0 and 1 mean true. BF16 is held as uint16.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from stoker.errors import InvalidRequest

Array: TypeAlias = npt.NDArray[Any]
Raw: TypeAlias = bytes | bytearray | memoryview


class DataType(Enum):
    """One datatype under all its names.

    `wire` is the protocol's word, `config` the word of `config.pbtxt`, `number` that enum's value,
    `size` the bytes of an element (0: variable), `numpy` the dtype in memory, `onnx` the type
    string of ONNX Runtime, `onnx_number` the element type of the ONNX format.
    """

    BOOL = ("BOOL", "TYPE_BOOL", 1, 1, "?", "tensor(bool)", 9)
    UINT8 = ("UINT8", "TYPE_UINT8", 2, 1, "u1", "tensor(uint8)", 2)
    UINT16 = ("UINT16", "TYPE_UINT16", 3, 2, "<u2", "tensor(uint16)", 4)
    UINT32 = ("UINT32", "TYPE_UINT32", 4, 4, "<u4", "tensor(uint32)", 12)
    UINT64 = ("UINT64", "TYPE_UINT64", 5, 8, "<u8", "tensor(uint64)", 13)
    INT8 = ("INT8", "TYPE_INT8", 6, 1, "i1", "tensor(int8)", 3)
    INT16 = ("INT16", "TYPE_INT16", 7, 2, "<i2", "tensor(int16)", 5)
    INT32 = ("INT32", "TYPE_INT32", 8, 4, "<i4", "tensor(int32)", 6)
    INT64 = ("INT64", "TYPE_INT64", 9, 8, "<i8", "tensor(int64)", 7)
    FP16 = ("FP16", "TYPE_FP16", 10, 2, "<f2", "tensor(float16)", 10)
    FP32 = ("FP32", "TYPE_FP32", 11, 4, "<f4", "tensor(float)", 1)
    FP64 = ("FP64", "TYPE_FP64", 12, 8, "<f8", "tensor(double)", 11)
    BYTES = ("BYTES", "TYPE_STRING", 13, 0, "O", "tensor(string)", 8)
    BF16 = ("BF16", "TYPE_BF16", 14, 2, "<u2", "tensor(bfloat16)", 16)

    def __init__(
        self,
        wire: str,
        config: str,
        number: int,
        size: int,
        numpy: str,
        onnx: str,
        onnx_number: int,
    ) -> None:
        self.wire = wire
        self.config = config
        self.number = number
        self.size = size
        self.numpy: np.dtype[Any] = np.dtype(numpy)
        self.onnx = onnx
        self.onnx_number = onnx_number

    # By identity: Enum's own hash is a Python call, and datatypes are parts of per-request keys.
    __hash__ = object.__hash__


MAX_RANK: Final = 64
"""Dimensions that a numpy array can have."""
_MAX_SIZES: Final = 2**60 - 1
"""numpy refuses an empty array as well when its other sizes, times 8 bytes, pass 2**63."""

BY_WIRE: Final[dict[str, DataType]] = {each.wire: each for each in DataType}
BY_ONNX: Final[dict[str, DataType]] = {each.onnx: each for each in DataType}
BY_NUMBER: Final[dict[int, DataType]] = {each.number: each for each in DataType}
BY_CONFIG: Final[dict[str, DataType]] = {each.config: each for each in DataType}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model says of one input or output. A dimension of -1 is variable."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.datatype.wire} {shape_text(self.shape)}"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named tensor of a request or a response. Whoever builds it has checked `data`'s size."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    data: Raw | Array

    @property
    def nbytes(self) -> int:
        """See `data_bytes`."""
        return data_bytes(self.data)

    def array(self) -> Array:
        """The data as an ndarray of `datatype.numpy` in `shape`: a view, never a copy."""
        return as_array(self.data, self.datatype, self.shape)


def data_bytes(data: "Raw | Array") -> int:
    """Bytes that a tensor's data takes; for BYTES an estimate: the pointers and the characters."""
    if isinstance(data, np.ndarray):
        if data.dtype.hasobject:
            return data.nbytes + sum(map(len, data.ravel()))
        return data.nbytes
    return len(data)


def as_array(data: "Raw | Array", datatype: DataType, shape: tuple[int, ...]) -> "Array":
    """A tensor's data as an ndarray of `datatype.numpy` in `shape`: a view, never a copy."""
    if isinstance(data, np.ndarray):
        return data.reshape(shape)
    return np.frombuffer(data, datatype.numpy).reshape(shape)


def shape_text(shape: Sequence[int]) -> str:
    """`[-1,3,224,224]`, as all messages print shapes."""
    return f"[{','.join(map(str, shape))}]"


def datatype_of(text: str, *, tensor: str) -> DataType:
    """The datatype named on the wire. Raises InvalidRequest for an unknown word."""
    datatype = BY_WIRE.get(text)
    if datatype is None:
        raise InvalidRequest(
            f"input '{tensor}': expected a datatype out of {', '.join(BY_WIRE)}, got '{text}'"
        )
    return datatype


def element_count(shape: Sequence[int], *, tensor: str) -> int:
    """Elements of a tensor of this concrete shape. Raises InvalidRequest for negative sizes."""
    if shape and min(shape) < 0:
        raise InvalidRequest(
            f"input '{tensor}': expected a shape without negative sizes, got {shape_text(shape)}"
        )
    count = math.prod(shape)
    if len(shape) > MAX_RANK or (count == 0 and math.prod(filter(None, shape)) > _MAX_SIZES):
        raise InvalidRequest(
            f"input '{tensor}': expected at most {MAX_RANK} dimensions, and sizes whose product "
            f"without the zeros is at most {_MAX_SIZES}, got {len(shape)} dimensions"
        )
    return count


def from_raw(name: str, datatype: DataType, shape: tuple[int, ...], raw: Raw) -> Tensor:
    """A tensor from its raw wire form, as a view of `raw` except for BYTES and BOOL.

    Raises InvalidRequest when the byte count does not fit the shape, or BYTES are malformed.
    Source: Open Inference Protocol v2, "Raw tensor layout" of the binary extension.
    """
    count = element_count(shape, tensor=name)
    if datatype is DataType.BYTES:
        return Tensor(name, datatype, shape, decode_bytes(raw, count, tensor=name).reshape(shape))
    if len(raw) != count * datatype.size:
        raise InvalidRequest(
            f"input '{name}': expected {count * datatype.size} bytes for "
            f"{datatype.wire} {shape_text(shape)}, got {len(raw)}"
        )
    if datatype is DataType.BOOL:
        return Tensor(name, datatype, shape, np.frombuffer(raw, np.uint8).reshape(shape) != 0)
    return Tensor(name, datatype, shape, raw)


def decode_bytes(raw: Raw, count: int, *, tensor: str) -> Array:
    """`count` BYTES elements from their length-prefixed form, as an object array of `str`.

    Raises InvalidRequest with the element's index for a truncated element, surplus bytes, or
    bytes that are not UTF-8 (ONNX Runtime's Python interface takes text only).
    """
    data = bytes(raw)
    total, at = len(data), 0
    if count > total // 4:  # each element has four bytes of length: refuse before allocating
        raise InvalidRequest(
            f"input '{tensor}': expected {count} BYTES elements, got {total} bytes in all, "
            f"fewer than their {count} length prefixes take"
        )
    elements = np.empty(count, object)
    for index in range(count):
        start = at + 4
        if start > total:
            raise InvalidRequest(
                f"input '{tensor}': BYTES element {index} of {count}: expected a 4-byte length, "
                f"got {total - at} bytes"
            )
        at = start + int.from_bytes(data[at:start], "little")
        if at > total:
            raise InvalidRequest(
                f"input '{tensor}': BYTES element {index} of {count}: expected "
                f"{at - start} bytes, got {total - start}"
            )
        elements[index] = text_of(data[start:at], index, tensor=tensor)
    if at != total:
        raise InvalidRequest(
            f"input '{tensor}': expected {count} BYTES elements, "
            f"got {total - at} bytes after the last one"
        )
    return elements


def text_of(element: bytes, index: int, *, tensor: str) -> str:
    """One BYTES element as text. Raises InvalidRequest with its index if it is not UTF-8."""
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"input '{tensor}': BYTES element {index} is not valid UTF-8 at byte {error.start}; "
            "string tensors of ONNX models hold text"
        ) from error


def encode_bytes(array: Array) -> bytes:
    """An object array of `str` (or `bytes`) in the length-prefixed form."""
    pieces: list[bytes] = []
    for element in array.ravel():
        text = element if isinstance(element, bytes) else str(element).encode()
        pieces.append(len(text).to_bytes(4, "little"))
        pieces.append(text)
    return b"".join(pieces)


def to_raw(tensor: Tensor) -> bytes | memoryview:
    """The raw wire form: a view of the tensor's own memory where that is contiguous."""
    data = tensor.data
    if not isinstance(data, np.ndarray):
        return memoryview(data)
    if tensor.datatype is DataType.BYTES:
        return encode_bytes(data)
    if data.size == 0:
        return b""
    if not data.flags.c_contiguous:
        data = np.ascontiguousarray(data)
    return data.reshape(-1).view(np.uint8).data
