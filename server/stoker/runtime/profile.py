"""The cost of a run by its rows, measured at warm-up: the points of a model's cost curve.

`measure` times 1, 2, 4 ... rows, the minimum of several runs each, since everything that disturbs a
run makes it longer. It stops before it would spend more than its time or a quarter of the free
memory. The engine draws the curve from the points; this knows nothing of queues and limits.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from stoker.errors import ExecutionFailed, OutOfMemory
from stoker.model import ModelConfig
from stoker.runtime.rows import RowSource, find
from stoker.runtime.session import Session
from stoker.runtime.warmup import Feeds, zeros

LEAST_RUNS: Final = 5
SHORT_S: Final = 0.02
"""A size whose runs took less in all is run more often: short runs scatter more."""
MOST_RUNS: Final = 20
MEMORY_SHARE: Final = 0.25

Points: TypeAlias = tuple[tuple[int, float], ...]


def measure(
    session: Session,
    config: ModelConfig,
    *,
    max_rows: int,
    budget_s: float = 10.0,
    clock: Callable[[], float] = time.perf_counter,
    source: RowSource | None = None,
    free_bytes: Callable[[], int | None] | None = None,
) -> Points:
    """Pairs of rows and seconds for 1, 2, 4 ... up to `max_rows`, ascending; () if nothing runs.

    `source` gives the rows (from the proof of independence); without one they are looked for, and
    zeros are the last resort. `free_bytes` reads the memory that is left, None where unknown.
    """
    end = clock() + budget_s
    outputs = [output.name for output in config.outputs]
    source = source or find(session, config, budget_s=budget_s / 4, clock=clock)
    read_free = free_bytes or read_free_bytes
    free = read_free()
    allowed = None if free is None else int(free * MEMORY_SHARE)
    points: list[tuple[int, float]] = []
    for rows in sizes(max_rows if config.batches else 1):
        feeds = source.feeds(rows) if source is not None else zeros(config, session, rows)
        if points and not _affordable(points[-1], rows, end - clock()):
            break
        try:
            seconds, held = _least(session, feeds, outputs, end, clock)
        except (ExecutionFailed, OutOfMemory):
            break
        points.append((rows, seconds))
        # The next size takes about twice this one's tensors, and what the arena has grown by.
        left = read_free()
        grown = max(held, 0 if free is None or left is None else free - left)
        if allowed is not None and 2 * grown > allowed:
            break
    return tuple(points)


def sizes(max_rows: int) -> tuple[int, ...]:
    """1, 2, 4 ... and `max_rows` itself."""
    doubled = [1 << power for power in range(max(1, max_rows).bit_length())]
    return tuple(sorted({*doubled, max(1, max_rows)}))


def _affordable(last: tuple[int, float], rows: int, left_s: float) -> bool:
    """Whether the least number of runs fits the time, at worst in proportion to the rows; one
    more is for the first run of a new shape, which allocates."""
    predicted = last[1] * rows / last[0]
    return predicted * (LEAST_RUNS + 1) <= left_s


def _least(
    session: Session,
    feeds: Feeds,
    outputs: list[str],
    end: float,
    clock: Callable[[], float],
) -> tuple[float, int]:
    """The shortest of at least LEAST_RUNS runs in seconds, and the bytes of all tensors."""
    made = session.run(feeds, outputs)  # allocates and settles; not counted
    held = sum(array.nbytes for array in (*feeds.values(), *made))
    least, total = float("inf"), 0.0
    for count in range(MOST_RUNS):
        if count >= LEAST_RUNS and (total >= SHORT_S or clock() >= end):
            break
        begin = clock()
        session.run(feeds, outputs)
        taken = clock() - begin
        least = min(least, taken)
        total += taken
    return least, held


def read_free_bytes() -> int | None:
    """Memory this process can still take: the machine's or its control group's, the smaller."""
    found = [
        _available(),
        _group_left("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ]
    memory = "/sys/fs/cgroup/memory/memory"
    found.append(_group_left(f"{memory}.limit_in_bytes", f"{memory}.usage_in_bytes"))
    return min((each for each in found if each is not None), default=None)


def _available() -> int | None:
    for line in _lines("/proc/meminfo"):
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def _group_left(limit: str, usage: str) -> int | None:
    limits, used = _lines(limit), _lines(usage)
    if not limits or not used or not limits[0].isdigit() or not used[0].isdigit():
        return None
    return max(0, int(limits[0]) - int(used[0]))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
