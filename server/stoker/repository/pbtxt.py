"""Reads protobuf text format into a message and tells all that is wrong with it, not the first.

Unknown fields and values of the wrong type are blanked out of the text one after another, keeping
its lines, until protobuf's own parser accepts the rest. A syntax error ends the reading. Knows no
field by name: any message will do.
"""

import re
from difflib import get_close_matches
from typing import Final, cast

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from stoker.repository.places import Malformed, Place, Places
from stoker.repository.report import Report

_MAX_PROBLEMS: Final = 100
"""Reading a text again after each problem takes quadratic time: enough for any honest file."""

_QUOTED_LINE: Final = re.compile(r"^\d+:\d+ : (?:'.*': )?", re.DOTALL)
_VALUE_CHARACTERS: Final = 60


def read(content: bytes, message: Message, *, file: str) -> Report:
    """Fills `message` with what the text says, as far as it can be understood.

    Returns a report with a problem for each unknown field and each unreadable value.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Report(file, problems=[f"{file}:{line}: expected UTF-8 text, got other bytes"])
    try:
        places = Places(text, cast(Descriptor, message.DESCRIPTOR))
    except Malformed:
        problem = _parse(text, message)
        if problem is None:  # its parser knows better
            return Report(file)
        return Report(file, problems=[f"{file}:{problem.GetLine() or 1}: {_words(problem)}"])
    report = Report(file, places)
    for path, place, descriptor in places.unknown:
        near = get_close_matches(place.name, descriptor.fields_by_name, n=1, cutoff=0.7)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        line = places.line_at(place.start)
        report.problems.append(f"{file}:{line}: {path}: unknown field{hint}")
        text = _blanked(text, place)
    _read_values(text, message, report, places)
    return report


def _read_values(text: str, message: Message, report: Report, places: Places) -> None:
    for _ in range(_MAX_PROBLEMS):
        problem = _parse(text, message)
        if problem is None:
            return
        line, column = problem.GetLine() or 1, problem.GetColumn() or 1
        found = places.innermost(_offset(text, line, column))
        if found is None:
            report.problems.append(f"{report.file}:{line}: {_words(problem)}")
            return
        path, place = found
        report.problems.append(f"{report.file}:{line}: {path}: {_explain(problem, place)}")
        blanked = _blanked(text, place)
        if blanked == text:
            return
        text = blanked


def _parse(text: str, message: Message) -> text_format.ParseError | None:
    message.Clear()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        return error
    except (ValueError, TypeError) as error:  # an escape or number that its parser lets through
        return text_format.ParseError(str(error))
    return None


def _offset(text: str, line: int, column: int) -> int:
    """The index of a 1-based line and column."""
    at = 0
    for _ in range(line - 1):
        at = text.index("\n", at) + 1
    return at + column - 1


def _blanked(text: str, place: Place) -> str:
    start, end = place.blank
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]


def _explain(problem: text_format.ParseError, place: Place) -> str:
    """What was expected and what came; protobuf's words where they say more."""
    known = place.known
    words = _words(problem)
    if known is None or known.message_type is not None or "multiple" in words or "oneof" in words:
        return words
    if place.value in ("[", ""):
        return words
    if known.enum_type is not None:
        expected = f"one of {', '.join(value.name for value in known.enum_type.values)}"
    else:
        expected = _EXPECTED[known.cpp_type]
    return f"expected {expected}, got {place.value[:_VALUE_CHARACTERS]}"


_EXPECTED: Final = {
    FieldDescriptor.CPPTYPE_INT32: "a 32-bit integer",
    FieldDescriptor.CPPTYPE_INT64: "a 64-bit integer",
    FieldDescriptor.CPPTYPE_UINT32: "an integer from 0 to 4294967295",
    FieldDescriptor.CPPTYPE_UINT64: "an integer from 0 to 18446744073709551615",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_STRING: "quoted text",
}


def _words(problem: text_format.ParseError) -> str:
    """protobuf's message without its position and its quotation of the whole line."""
    return _QUOTED_LINE.sub("", str(problem)).rstrip(".")
