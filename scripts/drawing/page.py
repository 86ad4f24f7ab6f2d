"""The drawn dashboard as one HTML page: rows and panels on Grafana's grid, in its dark colours."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from scripts.dashboard.grafana import Row
from scripts.dashboard.panels import GRID_COLUMNS
from scripts.drawing.answers import Window, answers
from scripts.drawing.plots import inside

WIDTH: Final = 1800
_COLUMN: Final = WIDTH / GRID_COLUMNS
_CELL: Final = 37
"""Pixels of a row of the grid, with the gap."""
_GAP: Final = 8
_TITLE: Final = 30
_PADDING: Final = 8
_HEADING: Final = 38

STYLE: Final = Path(__file__).with_name("page.css").read_text()


def page(url: str, rows: Sequence[Row], window: Window, title: str) -> tuple[str, int]:
    """The page and its height in pixels, with data from the Prometheus at `url`."""
    y, parts = 44, []
    for row in rows:
        parts.append(f'<h2 style="top:{y + 12}px">⌄ {escape(row.title)}</h2>')
        y += _HEADING
        x = height = 0
        for panel in row.panels:
            if x + panel.width > GRID_COLUMNS:
                x, y, height = 0, y + height * _CELL, 0
            w, h = round(panel.width * _COLUMN) - _GAP, panel.height * _CELL - _GAP
            found = answers(url, panel, window)
            drawn = inside(panel, found, window, w - 2 * _PADDING - 2, h - _TITLE - _PADDING)
            parts.append(
                f'<div class="panel" style="left:{round(x * _COLUMN) + 4}px;top:{y}px;'
                f'width:{w - 2}px;height:{h - 2}px"><header>{escape(panel.title)}</header>'
                f"<div>{drawn}</div></div>"
            )
            x, height = x + panel.width, max(height, panel.height)
        y += height * _CELL
    body = f"<h1>Stoker<small>{escape(title)}</small></h1>{''.join(parts)}"
    html = f"<!doctype html><meta charset='utf-8'><style>{STYLE}</style><body>{body}</body>"
    return html, y + 8
