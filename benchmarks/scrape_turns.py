"""How long does a scrape of 1,000 models hold the event loop at a time?

The registry of a server of 1,000 models, without the server: `MetricsRegistry.render` runs on an
event loop, and each of its steps, between which the loop turns, is measured in CPU time of the
loop's thread. That says something on a machine that others use too, which waiting does not; of the
rounds each figure's least is told. Garbage is collected between scrapes only; how many objects a
scrape leaves to the collector's next look, which holds the loop too, is counted. Three cases take
turns: no number changed since the last scrape, those of 10 models, those of all.
`scraped_models` asks the whole server, by the clock.

    python -m benchmarks.scrape_turns [--models 1000] [--rounds 20]
"""

import argparse
import asyncio
import gc
import random
import time
import types
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from stoker.allocator import keep_freed_memory
from stoker.telemetry import metric_table as table
from stoker.telemetry.demand import (
    SHORT_WINDOW_S,
    SHORTEST_WINDOW_S,
    WINDOW_S,
    DemandMeter,
    ModelDemand,
)
from stoker.telemetry.metrics import MetricsRegistry
from stoker.telemetry.statistics import BatchEnd, ModelStatistics

from benchmarks.figures import facts, percentile

T = TypeVar("T")

OPENMETRICS = "application/openmetrics-text"
WINDOWS = {
    table.MODEL_DEMAND: WINDOW_S,
    table.MODEL_DEMAND_5S: SHORT_WINDOW_S,
    table.MODEL_DEMAND_1S: SHORTEST_WINDOW_S,
}
ACTIVE = 10


class Clock:
    """Seconds that pass when they are told to: what a model's demand is depends on them."""

    def __init__(self) -> None:
        self.now = 1000.0


@dataclass(frozen=True)
class Model:
    """What a request changes."""

    statistics: ModelStatistics
    demand: ModelDemand
    clock: Clock

    def ratio(self, window_s: float) -> float:
        """As a server's gauge asks for it."""
        return self.demand.ratio(self.clock.now, window_s)

    def call(self, numbers: random.Random) -> None:
        """Two requests, of which each was a run."""
        for _ in range(2):
            infer_ns = numbers.randrange(10_000, 90_000)
            self.statistics.record_run(
                rows=1,
                requests=1,
                input_ns=numbers.randrange(1_000, 9_000),
                infer_ns=infer_ns,
                output_ns=numbers.randrange(1_000, 9_000),
                end=BatchEnd.IDLE,
                now_ms=0,
            )
            self.statistics.record_success(4 * infer_ns, infer_ns)
        self.demand.add(1e-5, self.clock.now)


@dataclass(frozen=True)
class Round:
    """One scrape."""

    steps: list[float]
    """CPU milliseconds of each."""
    left: int
    """New objects that the garbage collector will look into."""


def show(metrics: MetricsRegistry, count: int, clock: Clock) -> list[Model]:
    """Adds models that look as those that are served."""
    meter = DemandMeter()
    meter.begin(clock.now)
    models = []
    for number in range(count):
        statistics = ModelStatistics(f"m{number:04d}", 1)
        model = Model(statistics, meter.add_model(["cpu"]), clock)
        metrics.add_model(
            statistics,
            {
                **{metric: partial(model.ratio, window) for metric, window in WINDOWS.items()},
                table.MODEL_BATCH_LIMIT: lambda: 64,
                table.MODEL_ROW_SECONDS: lambda: 1.25e-6,
            },
            facts={
                table.MODEL_NODES: {("cpu", "CPUExecutionProvider"): 3.0},
                table.MODEL_COPIES: {("cpu",): 0.0},
                table.MODEL_MEMORY: {("weights",): 2_960.0, ("loaded",): 40_960.0},
            },
        )
        models.append(model)
    ready: dict[tuple[str, ...], float] = {(model.statistics.model, "1"): 1.0 for model in models}
    metrics.register_labelled(table.MODEL_READY, lambda: ready)
    return models


@types.coroutine
def stepped(work: Coroutine[object, None, T], steps: list[float]) -> Generator[object, None, T]:
    """Awaits `work`; adds the CPU milliseconds of each step."""
    while True:
        began = time.thread_time()
        try:
            waits_for = work.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            steps.append((time.thread_time() - began) * 1e3)
        yield waits_for


async def scraped(metrics: MetricsRegistry) -> Round:
    """One scrape."""
    gc.collect()
    gc.disable()
    steps: list[float] = []
    await stepped(metrics.render(OPENMETRICS), steps)
    left = len(gc.get_objects(generation=0))
    gc.enable()
    return Round(steps, left)


async def watched(models: int, rounds: int) -> dict[str, list[Round]]:
    """All rounds of each case."""
    metrics = MetricsRegistry()
    clock = Clock()
    shown = show(metrics, models, clock)
    numbers = random.Random(1)
    cases = {
        "nothing changed": shown[:0],
        f"{ACTIVE} models called": shown[:ACTIVE],
        "every model called": shown,
    }
    for model in shown:
        model.call(numbers)
    await scraped(metrics)
    gc.collect()
    gc.freeze()  # as the server does when it has started
    seen: dict[str, list[Round]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, called in cases.items():
            clock.now += 2 * WINDOW_S
            await scraped(metrics)  # the demand of what was called before has gone
            for model in called:
                model.call(numbers)
            seen[name].append(await scraped(metrics))
    return seen


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    keep_freed_memory()  # as the server does
    seen = asyncio.run(watched(given.models, given.rounds))
    print(f"{facts()}; the least of {given.rounds} rounds\n")
    print("| case | steps | p50 ms | p99 ms | longest ms | all ms | objects left |")
    print("|---|---|---|---|---|---|---|")
    for name, found in seen.items():
        columns = [
            min(percentile(each.steps, 0.5) for each in found),
            min(percentile(each.steps, 0.99) for each in found),
            min(max(each.steps) for each in found),
            min(sum(each.steps) for each in found),
        ]
        left = min(each.left for each in found)
        print(f"| {name} | {len(found[-1].steps)} | ", end="")
        print("| ".join(f"{value:.2f} " for value in columns) + f"| {left:,} |")


if __name__ == "__main__":
    main()
