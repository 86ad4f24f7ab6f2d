"""Where the fields of a text-format file stand: a tree of places, made beside the real parser.

protobuf's parser gives a message without line numbers and stops at the first unknown field. This
walk over the same text, along the message's descriptor, finds each field's line and every unknown
field. It decides nothing about values: `pbtxt.py` lets protobuf do that.

Source: Protocol Buffers, "Text Format Language Specification"; tokens as in protobuf's Python.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor

FieldPath: TypeAlias = Sequence[str | int]
"""`("input", 1, "dims")`; the key of a map, in double quotes, stands for its entry."""

_TOKEN: Final = re.compile(
    r"""
    (?P<skip> \s+ | \#[^\n]* )
  | (?P<string> "(?:[^"\n\\]|\\.)*" | '(?:[^'\n\\]|\\.)*' )
  | [a-zA-Z_][0-9a-zA-Z_+-]*
  | (?:[0-9+-]|\.[0-9])[0-9a-zA-Z_.+-]*
  | .
    """,
    re.VERBOSE | re.DOTALL,
)

_CLOSES: Final = {"{": "}", "<": ">", "[": "]"}


class Malformed(Exception):
    """The text does not follow the grammar; protobuf's parser has the words for it."""


@dataclass(slots=True)
class Place:
    """One field in the text: offsets of its first and past its last character."""

    name: str
    start: int
    end: int
    blank: tuple[int, int]
    """What to overwrite with spaces so that the rest of the text stays well-formed."""
    value: str = ""
    """The text of a scalar's first token."""
    known: FieldDescriptor | None = None
    fields: dict[str, list["Place"]] = field(default_factory=dict)


class Places:
    """All fields of one text. Unknown fields are in `unknown`, each with its path."""

    def __init__(self, text: str, descriptor: Descriptor) -> None:
        """Raises Malformed where the text cannot be walked."""
        self._text = text
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self.unknown: list[tuple[str, Place, Descriptor]] = []
        walk = _Walk(text, self.unknown)
        self.root = Place("", 0, len(text), (0, len(text)))
        walk.message(descriptor, self.root, closing="", path="")

    def line_at(self, offset: int) -> int:
        """The line, counted from 1, of a character."""
        return sum(1 for end in self._line_ends if end < offset) + 1

    def line_of(self, path: FieldPath) -> int | None:
        """The line of a field, or of the nearest field around it that the text has."""
        place = self.root
        steps = list(path)
        while steps:
            step = steps.pop(0)
            entries = place.fields.get(str(step), [])
            if not entries:
                break
            place = entries[0]
            if steps and isinstance(steps[0], int):
                place = entries[min(int(steps.pop(0)), len(entries) - 1)]
            elif steps and str(steps[0]).startswith('"'):
                place = _entry(entries, str(steps.pop(0)).strip('"'))
        return None if place is self.root else self.line_at(place.start)

    def innermost(self, offset: int) -> tuple[str, Place] | None:
        """The smallest field around a character, with its path."""
        path, place = "", self.root
        while True:
            for name, entries in place.fields.items():
                inside = [each for each in entries if each.start <= offset < each.end]
                if inside:
                    place = inside[0]
                    index = f"[{entries.index(place)}]" if len(entries) > 1 else ""
                    path = f"{path}.{name}{index}" if path else f"{name}{index}"
                    break
            else:
                return None if place is self.root else (path, place)


def _entry(entries: Sequence[Place], key: str) -> Place:
    for entry in entries:
        keys = entry.fields.get("key", [])
        if keys and keys[0].value.strip("\"'") == key:
            return entry
    return entries[0]


class _Walk:
    """A cursor over the tokens. Unknown fields are skipped without recursion."""

    def __init__(self, text: str, unknown: list[tuple[str, Place, Descriptor]]) -> None:
        self._tokens = [
            (match.start(), match.group(), match.lastgroup == "string")
            for match in _TOKEN.finditer(text)
            if match.lastgroup != "skip"
        ]
        self._at = 0
        self._end = 0
        self._unknown = unknown

    @property
    def _token(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    @property
    def _start(self) -> int:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else self._end

    def _next(self) -> str:
        if self._at >= len(self._tokens):
            raise Malformed
        start, token, _ = self._tokens[self._at]
        self._at += 1
        self._end = start + len(token)
        return token

    def _try(self, *tokens: str) -> bool:
        if self._token not in tokens or not self._token:
            return False
        self._next()
        return True

    def message(self, descriptor: Descriptor, into: Place, *, closing: str, path: str) -> None:
        """Walks fields up to `closing` (empty: the end of the text)."""
        while self._token != closing:
            self._field(descriptor, into, path)
        if closing:
            self._next()

    def _field(self, descriptor: Descriptor, into: Place, path: str) -> None:
        start = self._start
        name = self._next()
        if name == "[":
            while not self._try("]"):
                name += self._next()
            name += "]"
        elif not re.match(r"\w", name):
            raise Malformed
        known = descriptor.fields_by_name.get(name)
        place = Place(name, start, start, (start, start), known=known)
        inner = f"{path}.{name}" if path else name
        if known is None:
            self._skip_value()
            self._unknown.append((inner, place, descriptor))
            found = [place]
        else:
            found = self._value(known, place, inner)
            into.fields.setdefault(name, []).extend(found)
        self._try(",", ";")
        for each in found:
            each.blank = (start, self._end)

    def _value(self, known: FieldDescriptor, place: Place, path: str) -> list[Place]:
        """Walks a field's value. The field itself, or the items of a list of messages."""
        self._try(":")
        if known.message_type is None:
            place.value = self._token
            if self._try("["):
                while not self._try("]"):
                    self._next()
            else:
                self._scalar()
        elif known.is_repeated and self._try("["):
            return self._items(known, path)
        else:
            self._body(known.message_type, place, path)
        place.end = self._end
        return [place]

    def _items(self, known: FieldDescriptor, path: str) -> list[Place]:
        items: list[Place] = []
        if self._try("]"):
            return items
        while True:
            item = Place(known.name, self._start, self._start, (0, 0), known=known)
            self._body(known.message_type, item, path)
            item.end = self._end
            items.append(item)
            if self._try("]"):
                return items
            if not self._try(","):
                raise Malformed

    def _body(self, descriptor: Descriptor, place: Place, path: str) -> None:
        opening = self._next()
        if opening not in "{<":
            raise Malformed
        self.message(descriptor, place, closing=_CLOSES[opening], path=path)

    def _scalar(self) -> None:
        is_string = self._at < len(self._tokens) and self._tokens[self._at][2]
        if self._next() in "{}[]<>":
            raise Malformed
        while is_string and self._at < len(self._tokens) and self._tokens[self._at][2]:
            self._next()

    def _skip_value(self) -> None:
        self._try(":")
        if self._token not in _CLOSES or not self._token:
            self._scalar()
            return
        open_brackets = [_CLOSES[self._next()]]
        while open_brackets:
            token = self._next()
            if token in _CLOSES:
                open_brackets.append(_CLOSES[token])
            elif token in "}>]" and token != open_brackets.pop():
                raise Malformed
