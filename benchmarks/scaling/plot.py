"""The picture of the comparison: what each signal costs and gives, and how it follows a step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.scaling.search import Best, Trial
from benchmarks.scaling.simulation import Result


def draw(
    file: Path,
    results: Mapping[str, Mapping[str, Sequence[Result]]],
    searched: Sequence[Best],
    shipped: Trial,
    step: str,
) -> None:
    """Writes a PNG: above a panel a trace, below the searches and the pods in the trace `step`."""
    names = list(results)
    columns = max(4, len(names))
    figure = plt.figure(figsize=(3.2 * columns, 8.5), layout="constrained")
    grid = figure.add_gridspec(2, columns)
    signals = list(results[names[0]])
    colours = {signal: f"C{at}" for at, signal in enumerate(signals)}
    for at, trace in enumerate(names):
        axes = figure.add_subplot(grid[0, at])
        for signal, runs in results[trace].items():
            axes.plot(
                [run.gpu_hours for run in runs],
                [100 * run.late_share for run in runs],
                "o",
                color=colours[signal],
                label=signal,
                alpha=0.8,
            )
        axes.set_title(trace)
        axes.set_xlabel("GPU hours")
        axes.set_ylabel("% late or unanswered")
        axes.set_ylim(bottom=0)
        if at == 0:
            axes.legend(fontsize="x-small")
    half = columns // 2
    axes = figure.add_subplot(grid[1, :half])
    for best in searched:
        trials = sorted(best.trials, key=lambda trial: trial.gpu_hours)
        axes.plot(
            [trial.gpu_hours for trial in trials],
            [100 * trial.late_share for trial in trials],
            ".-",
            color=colours.get(best.rival.name),
            label=best.rival.name,
        )
    axes.plot([shipped.gpu_hours], [100 * shipped.late_share], "k*", ms=12, label="shipped")
    axes.set_title("search of targets, training traces together")
    axes.set_xlabel("GPU hours")
    axes.set_ylabel("% late or unanswered")
    axes.legend(fontsize="small")
    axes = figure.add_subplot(grid[1, half:])
    for signal, runs in results[step].items():
        moments = runs[0].moments
        axes.step(
            [moment.at / 60 for moment in moments],
            [moment.replicas for moment in moments],
            where="post",
            color=colours[signal],
            label=signal,
        )
    moments = next(iter(results[step].values()))[0].moments
    offered = [
        fmean([m.offered for m in moments[max(0, at - 1) : at + 1]])
        for at in range(1, len(moments) + 1)
    ]
    axes.plot([m.at / 60 for m in moments], offered, "k:", label="offered work in GPUs")
    axes.set_title(f"{step}: GPUs held")
    axes.set_xlabel("minutes")
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=80)
    plt.close(figure)
