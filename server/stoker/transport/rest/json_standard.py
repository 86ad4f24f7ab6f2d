"""JSON by the standard library: it decides on what the fast parsers refuse.

It takes NaN, Infinity and integers of any size. It would also read a number beyond the doubles,
such as 1e400, as an infinity that the client did not write; here that number stays finite, so that
whoever checks ranges finds it out of every one. That takes a call for each number with a fraction,
0.5 ms for 5,000 of them instead of 0.2.
"""

import json
from typing import Any, Final

_BEYOND: Final = 10**309
"""In place of a number beyond the doubles, which end below 1.8e308. As an integer it stays large:
no datatype, shape or parameter takes it."""


def _finite(text: str) -> float:
    number = float(text)
    if number - number == 0:
        return number
    return -_BEYOND if number < 0 else _BEYOND


_DECODER: Final = json.JSONDecoder(parse_float=_finite)


def parse(text: bytes | memoryview) -> Any:
    """The value of a whole text. Raises ValueError for what is not JSON in UTF-8, RecursionError
    for what is nested deeper than Python goes."""
    value = str(text, "utf-8")
    if value.startswith("\ufeff"):
        raise ValueError("a byte order mark, which RFC 8259, 8.1, forbids")
    return _DECODER.decode(value)
