"""How numbers and colours look on the drawn dashboard: Grafana's units and names of colours."""

import math
from typing import Final

from scripts.dashboard.panels import Steps

COLOURS: Final = {
    "green": "#73bf69", "yellow": "#f2cc0c", "orange": "#ff9830", "red": "#f2495c",
    "blue": "#5794f2", "purple": "#b877d9", "dark-red": "#c4162a", "dark-orange": "#fa6400",
    "light-blue": "#8ab8ff", "transparent": "none",
}  # fmt: skip
PALETTE: Final = (
    "#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#8ab8ff", "#a352cc",
    "#96d98d", "#ffb357",
)  # fmt: skip
_SUFFIXES: Final = {
    "reqps": " req/s", "ops": " ops/s", "rowsps": " rows/s", "watt": " W", "celsius": " °C",
}  # fmt: skip
_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_DECIMAL: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def colour(name: str) -> str:
    """A colour of CSS; a name that is none of Grafana's is one already."""
    return COLOURS.get(name, name)


def step_colour(steps: Steps, value: float) -> str:
    """The colour of the highest threshold that `value` reaches."""
    reached = [name for bound, name in steps if bound is None or value >= bound]
    return colour(reached[-1]) if reached else COLOURS["green"]


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit, in three figures unless `decimals` says otherwise."""
    if not math.isfinite(value):
        return "-"
    if unit == "percentunit":
        few = 1 if abs(value) >= 0.01 or value == 0 else 2
        return f"{_plain(value * 100, few if decimals is None else decimals)} %"
    if unit == "s":
        return _seconds(value)
    if unit == "dtdurations":
        return _duration(value)
    if unit == "bytes":
        return _scaled_bytes(value)
    if unit == "hertz":
        return f"{_decimal(value, decimals)}Hz"
    return _decimal(value, decimals).strip() + _SUFFIXES.get(unit, "")


def _plain(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _figures(value: float, decimals: int | None) -> str:
    if decimals is None:
        decimals = max(0, 2 - int(math.log10(abs(value)))) if abs(value) >= 0.01 else 3
    return _plain(value, decimals)


def _decimal(value: float, decimals: int | None) -> str:
    for size, prefix in _DECIMAL:
        if abs(value) >= size:
            return f"{_figures(value / size, decimals)} {prefix}"
    return f"{_figures(value, decimals)} "


def _seconds(value: float) -> str:
    if value == 0:
        return "0 s"
    for size, suffix in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if abs(value) >= size:
            return f"{_figures(value / size, None)} {suffix}"
    return f"{_figures(value * 1e9, None)} ns"


def _duration(value: float) -> str:
    hours, rest = divmod(int(value), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _scaled_bytes(value: float) -> str:
    power = min(len(_BINARY) - 1, int(math.log(value, 1024))) if value >= 1 else 0
    return f"{_figures(value / 1024**power, None)} {_BINARY[power]}"


def ticks(low: float, high: float, count: int = 4, *, binary: bool = False) -> list[float]:
    """Round values from `low` to `high`, about `count` of them; `binary`: round in KiB, MiB ..."""
    span = high - low
    if span <= 0:
        return [low]
    if binary and high >= 1024:
        unit = 1024.0 ** int(math.log(high, 1024))
        return [each * unit for each in ticks(low / unit, high / unit, count)]
    rough = span / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, int(high / step + 1e-9) + 1)]
