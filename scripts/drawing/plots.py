"""The inside of each kind of panel, as SVG or HTML, from the series that answer its queries."""

import math
import time
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Final

from scripts.dashboard.panels import Gauge, Heatmap, Panel, Stat, Table, TimeSeries
from scripts.drawing.answers import Series, Window
from scripts.drawing.values import PALETTE, colour, step_colour, ticks, written

NO_DATA: Final = "No data"
"""What stands in a panel whose queries have no answer, as in Grafana."""
_LEFT: Final = 74
_BOTTOM: Final = 20
_TOP: Final = 6
_LEGEND_ROW: Final = 19
_GRID: Final = "#2c3235"
_FAINT: Final = "#8e9196"


def inside(panel: Panel, found: Sequence[Sequence[Series]], window: Window, w: int, h: int) -> str:
    """HTML of at most `w` times `h` pixels; NO_DATA where there is none."""
    if not any(series.values for query in found for series in query):
        return f'<div class="nothing">{NO_DATA}</div>'
    if isinstance(panel, Table):
        return _table(panel, found)
    if isinstance(panel, Stat):
        return _stat(panel, found, window, w, h)
    if isinstance(panel, Gauge):
        return _gauge(panel, found[0][0].values[-1], w, h)
    if isinstance(panel, Heatmap):
        return _heatmap(panel, found[0], window, w, h)
    assert isinstance(panel, TimeSeries)
    return _lines(panel, [each for query in found for each in query if each.values], window, w, h)


class _Scale:
    """From moments and values to pixels."""

    def __init__(self, window: Window, low: float, high: float, w: int, h: int) -> None:
        self.window, self.low, self.high = window, low, high
        self.w, self.h = w, h

    def x(self, moment: float) -> float:
        share = (moment - self.window.start) / (self.window.end - self.window.start)
        return _LEFT + share * (self.w - _LEFT - 8)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _TOP + (1 - share) * (self.h - _TOP - _BOTTOM)


def _moments(scale: _Scale) -> str:
    """The axis of time."""
    window, marks = scale.window, []
    every = next(
        each for each in (10, 15, 30, 60, 120, 300) if (window.end - window.start) / each <= 6
    )
    moment = math.ceil(window.start / every) * every
    while moment <= window.end:
        x, clock = scale.x(moment), time.strftime("%H:%M:%S", time.gmtime(moment))
        marks.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{scale.h - _BOTTOM}" '
            f'stroke="{_GRID}" stroke-width="0.5"/>'
            f'<text x="{x:.1f}" y="{scale.h - 5}" text-anchor="middle">{clock}</text>'
        )
        moment += every
    return "".join(marks)


def _levels(scale: _Scale, panel: Panel) -> str:
    """The axis of values."""
    return "".join(
        f'<line x1="{_LEFT}" x2="{scale.w - 8}" y1="{scale.y(each):.1f}" '
        f'y2="{scale.y(each):.1f}" stroke="{_GRID}"/>'
        f'<text x="{_LEFT - 6}" y="{scale.y(each) + 4:.1f}" text-anchor="end">'
        f"{escape(written(each, panel.unit))}</text>"
        for each in ticks(scale.low, scale.high, binary=panel.unit == "bytes")
    )


def _lines(panel: TimeSeries, drawn: list[Series], window: Window, w: int, h: int) -> str:
    colours = [
        colour(panel.colours.get(each.legend, PALETTE[place % len(PALETTE)]))
        for place, each in enumerate(drawn)
    ]
    rows = min(len(drawn), max(1, (h // 3) // _LEGEND_ROW))
    plot = h - (rows + 1) * _LEGEND_ROW - 4
    stacks = _stacked(drawn) if panel.stacked else [dict(each.points) for each in drawn]
    high = max(value for stack in stacks for value in stack.values() if math.isfinite(value))
    limits = [bound for bound, _ in panel.steps if bound is not None] if panel.limits else []
    high = max([high, *[bound for bound in limits if bound <= 2.5 * high]])
    high = panel.most or (high * 1.08 or 1.0)
    scale = _Scale(window, 0.0, high, w, plot)
    shapes = [_levels(scale, panel), _moments(scale)]
    floor = dict.fromkeys((moment for each in drawn for moment, _ in each.points), 0.0)
    for place, (stack, ink) in enumerate(zip(stacks, colours, strict=True)):
        below = stacks[place - 1] if panel.stacked and place else floor
        fill = "0.55" if panel.stacked else "0.07"
        for part in _unbroken(stack, window.step):
            edge = [f"{scale.x(at):.1f},{scale.y(value):.1f}" for at, value in part]
            base = [f"{scale.x(at):.1f},{scale.y(below.get(at, 0.0)):.1f}" for at, _ in part[::-1]]
            shapes.append(
                f'<polygon points="{" ".join(edge + base)}" fill="{ink}" fill-opacity="{fill}"/>'
                f'<polyline points="{" ".join(edge)}" fill="none" stroke="{ink}" '
                f'stroke-width="{1 if panel.stacked else 1.8}" stroke-linejoin="round"/>'
            )
    for bound, name in panel.steps if panel.limits else ():
        if bound is not None and bound <= scale.high:
            y = scale.y(bound)
            shapes.append(
                f'<line x1="{_LEFT}" x2="{w - 8}" y1="{y:.1f}" y2="{y:.1f}" '
                f'stroke="{colour(name)}" stroke-dasharray="6 5" stroke-width="1.5"/>'
            )
    return _svg(shapes, w, plot) + _legend(panel, drawn, colours, rows)


def _stacked(drawn: list[Series]) -> list[dict[float, float]]:
    """Each series on top of those before it."""
    floor: dict[float, float] = {}
    stacks = []
    for each in drawn:
        floor = floor | {
            at: floor.get(at, 0.0) + value for at, value in each.points if math.isfinite(value)
        }
        stacks.append({at: floor[at] for at in sorted(floor)})
    return stacks


def _unbroken(points: dict[float, float], step: float) -> list[list[tuple[float, float]]]:
    """The parts between gaps."""
    finite = [(at, value) for at, value in sorted(points.items()) if math.isfinite(value)]
    parts = [finite[:1]]
    for before, after in pairwise(finite):
        if after[0] - before[0] > 2.5 * step:
            parts.append([])
        parts[-1].append(after)
    return parts


def _legend(panel: Panel, drawn: list[Series], colours: list[str], rows: int) -> str:
    head = '<tr><th></th><th class="number">last</th><th class="number">max</th></tr>'
    lines = [
        f'<tr><td><i style="background:{ink}"></i>{escape(each.legend)}</td>'
        f'<td class="number">{escape(written(each.values[-1], panel.unit, panel.decimals))}</td>'
        f'<td class="number">{escape(written(max(each.values), panel.unit, panel.decimals))}</td>'
        "</tr>"
        for each, ink in list(zip(drawn, colours, strict=True))[:rows]
    ]
    return f'<table class="legend">{head}{"".join(lines)}</table>'


def _heatmap(panel: Heatmap, buckets: Sequence[Series], window: Window, w: int, h: int) -> str:
    ordered = sorted(buckets, key=lambda each: float(each.labels["le"]))
    counts: list[dict[float, float]] = []
    below: dict[float, float] = {}
    for each in ordered:
        points = {at: value for at, value in each.points if math.isfinite(value)}
        counts.append({at: max(0.0, value - below.get(at, 0.0)) for at, value in points.items()})
        below = points
    used = [place for place, column in enumerate(counts) if max(column.values(), default=0) > 1e-9]
    first, last = max(0, min(used) - 1), min(len(ordered) - 1, max(used) + 1)
    most = max(value for column in counts for value in column.values())
    scale = _Scale(window, 0.0, float(last - first + 1), w, h)
    shapes = [_moments(scale)]
    cell = max(2.0, scale.x(window.start + window.step) - scale.x(window.start) - 0.6)
    tall = scale.y(0) - scale.y(1)
    ink = "#ff9830" if panel.scheme == "Oranges" else "#5794f2"
    for place in range(first, last + 1):
        top = scale.y(place - first + 1)
        shapes += [
            f'<rect x="{scale.x(at):.1f}" y="{top + 0.5:.1f}" width="{cell:.1f}" '
            f'height="{tall - 1:.1f}" fill="{ink}" fill-opacity="{(value / most) ** 0.5:.2f}"/>'
            for at, value in counts[place].items()
            if value > 1e-9
        ]
        bound = float(ordered[place].labels["le"])
        label = written(bound, panel.unit) if math.isfinite(bound) else "+Inf"
        shapes.append(
            f'<text x="{_LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        )
    return _svg(shapes, w, h)


def _stat(panel: Stat, found: Sequence[Sequence[Series]], window: Window, w: int, h: int) -> str:
    shown = [each for query in found for each in query if each.values]
    several = len(shown) > 1
    cells = []
    for each in shown:
        value = each.values[-1]
        ink = step_colour(panel.steps, value)
        number = escape(written(value, panel.unit, panel.decimals))
        name = f"<small>{escape(each.legend)}</small>" if several else ""
        cells.append(f'<div class="stat" style="color:{ink}">{name}<b>{number}</b></div>')
    values = shown[0].values
    ink, most = step_colour(panel.steps, values[-1]), max(values) or 1.0
    points = " ".join(
        f"{place * w / max(1, len(values) - 1):.1f},{h * (1 - 0.35 * value / most):.1f}"
        for place, value in enumerate(values)
    )
    spark = (
        f'<polygon points="0,{h} {points} {w},{h}" fill="{ink}" fill-opacity="0.14"/>'
        f'<polyline points="{points}" fill="none" stroke="{ink}" stroke-width="1.2"/>'
    )
    return (
        f'<div class="spark">{_svg([spark], w, h)}</div><div class="stats">{"".join(cells)}</div>'
    )


def _gauge(panel: Gauge, value: float, w: int, h: int) -> str:
    most = panel.most or 1.0
    radius, cx, cy = min(w / 2.3, h * 0.78), w / 2, h * 0.86

    def arc(start: float, end: float, ink: str, width: float, r: float) -> str:
        points = " ".join(
            f"{cx - r * math.cos(math.pi * share):.1f},{cy - r * math.sin(math.pi * share):.1f}"
            for share in [start + (end - start) * step / 40 for step in range(41)]
        )
        return (
            f'<polyline points="{points}" fill="none" stroke="{ink}" stroke-width="{width:.1f}"/>'
        )

    bounds = [bound or 0.0 for bound, _ in panel.steps] + [most]
    marks = [
        arc(low / most, high / most, colour(name), 3, radius)
        for (low, high), (_, name) in zip(pairwise(bounds), panel.steps, strict=True)
    ]
    ink, share = step_colour(panel.steps, value), min(1.0, value / most)
    number = escape(written(value, panel.unit, panel.decimals))
    shapes = [
        *marks,
        arc(0, 1, "#2c3235", 16, radius - 12),
        arc(0, share, ink, 16, radius - 12),
        f'<text x="{cx}" y="{cy - 2}" text-anchor="middle" class="dial" fill="{ink}">'
        f"{number}</text>",
    ]
    return _svg(shapes, w, h)


def _table(panel: Table, found: Sequence[Sequence[Series]]) -> str:
    names = [column.label for column in panel.columns if column.label]
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for query, answered in zip(panel.queries, found, strict=True):
        for each in answered:
            key = tuple(each.labels.get(name, "") for name in names)
            rows.setdefault(key, {})[query.legend] = each.values[-1] if each.values else math.nan
    # A series of one query may lack labels of another's: Grafana joins on those in common.
    full = [key for key in rows if all(key)] or list(rows)
    head = "".join(
        f'<th class="{"" if column.label else "number"}">{escape(column.name)}</th>'
        for column in panel.columns
    )
    body = []
    for key in sorted(full):
        cells = []
        values: dict[str, float] = {}
        for other, known in rows.items():
            if all(mine == theirs or not theirs for mine, theirs in zip(key, other, strict=True)):
                values |= known
        for column in panel.columns:
            if column.label:
                cells.append(f"<td>{escape(key[names.index(column.label)])}</td>")
                continue
            value = values.get(column.name, math.nan)
            ink = step_colour(column.steps, value) if column.steps else "inherit"
            number = escape(written(value, column.unit, column.decimals))
            cells.append(f'<td class="number" style="color:{ink}">{number}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="rows"><tr>{head}</tr>{"".join(body)}</table>'


def _svg(shapes: Sequence[str], w: int, h: int) -> str:
    return (
        f'<svg width="{w}" height="{h}" viewBox="0 0 {w} {h}" font-size="11" fill="{_FAINT}">'
        f"{''.join(shapes)}</svg>"
    )
