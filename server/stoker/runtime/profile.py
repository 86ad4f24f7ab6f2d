"""The cost of a run by its rows, measured at warm-up: the points of a model's cost curve.

`measure` times 1, 2, 4 ... rows, the minimum of several runs each, since everything that disturbs a
run makes it longer. The sizes take turns, so that what disturbs a while disturbs them all: which
size costs less a row is what the points are for. Where batches may be filled up it also times sizes
half-way between two that differ: a GPU's cost goes up in steps, and a straight line would promise
that a bucket between two steps is worth having. It stops before it would spend more than its time
or a quarter of the free memory. The engine draws the curve from the points; this knows nothing of
queues and limits.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias

from stoker.errors import ExecutionFailed, OutOfMemory
from stoker.model import ModelConfig
from stoker.runtime.buckets import DEAR_PADDING
from stoker.runtime.rows import RowSource, find
from stoker.runtime.session import Session
from stoker.runtime.warmup import Feeds, zeros

LEAST_RUNS: Final = 5
SHORT_S: Final = 0.03
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
    fills_up: bool = False,
) -> Points:
    """Pairs of rows and seconds for 1, 2, 4 ... up to `max_rows`, ascending; () if nothing runs.

    `source` gives the rows (from the proof of independence); without one they are looked for, and
    zeros are the last resort. `free_bytes` reads the memory that is left, None where unknown.
    `fills_up`: the points also decide what batches are filled up to.
    """
    end = clock() + budget_s
    outputs = [output.name for output in config.outputs]
    source = source or find(session, config, budget_s=budget_s / 4, clock=clock)
    read_free = free_bytes or read_free_bytes
    free = read_free()
    allowed = None if free is None else int(free * MEMORY_SHARE)
    timed: list[_Size] = []
    feeds: Feeds = {}
    for rows in sizes(max_rows if config.batches else 1):
        if timed and not _affordable(timed, rows, end - clock()):
            break
        wanted = source.feeds(rows) if source is not None else zeros(config, session, rows)
        try:
            made = session.run(wanted, outputs)  # allocates and settles; not counted
        except (ExecutionFailed, OutOfMemory):
            break
        size, feeds = _Size(rows), wanted
        size.run(session, feeds, outputs, clock)
        timed.append(size)
        # The next size takes about twice this one's tensors, and what the arena has grown by.
        held = sum(array.nbytes for array in (*feeds.values(), *made))
        left = read_free()
        grown = max(held, 0 if free is None or left is None else free - left)
        if allowed is not None and 2 * grown > allowed:
            break
    if fills_up:
        timed = _with_sizes_between(timed, session, feeds, outputs, end, clock)
    _take_turns(timed, session, feeds, outputs, end, clock)
    return tuple((size.rows, size.least) for size in timed)


class _Size:
    """The runs of one batch size."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.runs = 0
        self.least = float("inf")
        self.total = 0.0

    def run(
        self, session: Session, feeds: Feeds, outputs: list[str], clock: Callable[[], float]
    ) -> None:
        begin = clock()
        session.run(feeds, outputs)
        taken = clock() - begin
        self.runs += 1
        self.least = min(self.least, taken)
        self.total += taken


def _with_sizes_between(
    timed: list[_Size],
    session: Session,
    feeds: Feeds,
    outputs: list[str],
    end: float,
    clock: Callable[[], float],
) -> list[_Size]:
    """With a size half-way where the next one costs clearly more, ascending. `feeds` as below."""
    found = list(timed)
    for small, large in pairwise(timed):
        rows = (small.rows + large.rows) // 2
        is_dear = large.least > (1 + DEAR_PADDING) * small.least
        if (
            rows == small.rows
            or not is_dear
            or not _affordable(sorted(found, key=_rows), rows, end - clock())
        ):
            continue
        own = _first(feeds, rows)
        size = _Size(rows)
        try:
            session.run(own, outputs)
            size.run(session, own, outputs, clock)
        except (ExecutionFailed, OutOfMemory):
            continue
        found.append(size)
    return sorted(found, key=_rows)


def _rows(size: _Size) -> int:
    return size.rows


def _first(feeds: Feeds, rows: int) -> Feeds:
    return {name: array[:rows] for name, array in feeds.items()}


def _take_turns(
    timed: list[_Size],
    session: Session,
    feeds: Feeds,
    outputs: list[str],
    end: float,
    clock: Callable[[], float],
) -> None:
    """Runs every size once a round, until all ran often or long enough. `feeds` are the largest's;
    the rows of smaller sizes are its first."""
    for count in range(1, MOST_RUNS):
        due = [each for each in timed if count < LEAST_RUNS or each.total < SHORT_S]
        # Only the first size comes in without a look at the time: alone, it need not be compared.
        is_enough = count >= LEAST_RUNS or len(timed) == 1
        if not due or (is_enough and clock() >= end):
            return
        for size in due:
            own = feeds
            if size is not timed[-1]:
                own = _first(feeds, size.rows)
            size.run(session, own, outputs, clock)


def sizes(max_rows: int) -> tuple[int, ...]:
    """1, 2, 4 ... and `max_rows` itself."""
    doubled = [1 << power for power in range(max(1, max_rows).bit_length())]
    return tuple(sorted({*doubled, max(1, max_rows)}))


def _affordable(timed: list[_Size], rows: int, left_s: float) -> bool:
    """Whether the least number of runs fits the time, at worst in proportion to the rows, with
    those that the smaller sizes still need; one more is for the first run of a new shape, which
    allocates."""
    last = timed[-1]
    predicted = last.least * rows / last.rows
    owed = sum(each.least * (LEAST_RUNS - each.runs) for each in timed)
    return predicted * (LEAST_RUNS + 1) + owed <= left_s


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
