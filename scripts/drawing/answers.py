"""Asks Prometheus what a panel shows, as Grafana would: variables filled, legends expanded."""

import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from scripts.dashboard.panels import Panel, Query, Table


@dataclass(frozen=True)
class Series:
    """One line of a panel."""

    legend: str
    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]
    """Seconds since the epoch and values; a gap is a missing or endless value."""

    @property
    def values(self) -> list[float]:
        """The finite ones."""
        return [value for _, value in self.points if math.isfinite(value)]


@dataclass(frozen=True)
class Window:
    """What is asked for: from when to when, how dense, and over how long rates are taken."""

    start: float
    end: float
    step: float
    rate_interval: str


def answers(url: str, panel: Panel, window: Window) -> list[list[Series]]:
    """The series of each query of a panel; of a table the last values only."""
    instant = isinstance(panel, Table)
    return [_answer(url, query, window, instant=instant) for query in panel.queries]


def _answer(url: str, query: Query, window: Window, *, instant: bool) -> list[Series]:
    expression = query.expr.replace("$__rate_interval", window.rate_interval)
    expression = re.sub(r"\$(namespace|job|pod|model)", ".*", expression)
    asked = {"query": expression}
    if instant:
        asked["time"] = f"{window.end}"
    else:
        asked |= {"start": f"{window.start}", "end": f"{window.end}", "step": f"{window.step}"}
    path = "query" if instant else "query_range"
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(asked)}") as answer:
        result = json.load(answer)["data"]["result"]
    return [
        Series(
            _legend(query.legend, each["metric"]),
            each["metric"],
            tuple((float(at), float(value)) for at, value in each.get("values") or [each["value"]]),
        )
        for each in result
    ]


def _legend(template: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), template).strip()
