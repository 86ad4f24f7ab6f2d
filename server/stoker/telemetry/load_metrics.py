"""Puts the demand meter and the loop's probe on `/metrics`.

The event loop is one of the devices that demand is the maximum of, so the two are read together.
"""

import time
from collections.abc import Callable

from stoker.telemetry import metric_table as table
from stoker.telemetry.demand import (
    LOOP,
    SHORT_WINDOW_S,
    SHORTEST_WINDOW_S,
    WINDOW_S,
    DemandMeter,
)
from stoker.telemetry.loop_lag import LoopLag
from stoker.telemetry.metrics import MetricsRegistry


def show_load(
    metrics: MetricsRegistry,
    meter: DemandMeter,
    lag: LoopLag,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Registers the server's demand over all windows, its envelopes, each device's demand, and the
    loop's lag."""

    def demand(window_s: float) -> float | None:
        return meter.ratio(clock(), window_s, loop=lag.load.fraction(window_s))

    def peaks() -> dict[tuple[str, ...], float]:
        found = {
            (f"{window_s:.0f}s",): meter.peak(clock(), window_s, loop=lag.load.peak(window_s))
            for window_s in (SHORTEST_WINDOW_S, SHORT_WINDOW_S)
        }
        return {window: peak for window, peak in found.items() if peak is not None}

    def devices() -> dict[tuple[str, ...], float]:
        ratios = meter.device_ratios(clock())
        loop = lag.load.fraction(WINDOW_S)
        if loop is not None:
            ratios[LOOP] = loop
        return {(name,): ratio for name, ratio in ratios.items()}

    metrics.register(table.DEMAND, lambda: demand(WINDOW_S))
    metrics.register(table.DEMAND_5S, lambda: demand(SHORT_WINDOW_S))
    metrics.register(table.DEMAND_1S, lambda: demand(SHORTEST_WINDOW_S))
    metrics.register_labelled(table.DEMAND_PEAK, peaks)
    metrics.register_labelled(table.DEVICE_DEMAND, devices)
    metrics.register(table.LOOP_BUSY, lambda: lag.load.busy_s)
    metrics.register_histogram(table.LOOP_LAG, lag.histogram, divisor=1e9)
