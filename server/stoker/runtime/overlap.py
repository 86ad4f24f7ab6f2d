"""How many runs a device truly does at once: the overlap factor of a model with several instances.

Two instances on one device rarely do twice the work of one: they share its cores or its memory
bandwidth. Demand divides by what was measured, between 1 and the number of instances. Knows nothing
of queues and of what the figure is used for.  Source: design, section "Operating it", "Demand".
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from stoker.errors import ServingError
from stoker.runtime.session import Session
from stoker.runtime.warmup import Feeds
from stoker.telemetry.log import event

log = logging.getLogger(__name__)

RUNS: Final = 5
"""Runs of each instance: enough that the start and the end of the race do not matter much."""

BUDGET_S: Final = 1.0
"""All runs together; a model too slow for that is not measured."""


def measure_overlap(
    sessions: Sequence[Session],
    feeds: Feeds,
    outputs: list[str],
    *,
    alone_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> float | None:
    """The factor for instances that run on `sessions` (one entry per instance) at the same time.

    `alone_s` is what one run of `feeds` costs when nothing else runs. None where that cannot be
    measured: one instance, a slow model, or runs that fail together.
    """
    count = len(sessions)
    if count < 2 or alone_s <= 0 or alone_s * RUNS * count > BUDGET_S:
        return None
    barrier = threading.Barrier(count + 1)
    failures: list[ServingError] = []

    def run(session: Session) -> None:
        barrier.wait()
        try:
            for _ in range(RUNS):
                session.run(feeds, outputs)
        except ServingError as error:
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
        event(
            log,
            "overlap_unknown",
            f"runs at the same time failed, so their overlap is not known: {failures[0]}",
            level=logging.WARNING,
        )
        return None
    return min(float(count), max(1.0, alone_s * RUNS * count / max(taken, 1e-9)))
