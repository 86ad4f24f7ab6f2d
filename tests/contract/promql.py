"""Which series a PromQL expression reads: names of metrics, and the labels that it expects of them.

Not a parser of the language: Prometheus and promtool check that. It takes strings, numbers, ranges
and grouping clauses out; names that are then neither called nor words of the language are metrics.
"""

import re
from dataclasses import dataclass
from typing import Final

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING: Final = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_NUMBER: Final = re.compile(r"(?<![\w:.])[\d.][\w.]*")
"""Durations as well: 14.4, 1e6, 5m."""
_RANGE: Final = re.compile(r"\[[^\]]*\]")
_SELECTOR: Final = re.compile(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\}|\()?")
_WORDS: Final = {"and", "or", "unless", "offset", "bool", "group_left", "group_right"}


@dataclass(frozen=True)
class Selector:
    """A metric and the labels that its matchers name."""

    metric: str
    labels: frozenset[str]


def selectors(expression: str) -> list[Selector]:
    """Every series selector, from left to right."""
    bare = _RANGE.sub("", _GROUPING.sub("", _STRING.sub('""', expression)))
    bare = _NUMBER.sub("", bare)
    found = []
    for name, rest in _SELECTOR.findall(bare):
        if rest == "(" or name in _WORDS:
            continue
        found.append(Selector(name, frozenset(re.findall(r"(\w+)\s*[=!]", rest))))
    return found


def grouping_labels(expression: str) -> set[str]:
    """The labels that `by`, `on` and the like name."""
    clauses = _GROUPING.findall(_STRING.sub('""', expression))
    return {label for clause in clauses for label in re.findall(r"\w+", clause)}
