"""How many runs a device truly does at once: the overlap factor of a model with several instances.

Two instances on one device rarely do twice the work of one: they share its cores or its memory
bandwidth. Demand divides by what was measured, between 1 and the number of instances. Knows nothing
of queues and of what the figure is used for.  Source: design, section "Operating it", "Demand".
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from stoker.runtime.session import Session
from stoker.runtime.warmup import Feeds

RUNS: Final = 5
"""Runs of each instance: enough that the start and the end of the race do not matter much."""

BUDGET_S: Final = 1.0
"""All runs together; a model too slow for that keeps the factor 1."""


def measure_overlap(
    sessions: Sequence[Session],
    feeds: Feeds,
    outputs: list[str],
    *,
    alone_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The factor for instances that run on `sessions` (one entry per instance) at the same time.

    `alone_s` is what one run of `feeds` costs when nothing else runs. Raises what a run raises.
    """
    count = len(sessions)
    if count < 2 or alone_s <= 0 or alone_s * RUNS * count > BUDGET_S:
        return 1.0
    barrier = threading.Barrier(count + 1)
    failures: list[Exception] = []

    def run(session: Session) -> None:
        barrier.wait()
        try:
            for _ in range(RUNS):
                session.run(feeds, outputs)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = clock()
    for thread in threads:
        thread.join()
    taken = clock() - began
    if failures:
        raise failures[0]
    return min(float(count), max(1.0, alone_s * RUNS * count / max(taken, 1e-9)))
