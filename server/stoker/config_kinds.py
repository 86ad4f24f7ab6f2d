"""The kinds of values a setting can have: how each reads from text, prints, and shows in help.

`config.py` gives every setting one of them. A `parse` takes what a source holds: one text, or the
several of a repeated flag or a YAML list. It raises ValueError with a sentence that says what was
expected and what came; nothing else escapes from it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from stoker.config_sources import Written
from stoker.units import format_duration, format_size, parse_duration, parse_size

# gRPC's C core holds milliseconds of connection age in 32 bits (24 days). A day is longer than
# any of our timeouts has a use for.
_LONGEST_S: Final = 24 * 3600.0
_MAX_COUNT: Final = 2**31 - 1
_WORDS: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value."""

    metavar: str
    parse: Callable[[Written], object]
    format: Callable[[object], str] = str
    several: bool = False
    """Flags repeat, YAML takes a list, a variable separates by commas."""
    switch: bool = False
    """The flag alone means true."""


def _number(written: Written, expected: str, least: int, most: int) -> int:
    text = _one(written, expected).strip()
    if text.isascii() and text.isdecimal() and len(text) <= 20 and least <= int(text) <= most:
        return int(text)
    raise ValueError(f"expected {expected}, got {text[:40]!r}")


def _port(written: Written) -> int:
    return _number(written, "a port from 0 to 65535", 0, 65535)


def _count(written: Written) -> int:
    return _number(written, "a whole number of at least 1", 1, _MAX_COUNT)


def _size(written: Written) -> int:
    text = _one(written, "a number of bytes")
    size = parse_size(text)
    if size == 0:
        raise ValueError(f"expected at least one byte, got {text!r}")
    return size


def _message_size(written: Written) -> int:
    size = _size(written)
    if size > _MAX_COUNT:
        raise ValueError(
            f"expected at most {_MAX_COUNT} bytes, the most that a gRPC message can have, "
            f"got {written!r}"
        )
    return size


def _duration(written: Written) -> float:
    text = _one(written, "a duration")
    seconds = parse_duration(text)
    if seconds > _LONGEST_S:
        raise ValueError(f"expected a duration of at most 24h, got {text!r}")
    return seconds


def _some_duration(written: Written) -> float:
    seconds = _duration(written)
    if seconds == 0:
        raise ValueError(f"expected a duration above 0, got {written!r}")
    return seconds


def _share(written: Written) -> float:
    text = _one(written, "a share from 0 to 1")
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share from 0 to 1, got {text!r}")
    return share


def _interval(written: Written) -> float:
    seconds = _duration(written)
    if 0 < seconds < 1:
        raise ValueError(f"expected a duration of at least 1s, or 0, got {written!r}")
    return seconds


def _switch(written: Written) -> bool:
    text = _one(written, "true or false")
    value = _WORDS.get(text.strip().lower())
    if value is None:
        raise ValueError(f"expected true or false, got {text!r}")
    return value


def _text(written: Written, expected: str) -> str:
    text = _one(written, expected)
    if not text.strip():
        raise ValueError(f"expected {expected}, got {text!r}")
    return text


def _texts(written: Written, expected: str) -> tuple[str, ...]:
    texts = written.split(",") if isinstance(written, str) else written
    texts = tuple(each.strip() for each in texts)
    if not all(texts):
        raise ValueError(f"expected {expected}, got an empty one in {','.join(texts)!r}")
    return texts


def _one(written: Written, expected: str) -> str:
    if isinstance(written, tuple):
        raise ValueError(f"expected {expected}, got a list of {len(written)} values")
    return written


def _joined(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def is_switch_word(text: str) -> bool:
    """Whether a switch understands the text: `true`, `false`, `on`, `off` ..."""
    return text.strip().lower() in _WORDS


def choice(values: Iterable[str]) -> Kind:
    """One word out of a few, in any case."""
    words = tuple(values)
    expected = f"one of {', '.join(words)}" if len(words) > 1 else words[0]

    def parse(written: Written) -> str:
        text = _one(written, expected)
        if text.strip().lower() not in words:
            raise ValueError(f"expected {expected}, got {text!r}")
        return text.strip().lower()

    return Kind("|".join(words), parse)


PORT: Final = Kind("PORT", _port)
COUNT: Final = Kind("N", _count)
SIZE: Final = Kind("SIZE", _size, lambda value: format_size(int(str(value))))
MESSAGE_SIZE: Final = Kind("SIZE", _message_size, SIZE.format)
DURATION: Final = Kind("TIME", _duration, lambda value: format_duration(float(str(value))))
SOME_DURATION: Final = Kind("TIME", _some_duration, DURATION.format)
SHARE: Final = Kind("SHARE", _share)
INTERVAL: Final = Kind("TIME", _interval, DURATION.format)
SWITCH: Final = Kind("true|false", _switch, lambda value: str(value).lower(), switch=True)
HOST: Final = Kind("ADDRESS", lambda written: _text(written, "an address"))
NAME: Final = Kind("NAME", lambda written: _text(written, "a name"))
FOLDER: Final = Kind("FOLDER", lambda written: _text(written, "a folder's path"))
FILES: Final = Kind("FILE", lambda written: _texts(written, "paths"), _joined, several=True)
FILE: Final = Kind("FILE", lambda written: _text(written, "a file's path"))
NAMES: Final = Kind("NAME", lambda written: _texts(written, "names"), _joined, several=True)
TEXTS: Final = Kind("SOURCE", lambda written: _texts(written, "paths"), _joined, several=True)
