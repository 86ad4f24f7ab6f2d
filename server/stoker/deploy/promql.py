"""As much of PromQL as lint has to read in an autoscaler's query: selectors and aggregations.

No parser: what it does not recognise it says nothing of.  Source: Prometheus, "Querying basics",
"Aggregation operators".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

OUR_METRIC: Final = re.compile(r"(?<![\w:])(?:stoker|nv)_[a-z0-9_]+(?![\w:])")
"""Names of series that begin as the server's do; recorded ones have a colon."""
_SELECTED: Final = re.compile(rf"({OUR_METRIC.pattern})\s*(\{{[^}}]*\}})?")
_MATCHER: Final = re.compile(r"(\w+)\s*(=~|!~|!=|=)\s*(\"[^\"]*\"|'[^']*'|`[^`]*`)")
_LABELS: Final = re.compile(r"\{[^}]*\}")
_AGGREGATION: Final = re.compile(
    r"\b(sum|avg|min|max|quantile|count|group|stddev|stdvar|topk|bottomk|count_values)\b"
    r"\s*(?=\(|by\b|without\b)",
    re.IGNORECASE,
)
_GROUPING: Final = re.compile(r"\b(by|without)\s*\(([^)]*)\)", re.IGNORECASE)
_SINGLE: Final = re.compile(r"\b(scalar|vector|absent)\s*\(", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Matcher:
    """`namespace=~"a|b"`."""

    label: str
    operator: str
    value: str

    def matches(self, value: str) -> bool:
        """Whether a series with that value of the label is taken; an unreadable pattern takes it
        for all that is known."""
        if self.operator in ("=", "!="):
            return (value == self.value) == (self.operator == "=")
        try:
            is_like = re.fullmatch(self.value, value) is not None
        except re.error:
            return True
        return is_like == (self.operator == "=~")


def selected(query: str) -> Iterator[tuple[str, tuple[Matcher, ...]]]:
    """(name, its matchers) of each metric of ours in a query."""
    for match in _SELECTED.finditer(query):
        found = _MATCHER.findall(match[2] or "")
        yield match[1], tuple(Matcher(label, how, value[1:-1]) for label, how, value in found)


def aggregations(query: str) -> tuple[str, ...]:
    """The aggregation operators of a query from left to right, in lower case."""
    return tuple(each[1].lower() for each in _AGGREGATION.finditer(_LABELS.sub("", query)))


def groups(query: str) -> frozenset[str] | None:
    """The labels that results are kept apart by; None where only the others are named."""
    found: set[str] = set()
    for keyword, labels in _GROUPING.findall(_LABELS.sub("", query)):
        if keyword.lower() == "without":
            return None
        found.update(re.findall(r"\w+", labels))
    return frozenset(found)


def is_one_number(query: str) -> bool:
    """Whether a function makes one number of whatever there is."""
    return _SINGLE.search(query) is not None
