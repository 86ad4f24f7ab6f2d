"""Tables of the comparison, and where our signal loses."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from benchmarks.scaling.cases import SHIPPED
from benchmarks.scaling.search import Best, Trial
from benchmarks.scaling.simulation import Result

LATE_POINTS = 0.1
"""Percentage points of late requests within which two signals serve alike."""
HOURS_SHARE = 0.01
"""Share of GPU hours within which two cost alike."""


def searches(shipped: Trial, found: Sequence[Best]) -> str:
    """What each search tried and chose."""
    lines = [
        f"To keep: {100 * shipped.late_share:.2f} % late on the training traces, as shipped; "
        f"{shipped.gpu_hours:.2f} GPU hours.",
        "",
        "| signal | best target | form | late | GPU hours | tried: target (late, hours) |",
        "|---|---|---|---|---|---|",
    ]
    for best in found:
        trial = best.trial
        tried = "; ".join(
            f"{each.target:g}{'' if each.is_smoothed or best.rival.is_resource else ' newest'} "
            f"({100 * each.late_share:.1f} %, {each.gpu_hours:.1f})"
            for each in best.trials
        )
        form = "15 s" if best.rival.is_resource else "1 min" if trial.is_smoothed else "newest"
        kept = "" if best.serves else " (none keeps it)"
        lines.append(
            f"| {best.rival.name} | {trial.target:g} {best.rival.unit}{kept} | {form} | "
            f"{100 * trial.late_share:.2f} % | {trial.gpu_hours:.2f} | {tried} |"
        )
    return "\n".join(lines)


def by_trace(results: Sequence[Result]) -> dict[str, dict[str, list[Result]]]:
    """Results of each trace by signal, both in the order in which they came."""
    found: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        found.setdefault(result.trace, {}).setdefault(result.signal, []).append(result)
    return found


def table(results: Mapping[str, Sequence[Result]]) -> str:
    """One trace: a line for each signal, means and ranges over the seeds."""
    lines = [
        "| signal | GPU hours | late or unanswered | unanswered | most pods | changes |",
        "|---|---|---|---|---|---|",
    ]
    for signal, runs in results.items():
        hours = [run.gpu_hours for run in runs]
        late = [100 * run.late_share for run in runs]
        refused = [100 * run.refused / run.requests for run in runs]
        lines.append(
            f"| {signal} | {_spread(hours, 2)} | {_spread(late, 2)} % | {_spread(refused, 2)} % | "
            f"{max(run.most_replicas for run in runs)} | "
            f"{fmean([run.changes for run in runs]):.0f} |"
        )
    return "\n".join(lines)


def losses(results: Mapping[str, Mapping[str, Sequence[Result]]], ours: str = SHIPPED) -> str:
    """Where another signal was cheaper and served no worse, or served better for no more."""
    lines = []
    for trace, signals in results.items():
        own_hours, own_late = _means(signals[ours])
        for signal, runs in signals.items():
            if signal == ours:
                continue
            hours, late = _means(runs)
            is_cheaper = hours < own_hours * (1 - HOURS_SHARE)
            is_better = late < own_late - LATE_POINTS
            serves_alike = late <= own_late + LATE_POINTS
            costs_alike = hours <= own_hours * (1 + HOURS_SHARE)
            if (is_cheaper and serves_alike) or (is_better and costs_alike):
                lines.append(
                    f"- {trace}: {signal} took {hours:.2f} GPU hours with {late:.2f} % late, "
                    f"{ours} {own_hours:.2f} with {own_late:.2f} %."
                )
    return "\n".join(lines) or "- none"


def _means(runs: Sequence[Result]) -> tuple[float, float]:
    return fmean([run.gpu_hours for run in runs]), 100 * fmean([run.late_share for run in runs])


def _spread(values: Sequence[float], digits: int) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{fmean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
