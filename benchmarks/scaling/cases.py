"""What is compared: services under traces, and the signals that scale them.

The models have measured curves (`measured.py`), stretched in time: `gaining` has the form of `mlp`,
where a row in a full batch costs a third of a row alone; `little` that of `resnetlike` on one core,
where it saves a quarter. `assumed` is measured by nobody: a fixed cost of four rows' worth and a
cost per row, the form that GPUs' published tables have, up to batches of 32.
"""

from dataclasses import dataclass
from typing import Final

from benchmarks.scaling import measured
from benchmarks.scaling.hpa import Metric, Spec
from benchmarks.scaling.server import Model
from benchmarks.scaling.signals import (
    CPU,
    DEMAND,
    DEMAND_5S,
    GPU_BUSY,
    IN_FLIGHT,
    QUEUE_LENGTH,
    SMOOTHED,
    Signal,
)
from benchmarks.scaling.traces import MIXED, Trace, day, shift, spikes, step

GAINING_FACTOR: Final = 1800.0
"""0.2 s for one row, 0.06 s a row in a full batch."""
LITTLE_FACTOR: Final = 14.0
CHEAP_FACTOR: Final = 600.0
DEAR_FACTOR: Final = 24.0
ASSUMED_S: Final = (0.048, 0.012)
"""Of a run, and of each row in it."""

TRAINING_SEED: Final = 1
HELD_OUT: Final = (101, 102, 103)
"""Seeds of the evaluation: no target was searched on them."""

SHIPPED: Final = "demand + queue delay"
ALONE: Final = "demand"
SHORT: Final = "demand of 5 s"


@dataclass(frozen=True)
class Rival:
    """A signal whose target is searched, between two ends in its unit."""

    name: str
    metric: str
    low: float
    high: float
    unit: str
    is_resource: bool = False

    def signal(self, target: float, *, smoothed: bool) -> Signal:
        """It with this target. `smoothed`: the mean of the last minute, else the newest sample."""
        if self.is_resource:
            return Signal(self.name, (Metric(self.metric, round(target * 100), is_resource=True),))
        name = self.metric + (SMOOTHED if smoothed else "")
        return Signal(self.name, (Metric(name, max(1, round(target * 1000))),))


RIVALS: Final = (
    Rival("CPU utilisation", CPU, 0.3, 0.98, "of a core", is_resource=True),
    Rival("GPU busy", GPU_BUSY, 0.3, 0.98, "of the time"),
    Rival("queue length", QUEUE_LENGTH, 0.1, 10.0, "requests"),
    Rival("in flight", IN_FLIGHT, 1.0, 20.0, "requests"),
)


def demand_signals(hpa: Spec) -> tuple[Signal, ...]:
    """Those that are ours, at the target that is shipped."""
    (target,) = [metric.target for metric in hpa.metrics if metric.name == DEMAND]
    return (
        Signal(SHIPPED, hpa.metrics),
        Signal(ALONE, (Metric(DEMAND, target),)),
        Signal(SHORT, (Metric(DEMAND_5S, target),)),
    )


def models() -> dict[str, Model]:
    """By name."""
    curves = measured.load()
    fixed_s, row_s = ASSUMED_S
    found = (
        Model("gaining", curves["mlp"].stretched(GAINING_FACTOR)),
        Model("little", curves["resnetlike"].stretched(LITTLE_FACTOR)),
        Model("cheap", curves["mlp"].stretched(CHEAP_FACTOR)),
        Model("dear", curves["resnetlike"].stretched(DEAR_FACTOR)),
        Model("assumed", tuple((1 << n, fixed_s + row_s * (1 << n)) for n in range(8))),
    )
    return {model.name: model for model in found}


def main_traces(scale: float = 1.0) -> tuple[Trace, ...]:
    """The three of the question. `scale` shortens them: what happens in them keeps its order."""
    gaining = (models()["gaining"],)
    day_s, step_s, spikes_s = 2700 * scale, 1500 * scale, 2400 * scale
    bursts = spikes(0.9, spikes_s, every=300 * scale, least=2.0, most=4.0)
    return (
        Trace("diurnal", day_s, gaining, day(0.8, 4.0, day_s)),
        Trace("step x10", step_s, gaining, step(0.42, 10.0, 0.2 * step_s, 0.7 * step_s)),
        Trace("spikes", spikes_s, gaining, bursts),
    )


def other_traces(scale: float = 1.0) -> tuple[Trace, ...]:
    """Harder ones, on which no target is searched."""
    known = models()
    gaining, length = (known["gaining"],), 1800 * scale
    both = (known["cheap"], known["dear"])
    return (
        Trace("two models", length, both, shift([(2.0, 0.4), (0.2, 2.8)], length)),
        Trace("pinned clients", length, gaining, day(0.8, 3.6, length), is_pinned=True),
        Trace("16 shapes", length, gaining, day(0.5, 2.2, length), widths=16),
        Trace("little gain", length, (known["little"],), day(0.8, 3.6, length)),
        Trace("assumed GPU", length, (known["assumed"],), day(0.8, 3.6, length), sizes=MIXED),
    )


def trace_named(name: str, scale: float = 1.0) -> Trace:
    """The trace of that name."""
    return {trace.name: trace for trace in (*main_traces(scale), *other_traces(scale))}[name]
