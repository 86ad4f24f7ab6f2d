"""As much of PromQL as lint has to read in an autoscaler's query: selectors and aggregations.

No parser: what it does not recognise it says nothing of.  Source: Prometheus, "Querying basics",
"Aggregation operators".
"""

import re
from collections.abc import Collection, Iterator
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
_COMBINED: Final = re.compile(r"[*/]|\bhistogram_\w+\s*\(", re.IGNORECASE)
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


def keeps_apart(query: str, labels: Collection[str]) -> bool:
    """Whether an outermost aggregation gives a value for each value of one of the labels. What
    stands inside of another, such as `sum(max by (pod) (...))`, is summed up there; one that
    leaves `instance` out is taken for meant so."""
    plain = _LABELS.sub("", query)
    outermost = min((_depth(plain, each) for each in _AGGREGATION.finditer(plain)), default=0)
    for match in _GROUPING.finditer(plain):
        if _depth(plain, match) == outermost:
            listed = re.findall(r"\w+", match[2])
            is_by = match[1].lower() == "by"
            if not set(labels).isdisjoint(listed) if is_by else "instance" not in listed:
                return True
    return False


def _depth(query: str, match: re.Match[str]) -> int:
    """How many parentheses are open where a match begins."""
    before = query[: match.start()]
    return before.count("(") - before.count(")")


def is_combined(query: str) -> bool:
    """Whether a result is multiplied or divided, or a quantile of a histogram: what it counts in
    the end, an aggregation inside does not tell."""
    return _COMBINED.search(_LABELS.sub("", query)) is not None


def is_one_number(query: str) -> bool:
    """Whether a function makes one number of whatever there is."""
    return _SINGLE.search(query) is not None
