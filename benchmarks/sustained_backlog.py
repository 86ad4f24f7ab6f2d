"""What do larger batches under a sustained backlog do to latencies, at every load?

A simulation without clock or machine: one instance of a model that gains 4.8 % of rows a second by
batches of 8, and less by those of 2 and 4, the server's own queue and decision
(`engine/waiting.py`), requests of one row that come by chance, one at a time or 32 at once. Each
load is simulated twice with the same arrivals, with the knee as the only limit and with a sustained
limit besides. Load 1 is what batches of one row can do. The numbers are the same on every machine.

    python -m benchmarks.sustained_backlog [--requests 40000]
"""

import argparse
import random
from collections.abc import Sequence
from statistics import mean
from typing import cast

from stoker.engine.execution import Batch
from stoker.engine.pending import Pending
from stoker.engine.plan import RequestForm
from stoker.engine.scheduler import BatchPolicy
from stoker.engine.served_model import ServedModel
from stoker.engine.waiting import Waiting
from stoker.request import InferRequest

from benchmarks.figures import percentile

ROWS = 8
GAIN = 0.048
"""Rows a second of batches of ROWS, over those of one row: `resnetlike` in results/0006."""
KNEE = BatchPolicy(1)
SUSTAINED = BatchPolicy(1, sustained_rows=ROWS)
LOADS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.02)
FORM = RequestForm(1, ((4,),), (0,), (0,), 4)


def run_seconds(rows: int) -> float:
    """A run of one row takes 1."""
    return rows / (1 + GAIN * (1 - 1 / rows) / (1 - 1 / ROWS))


def moments(load: float, together: int, count: int) -> list[float]:
    """When requests come, `together` at a time, with exponential gaps."""
    numbers, now, found = random.Random(1), 0.0, list[float]()
    while len(found) < count:
        now += numbers.expovariate(load / together)
        found += [now] * together
    return found


def latencies(arrivals: Sequence[float], policy: BatchPolicy) -> tuple[list[float], float]:
    """Of each request, in runs of one row; and the share of requests in batches beyond the knee."""
    waiting = Waiting(is_plain=True, has_delayed=False, is_usual=lambda elements: True)
    request, model = InferRequest.of("m"), cast(ServedModel, None)  # what waits never looks at it
    seen, large, now, coming = list[float](), 0, 0.0, 0
    while len(seen) < len(arrivals):
        while coming < len(arrivals) and arrivals[coming] <= now:
            waiting.add([Pending(model, request, FORM, lambda _: None, arrivals[coming])])
            coming += 1
        step = waiting.take(policy, now)
        if not isinstance(step, Batch):
            now = arrivals[coming]
            continue
        waiting.started.clear()
        now += run_seconds(step.rows)
        seen += [now - entry.arrived for entry, _ in step.entries]
        large += step.rows * (step.rows > policy.max_rows)
    return seen, large / len(seen)


def closed_loop(clients: int, policy: BatchPolicy, seconds: float) -> float:
    """The mean latency of clients that send again when they are answered, while the next batch
    runs: by Little's law their number over the rate."""
    waiting = Waiting(is_plain=True, has_delayed=False, is_usual=lambda elements: True)
    request, model = InferRequest.of("m"), cast(ServedModel, None)
    now, answered, coming, back = 0.0, 0, clients, 0
    while now < seconds:
        waiting.add([Pending(model, request, FORM, lambda _: None, now) for _ in range(coming)])
        step = waiting.take(policy, now)
        coming, back = back, 0
        if isinstance(step, Batch):
            waiting.started.clear()
            now += run_seconds(step.rows)
            answered += step.rows
            back = step.rows
    return clients * now / answered


def main() -> None:
    """Prints one table for those who come by chance, and one for clients in a loop."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=40_000, help="of each simulation")
    count = parser.parse_args().requests
    print("| come | load | mean at the knee | mean | p99 | in larger batches |")
    print("|---|---|---|---|---|---|")
    for together in (1, 32):
        for load in LOADS:
            arrivals = moments(load, together, count)
            small, _ = latencies(arrivals, KNEE)
            large, share = latencies(arrivals, SUSTAINED)
            print(
                f"| {together} at once | {load:g} | {mean(small):.2f} "
                f"| {mean(large) / mean(small):.3f} "
                f"| {percentile(large, 0.99) / percentile(small, 0.99):.3f} | {share:.2f} |"
            )
    burst = [0.0] * 32
    same = latencies(burst, KNEE)[0] == latencies(burst, SUSTAINED)[0]
    print(f"\n32 at once to a server at rest: latencies are {'the same' if same else 'OTHERS'}\n")
    print("| clients in a loop | mean, over that at the knee |\n|---|---|")
    for clients in (8, 12, 16, 32, 64):
        slow, fast = (closed_loop(clients, each, count) for each in (KNEE, SUSTAINED))
        print(f"| {clients} | {fast / slow:.3f} |")


if __name__ == "__main__":
    main()
