"""The protobuf wire format of an ONNX file, read in place: fields and where their bytes lie.

What is stepped over costs nothing, so a file of gigabytes is read as quickly as a small one. Never
raises towards callers of `read`: ONNX Runtime reports what is malformed.
Source: Protocol Buffers, "Encoding"; onnx.proto3 (ModelProto.graph = 7).
"""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH: Final = 7


class Malformed(Exception):
    """The bytes are not a protobuf message."""


def read(path: Path, find: Callable[[memoryview], T], otherwise: T) -> T:
    """What `find` finds in a file; `otherwise` where it is no readable model."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            memoryview(data) as view,
        ):
            return find(view)
    except (OSError, ValueError, RecursionError, Malformed):
        return otherwise


def graphs(view: memoryview) -> Iterator[tuple[int, int]]:
    """Where the graph of a model lies."""
    return parts(view, (0, len(view)), (_MODEL_GRAPH,))


def parts(
    view: memoryview, at: tuple[int, int], numbers: tuple[int, ...]
) -> Iterator[tuple[int, int]]:
    """Where the parts of a message lie that have one of these field numbers."""
    for number, value in fields(view, *at):
        if number in numbers and isinstance(value, tuple):
            yield value


def fields(
    view: memoryview, start: int, end: int
) -> Iterator[tuple[int, int | tuple[int, int] | None]]:
    """Field numbers with their value: an integer, or start and end of the bytes of a message."""
    at = start
    while at < end:
        key, at = varint(view, at, end)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = varint(view, at, end)
            yield number, value
        elif kind == _BYTES:
            length, at = varint(view, at, end)
            if at + length > end:
                raise Malformed
            yield number, (at, at + length)
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
            yield number, None
        else:
            raise Malformed


def varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    """An integer, and where the next thing begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise Malformed
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Malformed
