"""Which number should a HorizontalPodAutoscaler look at?

Simulated pods run the product's own engine and meters over measured cost curves, and the HPA's own
algorithm scales them with the behaviour of `k8s/components/autoscaling-hpa`: `benchmarks/scaling/`
has the parts, and each docstring says what it takes from where. `stoker_demand_ratio` and the queue
delay go in as shipped. Every other signal (CPU utilisation, GPU busy, queue length, requests in
flight) first gets its best target by a search on training traces. All are then compared on three
seeds that no search has seen, on these traces and on others: GPU hours, and the share of requests
that were late or got no answer.

    python -m benchmarks.autoscaling [--quick] [--jobs N] [--plot FILE]

`--quick` is the short form of the tests: shorter traces, one seed, a coarse search; its numbers
mean little. `--variants` compares other targets and behaviours of our own HPA instead. `--keep
FILE` keeps results in a file, so that a sweep can be broken off and go on.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.figures import facts
from benchmarks.scaling import cases, report
from benchmarks.scaling.cases import RIVALS, SHIPPED, TRAINING_SEED, Rival
from benchmarks.scaling.hpa import DEFAULT_UP, Policy, Spec
from benchmarks.scaling.manifest import shipped
from benchmarks.scaling.measured import load
from benchmarks.scaling.runs import Case, Runs
from benchmarks.scaling.search import Best, Trial, best_target, summed
from benchmarks.scaling.signals import DEMAND, DEMAND_5S, Signal
from benchmarks.scaling.simulation import DEADLINE_S, TARGET_S, Result

STEPS: Final = 4
QUICK_SCALE: Final = 0.02
QUICK_STEPS: Final = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Searches, compares, prints."""
    options = parsed(arguments)
    runs = Runs(
        jobs=options.jobs,
        kept=options.keep,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    hpa = shipped()
    print(f"{facts()}\n")
    for curve in load().values():
        print(f"Measured curve of {curve.name}: a full batch gains {curve.gain:.1f}.")
    print(f"Latency target {TARGET_S:g} s, deadline {DEADLINE_S:g} s.\n")
    if options.variants:
        print(variants(runs, hpa, options.seeds, options.scale))
    else:
        compare(runs, hpa, options)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, what `--quick` means filled in."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscaling")
    parser.add_argument("--quick", action="store_true", help="shorter traces, one seed")
    parser.add_argument("--variants", action="store_true", help="our own HPA, otherwise set")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at one time")
    parser.add_argument("--seeds", type=int, default=len(cases.HELD_OUT), help="1 to 3")
    parser.add_argument("--keep", type=Path, help="file of results, used and added to")
    parser.add_argument("--plot", type=Path, help="PNG to write")
    options = parser.parse_args(arguments)
    if not 1 <= options.seeds <= len(cases.HELD_OUT):
        parser.error(f"expected 1 to {len(cases.HELD_OUT)} seeds, got {options.seeds}")
    options.scale = QUICK_SCALE if options.quick else 1.0
    options.steps = QUICK_STEPS if options.quick else STEPS
    options.seeds = cases.HELD_OUT[: 1 if options.quick else options.seeds]
    return options


def compare(runs: Runs, hpa: Spec, options: argparse.Namespace) -> None:
    """The search, the tables, the losses, the picture."""
    training = [trace.name for trace in cases.main_traces()]
    ours = cases.demand_signals(hpa)

    def trial(signal: Signal, target: float, *, is_smoothed: bool = True) -> Trial:
        made = [Case(trace, signal, hpa, TRAINING_SEED, options.scale) for trace in training]
        return summed(target, runs.of(made), is_smoothed=is_smoothed)

    kept = trial(ours[0], ours[0].metrics[0].target / 1000)

    def searched(rival: Rival) -> Best:
        return best_target(
            rival,
            lambda target, smoothed: trial(
                rival.signal(target, smoothed=smoothed), target, is_smoothed=smoothed
            ),
            kept.late_share,
            steps=options.steps,
        )

    found = [searched(rival) for rival in RIVALS]
    print("## Search\n")
    print(report.searches(kept, found))
    rivals = [
        best.rival.signal(best.trial.target, smoothed=best.trial.is_smoothed) for best in found
    ]
    compared = [*training, *(trace.name for trace in cases.other_traces())]
    results = report.by_trace(
        runs.of(
            Case(trace, signal, hpa, seed, options.scale)
            for trace in compared
            for seed in options.seeds
            for signal in (*ours, *rivals)
        )
    )
    for trace, signals in results.items():
        print(f"\n## {trace}\n")
        print(report.table(signals))
    print(f"\n## Where '{SHIPPED}' loses\n")
    print(report.losses(results))
    if options.plot:
        from benchmarks.scaling.plot import draw

        draw(options.plot, results, found, kept, "step x10")


def variants(runs: Runs, hpa: Spec, seeds: Sequence[int], scale: float) -> str:
    """Our own HPA with one thing changed at a time, on the three main traces."""
    results: list[Result] = []
    for name, spec in changed(hpa).items():
        signal = Signal(name, spec.metrics)
        results += runs.of(
            Case(trace.name, signal, spec, seed, scale)
            for trace in cases.main_traces()
            for seed in seeds
        )
    tables = report.by_trace(results)
    return "\n\n".join(f"## {trace}\n\n{report.table(of)}" for trace, of in tables.items())


def changed(hpa: Spec) -> dict[str, Spec]:
    """What is shipped, and each change of it."""

    def at(target: int) -> Spec:
        return replace(
            hpa,
            metrics=tuple(
                replace(metric, target=target) if metric.name == DEMAND else metric
                for metric in hpa.metrics
            ),
        )

    def over_5_s(spec: Spec) -> Spec:
        return replace(
            spec,
            metrics=tuple(
                replace(metric, name=DEMAND_5S) if metric.name == DEMAND else metric
                for metric in spec.metrics
            ),
        )

    def growing(*policies: Policy) -> Spec:
        return replace(hpa, up=replace(hpa.up, policies=policies))

    return {
        "as shipped": hpa,
        "target 0.50": at(500),
        "target 0.80": at(800),
        "up: no window": replace(hpa, up=replace(hpa.up, stabilization_s=0)),
        "up: 8 pods a minute": growing(Policy("Pods", 8, 60)),
        "up: as Kubernetes has it": replace(hpa, up=DEFAULT_UP),
        "5 s": over_5_s(hpa),
        "5 s, up: 8 pods a minute": over_5_s(growing(Policy("Pods", 8, 60))),
        "down: window 300 s": replace(hpa, down=replace(hpa.down, stabilization_s=300)),
        "down: 2 pods a minute": replace(
            hpa, down=replace(hpa.down, policies=(Policy("Pods", 2, 60),))
        ),
    }


if __name__ == "__main__":
    main()
