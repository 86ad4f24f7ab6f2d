"""Inference calls in JSON that are laid out like one that came before.  Hot path.

A client sends the same text again and again, but for its inputs' `data` and perhaps an id at the
beginning. So of a text that the codec has read the layout is remembered: all of it but the arrays.
Where a later text is the same outside of its arrays, byte for byte, and each array is JSON by
itself, the whole is JSON and says the same but for the data: JSON has no context that would change
what an array means. Only the arrays are parsed then: a call of 16 numbers takes 2.0 us, not 6.6,
one of 39 inputs 34, not 212 (benchmarks/results/0007-json.md).

Whatever is unusual is `None` here, and the codec reads the text as if nothing were known: all that
is wrong with a text is said there. That a layout's holes are the inputs' data, and not one of two
keys or part of a string, is tried out when it is learned.
"""

import json
import re
import struct
from itertools import chain
from typing import Any, Final

import orjson
import simdjson

from stoker.errors import ServingError
from stoker.request import InferRequest
from stoker.tensor import Array, Raw, element_count
from stoker.transport.rest.envelope import Decoded, Envelope, Input, envelope_of
from stoker.transport.rest.json_data import SIMD_FROM_BYTES, to_tensor
from stoker.transport.rest.json_elements import FLOATS, buffer_of, fits, narrowed, packing

_REMEMBERED: Final = 128
"""Beginnings of texts that are kept: one per client, model and shape. At the limit all are
forgotten."""

_REMEMBERED_ENDS: Final = 8
"""Layouts that begin alike: other outputs, or shapes where those stand behind the data."""

_PATIENCE: Final = 256
"""Calls that begin alike and end in none of _REMEMBERED_ENDS ways before those of them that did not
come again are forgotten. Learning takes 30 us: where the ends differ each time that is 1 us a
call."""

_LAYOUT_BYTES: Final = 4 << 10
"""Of a text without its data and id: 40 inputs. All beginnings with all their ends take 20 MiB."""

_NESTED: Final = 8
"""Data that is nested deeper is for `to_tensor`, which has a limit."""

_DATA: Final = b'"data":'
_ID_KEY: Final = b'{"id"'
_ID: Final = re.compile(rb'\{"id": ?"([ !#-\[\]-~]{0,256})", ?')
"""Text that means itself: what needs an escape is read by the codec."""
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_MARKS: Final = ("a", "b")

_UNUSUAL: Final = (
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    RuntimeError,
    struct.error,
    ServingError,
)
"""What parsers and the reading of data raise, simdjson's RuntimeError for large integers too."""


class _Data:
    """How one input's array is read."""

    __slots__ = ("_count", "_input", "_pack")

    def __init__(self, described: Input) -> None:
        self._input = described
        self._count = element_count(described.shape, tensor=described.name)
        self._pack = packing(described.datatype, self._count)

    def read(self, text: bytes) -> Raw | Array:
        """The data; numbers in their raw form, which batches are made of by one join.

        Raises one of _UNUSUAL where the text is no array of such elements.
        """
        described, pack = self._input, self._pack
        name, datatype = described.name, described.datatype
        parsed: Any
        if len(text) < SIMD_FROM_BYTES:
            parsed = orjson.loads(text)
            nested = 0
            while len(parsed) != self._count and nested < _NESTED and type(parsed[0]) is list:
                parsed = list(chain.from_iterable(parsed))
                nested += 1
            # `true` and `false`, which pass for numbers, have these letters. A look at each
            # element's type takes five times as long.
            if (
                pack is not None
                and len(parsed) == self._count
                and b"u" not in text
                and b"s" not in text
            ):
                return pack(*parsed)
        else:
            parsed = simdjson.Parser().parse(text)
            wide = buffer_of(datatype, parsed) if isinstance(parsed, simdjson.Array) else None
            if wide is not None and len(wide) == self._count:
                if datatype in FLOATS:
                    return narrowed(name, datatype, wide).tobytes()
                if fits(datatype, wide):
                    return wide.astype(datatype.numpy).tobytes()
        return to_tensor(name, datatype, described.shape, parsed).data


class _Layout:
    """A text without its data and id."""

    __slots__ = ("data", "envelope", "joints", "only", "tail", "was_used")

    def __init__(self, envelope: Envelope, joints: tuple[bytes, ...], tail: bytes) -> None:
        self.envelope = envelope
        self.joints = joints
        """What stands between one input's data and the next."""
        self.tail = tail
        self.data = tuple([_Data(each) for each in envelope.inputs])
        self.only = None if joints else self.data[0].read
        """Reads the data where there is one input."""
        self.was_used = False

    def read(self, text: bytes, at: int) -> tuple[Raw | Array, ...] | None:
        """The data of a text whose first data is at `at` and which ends as this does. None where
        something else stands between. Raises as `_Data.read`."""
        end = len(text) - len(self.tail)
        if self.only is not None:
            return (self.only(text[at:end]),)
        pieces: list[bytes] = []
        for joint in self.joints:
            begin = text.find(joint, at, end)
            if begin < 0:
                return None
            pieces.append(text[at:begin])
            at = begin + len(joint)
        pieces.append(text[at:end])
        return tuple([data.read(piece) for data, piece in zip(self.data, pieces, strict=True)])


class _Alike:
    """Layouts that begin alike."""

    __slots__ = ("layouts", "missed")

    def __init__(self) -> None:
        self.layouts: list[_Layout] = []
        """Those with the longest ends first: the end of one may be the end of another's end."""
        self.missed = 0
        """Calls that were of none since there is room for no more."""

    def has_room(self) -> bool:
        """Whether another is learned; it may cost those that are known."""
        if len(self.layouts) < _REMEMBERED_ENDS:
            return True
        self.missed += 1
        if self.missed < _PATIENCE:
            return False
        self.layouts, self.missed = [each for each in self.layouts if each.was_used], 0
        for layout in self.layouts:
            layout.was_used = False
        return len(self.layouts) < _REMEMBERED_ENDS

    def add(self, layout: _Layout) -> None:
        """Takes a new one."""
        self.layouts = sorted([*self.layouts, layout], key=lambda each: -len(each.tail))


_known: dict[bytes, _Alike] = {}
"""By the text up to the first data, without id."""

_seen: set[bytes] = set()
"""Beginnings that came once. The second time their layout is learned."""


def read(model: str, version: str, text: bytes) -> Decoded | None:
    """The call, if its layout is known and nothing is wrong with it."""
    at = text.find(_DATA, 0, _LAYOUT_BYTES)
    if at < 0:
        return None
    at += len(_DATA)
    id, beginning = _beginning(text, at)
    alike = _known.get(beginning)
    if alike is None:
        return None
    for layout in alike.layouts:
        if text.endswith(layout.tail):
            try:
                data = layout.read(text, at)
            except _UNUSUAL:
                continue
            if data is not None:
                layout.was_used = True
                envelope = layout.envelope
                kind = envelope.kinds.get((model, version)) or envelope.kind(model, version)
                request = InferRequest(kind, data, id, parameters=envelope.parameters)
                return request, envelope.forms
    return None


def learn(text: bytes, envelope: Envelope) -> None:
    """The codec has read this text, and found nothing wrong with it."""
    at = text.find(_DATA, 0, _LAYOUT_BYTES)
    if at < 0 or any(each.binary_size >= 0 for each in envelope.inputs):
        return
    at += len(_DATA)
    id, beginning = _beginning(text, at)
    if id != envelope.id:
        return  # it stands elsewhere, and the rest will not come again
    if beginning not in _seen:
        if len(_seen) >= _REMEMBERED:
            _seen.clear()
        _seen.add(beginning)
        return
    alike = _known.get(beginning) or _Alike()
    if not alike.has_room():
        return
    layout = _layout(text, beginning, at, len(envelope.inputs))
    if layout is None:
        return
    alike.add(layout)
    if beginning not in _known:
        if len(_known) >= _REMEMBERED:
            _known.clear()
        _known[beginning] = alike


def forget() -> None:
    """Forgets everything, as at the limit."""
    _known.clear()
    _seen.clear()


def _beginning(text: bytes, at: int) -> tuple[str, bytes]:
    """The id, and the text up to its first data, which is at `at`, but for the id."""
    if text.startswith(_ID_KEY):
        found = _ID.match(text, 0, at)
        if found is not None:
            return found[1].decode(), b"{" + text[found.end() : at]
    return "", text[:at]


def _layout(text: bytes, beginning: bytes, at: int, inputs: int) -> _Layout | None:
    """What this text, a call with so many inputs, has in common with others."""
    pieces: list[bytes] = []
    latin = text.decode("latin-1")  # a character for each byte, and JSON's own are ASCII
    decoder = json.JSONDecoder()
    for index in range(inputs):
        try:
            space = _SPACE.match(latin, at)
            _, end = decoder.raw_decode(latin, at if space is None else space.end())
        except (ValueError, RecursionError):
            return None
        at = text.find(_DATA, end) + len(_DATA) if index + 1 < inputs else len(text)
        if at < end:
            return None
        pieces.append(text[end:at])
    if len(beginning) + sum(map(len, pieces)) > _LAYOUT_BYTES:
        return None
    for mark in _MARKS:
        tried = beginning
        for index, piece in enumerate(pieces):
            tried += b'[%d,"%b"]%b' % (index, mark.encode(), piece)
        try:
            envelope = envelope_of(orjson.loads(tried))
        except (ValueError, ServingError):
            return None
        if envelope.id or [each.data for each in envelope.inputs] != [
            [index, mark] for index in range(inputs)
        ]:
            return None
    return _Layout(envelope, tuple(pieces[:-1]), pieces[-1])
