"""The lines of one metric of one model: the beginnings never change, the numbers behind them do.

Nearly all numbers are small counts, so that the lines are a template that such numbers are filled
into; what it cannot write is written one by one, as `exposition.number` does it.

Knows neither what the numbers mean nor where they come from.
"""

from collections.abc import Sequence
from typing import Final

from stoker.telemetry.exposition import PLAIN_INTEGERS_BELOW, number

_COUNT: Final = b"%d.0\n"
"""The end of a line whose number is a small count. No prefix has it: they hold no line's end."""
_ANY: Final = b"%b\n"


def line_template(prefixes: Sequence[str]) -> bytes:
    """What `filled_lines` fills; `prefixes` are the lines up to their numbers."""
    return _COUNT.join([each.replace("%", "%%").encode() for each in prefixes]) + _ANY


def filled_lines(template: bytes, values: Sequence[float]) -> bytes:
    """The lines with these numbers, one for each prefix."""
    *counts, last = values
    # A filled template takes 3.9 us for a histogram, its lines one by one 10 us
    # (benchmarks/results/0010-scraped-models.md).
    if not counts or _are_plain(counts):
        return template % (*counts, number(last).encode())
    return template.replace(_COUNT, _ANY) % tuple([number(value).encode() for value in values])


def _are_plain(values: Sequence[float]) -> bool:
    """Whether `%d.0` writes all of them as the library does."""
    least, most = min(values), max(values)
    return least >= 0 and most < PLAIN_INTEGERS_BELOW and set(map(type, values)) == {int}
