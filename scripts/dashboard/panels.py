"""Grafana's JSON of a panel, as far as our dashboard needs it: one class for each kind.

The forms are those of Grafana 10 to 12 (schemaVersion 39). Nothing here knows a metric.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]

GRID_COLUMNS: Final = 24
DATASOURCE: Final[JsonObject] = {"type": "prometheus", "uid": "${datasource}"}

Steps: TypeAlias = tuple[tuple[float | None, str], ...]
"""Thresholds: from which value on which colour; the first is None, from minus infinity."""


@dataclass(frozen=True)
class Query:
    """One PromQL expression of a panel and the legend of its series."""

    expr: str
    legend: str = ""
    exemplar: bool = False


@dataclass(frozen=True)
class Panel:
    """What all kinds of panel have. `width` of 24 columns; heights are in rows of 30 pixels."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    height: int = 8
    steps: Steps = ((None, "green"),)
    decimals: int | None = None
    least: float | None = 0
    most: float | None = None
    colours: Mapping[str, str] = field(default_factory=dict)
    """Colour of a series by its legend; others take the palette's."""

    def json(self, number: int, x: int, y: int) -> JsonObject:
        """The panel at a place of the grid."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [self._target(place, query) for place, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": self._overrides()},
            "options": self._options(),
        }

    @property
    def kind(self) -> str:
        """Grafana's name of the kind of panel."""
        raise NotImplementedError

    def _options(self) -> JsonObject:
        raise NotImplementedError

    def _custom(self) -> JsonObject:
        return {}

    def _target(self, place: int, query: Query) -> JsonObject:
        return {
            "refId": chr(ord("A") + place),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend,
            "range": True,
            "exemplar": query.exemplar,
        }

    def _defaults(self) -> JsonObject:
        steps: list[Json] = [{"color": colour, "value": value} for value, colour in self.steps]
        defaults: JsonObject = {
            "unit": self.unit,
            "thresholds": {"mode": "absolute", "steps": steps},
            "custom": self._custom(),
        }
        for name, value in (("decimals", self.decimals), ("min", self.least), ("max", self.most)):
            if value is not None:
                defaults[name] = value
        return defaults

    def _overrides(self) -> list[Json]:
        return [
            {
                "matcher": {"id": "byName", "options": name},
                "properties": [
                    {"id": "color", "value": {"mode": "fixed", "fixedColor": colour}},
                ],
            }
            for name, colour in self.colours.items()
        ]


@dataclass(frozen=True)
class TimeSeries(Panel):
    """Lines over time."""

    stacked: bool = False
    limits: bool = False
    """Whether the thresholds are drawn as dashed lines."""

    @property
    def kind(self) -> str:
        return "timeseries"

    def _defaults(self) -> JsonObject:
        return {**super()._defaults(), "color": {"mode": "palette-classic"}}

    def _custom(self) -> JsonObject:
        return {
            "drawStyle": "line",
            "lineInterpolation": "linear",
            "lineWidth": 1 if self.stacked else 2,
            "fillOpacity": 60 if self.stacked else 8,
            "gradientMode": "none" if self.stacked else "opacity",
            "showPoints": "never",
            "spanNulls": False,
            "axisPlacement": "auto",
            "scaleDistribution": {"type": "linear"},
            "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if self.limits else "off"},
        }

    def _options(self) -> JsonObject:
        return {
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }


@dataclass(frozen=True)
class Stat(Panel):
    """One number and its recent course."""

    width: int = 4
    height: int = 4

    @property
    def kind(self) -> str:
        return "stat"

    def _options(self) -> JsonObject:
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "auto",
        }


@dataclass(frozen=True)
class Gauge(Panel):
    """One number on a dial."""

    width: int = 4
    height: int = 4

    @property
    def kind(self) -> str:
        return "gauge"

    def _options(self) -> JsonObject:
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "orientation": "auto",
            "showThresholdLabels": False,
            "showThresholdMarkers": True,
        }


@dataclass(frozen=True)
class Heatmap(Panel):
    """How often each bucket of a histogram was hit, over time. One query by `le`."""

    scheme: str = "Oranges"

    @property
    def kind(self) -> str:
        return "heatmap"

    def _target(self, place: int, query: Query) -> JsonObject:
        return {**super()._target(place, query), "format": "heatmap"}

    def _custom(self) -> JsonObject:
        return {"scaleDistribution": {"type": "linear"}}

    def _options(self) -> JsonObject:
        return {
            "calculate": False,
            "cellGap": 1,
            "cellValues": {"unit": "short"},
            "color": {
                "mode": "scheme",
                "scheme": self.scheme,
                "scale": "exponential",
                "exponent": 0.5,
                "steps": 64,
                "reverse": False,
                "fill": "dark-orange",
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
            "yAxis": {"unit": self.unit, "axisPlacement": "left", "reverse": False},
        }


@dataclass(frozen=True)
class Column:
    """A column of a table: a label's values, or those of the query whose legend is `name`."""

    name: str
    label: str = ""
    unit: str = "short"
    decimals: int | None = None
    steps: Steps = ()


@dataclass(frozen=True)
class Table(Panel):
    """The last value of each query, joined by their common labels, in this order of columns."""

    columns: tuple[Column, ...] = ()
    width: int = GRID_COLUMNS

    @property
    def kind(self) -> str:
        return "table"

    def json(self, number: int, x: int, y: int) -> JsonObject:
        return {**super().json(number, x, y), "transformations": self._transformations()}

    def _target(self, place: int, query: Query) -> JsonObject:
        target = super()._target(place, query)
        return {**target, "format": "table", "instant": True, "range": False}

    def _source(self, column: Column) -> str:
        """What Grafana calls a column before it is renamed."""
        if column.label:
            return column.label
        place = [query.legend for query in self.queries].index(column.name)
        return "Value" if len(self.queries) == 1 else f"Value #{chr(ord('A') + place)}"

    def _transformations(self) -> list[Json]:
        sources = [self._source(column) for column in self.columns]
        renamed: JsonObject = {
            source: column.name for source, column in zip(sources, self.columns, strict=True)
        }
        order: JsonObject = {source: place for place, source in enumerate(sources)}
        return [
            {"id": "merge", "options": {}},
            {"id": "filterFieldsByName", "options": {"include": {"names": [*sources]}}},
            {"id": "organize", "options": {"indexByName": order, "renameByName": renamed}},
        ]

    def _overrides(self) -> list[Json]:
        overrides: list[Json] = []
        for column in self.columns:
            if column.label:
                continue
            properties: list[Json] = [{"id": "unit", "value": column.unit}]
            if column.decimals is not None:
                properties.append({"id": "decimals", "value": column.decimals})
            if column.steps:
                steps: list[Json] = [
                    {"color": colour, "value": value} for value, colour in column.steps
                ]
                properties += [
                    {"id": "thresholds", "value": {"mode": "absolute", "steps": steps}},
                    {"id": "custom.cellOptions", "value": {"type": "color-text"}},
                ]
            overrides.append(
                {"matcher": {"id": "byName", "options": column.name}, "properties": properties}
            )
        return overrides

    def _options(self) -> JsonObject:
        return {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}
