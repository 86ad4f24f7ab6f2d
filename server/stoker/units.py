"""Durations and byte sizes as people write them: `5s`, `250ms`, `1m30s`; `64MiB`, `1Gi`, `4096`.

`config.py` and the command line read settings through it, and print defaults with it. Inside the
server a duration is a float of seconds and a size an int of bytes; nothing else meets the text.
"""

import re
from fractions import Fraction
from typing import Final

_DURATION_UNITS: Final = {
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1_000),
    "us": Fraction(1, 1_000_000),
}
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|m|us|s)")

_SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]{0,3})")

# Longer texts are no numbers that anyone means; the bound keeps Fraction's work small.
_MAX_TEXT: Final = 40


def parse_duration(text: str) -> float:
    """Seconds of `5s`, `250ms`, `5m`, `1m30s`; a lone `0` needs no unit.

    Raises ValueError, with a sentence for the user, for anything else.
    """
    total = Fraction(0)
    at = 0
    rest = text.strip()
    while len(rest) <= _MAX_TEXT and (part := _DURATION_PART.match(rest, at)):
        total += Fraction(part[1]) * _DURATION_UNITS[part[2]]
        at = part.end()
    if rest == "0" or (at and at == len(rest)):
        return float(total)
    raise ValueError(f"expected a duration such as 5s, 250ms or 5m, got {_shown(text)}")


def parse_size(text: str) -> int:
    """Bytes of `64MiB`, `64Mi`, `1GB` or `4096`: Ki, Mi, Gi, Ti count in 1024, kB to TB in 1000.

    Raises ValueError, with a sentence for the user, for anything else.
    """
    rest = text.strip()
    match = _SIZE.fullmatch(rest) if len(rest) <= _MAX_TEXT else None
    factor = _SIZE_UNITS.get(match[2].lower()) if match else None
    if match and factor:
        total = Fraction(match[1]) * factor
        if total.denominator == 1:
            return int(total)
    raise ValueError(
        f"expected a whole number of bytes such as 64MiB, 1GiB or 4096, got {_shown(text)}"
    )


def format_duration(seconds: float) -> str:
    """The shortest text with one unit; `parse_duration` reads it back, to the microsecond."""
    microseconds = round(seconds * 1_000_000)
    for unit, factor in _DURATION_UNITS.items():
        count = Fraction(microseconds, 1_000_000) / factor
        if count.denominator == 1 and count:
            return f"{count}{unit}"
    return "0s"


def format_size(size_bytes: int) -> str:
    """The shortest text with a binary unit; `parse_size` reads it back exactly."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        factor = _SIZE_UNITS[unit.lower()]
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "...")
