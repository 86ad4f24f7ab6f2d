"""The best target of a rival signal, on the training traces.

Best is the target that costs the fewest GPU hours among those that serve no worse than what we
ship, at the target that we ship: who moves to this signal keeps the service and looks at the bill.
Higher targets cost less and serve worse, so it is found by halving between two ends, in the
logarithm. Where even the lowest serves worse, the one that serves best is taken. At that target the
newest sample is tried beside the mean of the last minute.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.scaling.cases import Rival
from benchmarks.scaling.simulation import Result


@dataclass(frozen=True)
class Trial:
    """What one target came to on all training traces."""

    target: float
    is_smoothed: bool
    late_share: float
    """Mean over the traces."""
    gpu_hours: float
    """Sum over the traces."""


@dataclass(frozen=True)
class Best:
    """The end of a search."""

    rival: Rival
    trial: Trial
    serves: bool
    """No worse than what we ship."""
    trials: tuple[Trial, ...]
    """All that were made, in order."""


def summed(target: float, results: Sequence[Result], *, is_smoothed: bool = True) -> Trial:
    """One trial from the results of its traces."""
    return Trial(
        target,
        is_smoothed,
        sum([result.late_share for result in results]) / len(results),
        sum([result.gpu_hours for result in results]),
    )


def best_target(
    rival: Rival, made: Callable[[float, bool], Trial], late_share: float, *, steps: int
) -> Best:
    """Halves `steps` times. `made(target, is_smoothed)` makes a trial; `late_share` is what must be
    kept."""
    low, high = math.log(rival.low), math.log(rival.high)
    trials: list[Trial] = []
    for _ in range(steps):
        middle = (low + high) / 2
        trial = made(_rounded(math.exp(middle)), True)
        trials.append(trial)
        if trial.late_share <= late_share:
            low = middle
        else:
            high = middle
    chosen = _chosen(trials, late_share)
    if not rival.is_resource:
        trials.append(made(chosen.target, False))
        chosen = _chosen(trials, late_share)
    return Best(rival, chosen, chosen.late_share <= late_share, tuple(trials))


def _chosen(trials: Sequence[Trial], late_share: float) -> Trial:
    serving = [trial for trial in trials if trial.late_share <= late_share]
    if serving:
        return min(serving, key=lambda trial: trial.gpu_hours)
    return min(trials, key=lambda trial: (trial.late_share, trial.gpu_hours))


def _rounded(target: float) -> float:
    """Two digits that count: what a person would write."""
    return float(f"{target:.2g}")
