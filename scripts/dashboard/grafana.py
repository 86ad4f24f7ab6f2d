"""Grafana's JSON of a dashboard: rows, variables, the grid. `panels.py` has the panels.

The forms are those of Grafana 10 to 12 (schemaVersion 39). Nothing here knows a metric.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.dashboard.panels import DATASOURCE, GRID_COLUMNS, Json, JsonObject, Panel


@dataclass(frozen=True)
class Row:
    """A heading and the panels below it, laid out from left to right."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A variable that is filled by `label_values(query, label)`; `multi` has All."""

    name: str
    title: str
    query: str
    label: str
    multi: bool = True

    def json(self) -> JsonObject:
        """As it stands in the dashboard."""
        asked = f"label_values({self.query}, {self.label})"
        return {
            "name": self.name,
            "label": self.title,
            "type": "query",
            "datasource": DATASOURCE,
            "definition": asked,
            "query": {"query": asked, "refId": self.name, "qryType": 1},
            "refresh": 2,
            "sort": 1,
            "multi": self.multi,
            "includeAll": self.multi,
            **({"allValue": ".*"} if self.multi else {}),
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]}
            if self.multi
            else {},
        }


def dashboard(
    *,
    uid: str,
    title: str,
    description: str,
    variables: Sequence[Variable],
    rows: Sequence[Row],
    starts: str,
) -> JsonObject:
    """The whole dashboard. Its data source is a variable: it fits every Grafana. `starts` is an
    expression of moments in milliseconds, which are marked in every panel."""
    source: JsonObject = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "refresh": 1,
    }
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["stoker", "inference"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [source, *[variable.json() for variable in variables]]},
        "annotations": {
            "list": [
                {
                    "name": "Server starts",
                    "datasource": DATASOURCE,
                    "enable": True,
                    "iconColor": "light-blue",
                    "expr": starts,
                    "titleFormat": "{{pod}} started",
                    "useValueForTime": "on",
                }
            ]
        },
        "panels": _laid_out(rows),
    }


def _laid_out(rows: Sequence[Row]) -> list[Json]:
    placed: list[Json] = []
    y = 0
    for row in rows:
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": GRID_COLUMNS, "h": 1},
                "panels": [],
            }
        )
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > GRID_COLUMNS:
                x, y, height = 0, y + height, 0
            placed.append(panel.json(len(placed) + 1, x, y))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return placed
