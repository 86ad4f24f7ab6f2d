"""How large a batch may be while a backlog lasts: larger than the knee of the cost curve. Pure.

Beyond the knee a larger batch gains a few percent of rows a second, and its first requests are
answered with its last. Where as many requests come as are run, that is less waiting for all: with N
requests in the system, answered at X a second, each takes N/X in the mean (Little's law), whatever
their order. A burst with nothing behind it has no such gain: run one batch after the other, half of
it is answered before the middle. So the larger batch is for a backlog that is seen to last:

  1. Takes are looked at in windows, in each of which as many requests come as the largest batch has
     rows. The first begins with a take that sees enough rows for the smallest such batch in each
     instance; one that sees fewer ends them all. A burst never ends its first window.
  2. A batch has so many rows, the most, half or a quarter of it, as at every take of the last whole
     window and since then would have filled such a batch in each instance.
  3. Nobody in the batch has a deadline that the longest run would miss. Whoever has ends them all.

The scheduler's question before `next_step`. The state lies in the group (`queue.py`), under the
lock of the model's queue, and goes with it: what never piles up pays nothing.  Hot path.
Measured: docs/design/0009-sustained-backlog.md.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from stoker.engine.scheduler import BatchPolicy

REST_S: Final = 10.0
"""After somebody was refused as late, or was late, batches end at the knee for so long: a longer
run would keep the next one, who has as little time, from being served between two runs. After a run
that failed as well: to find who is guilty in a larger batch takes more of what failing runs may
take, and when that is spent, all of the batch fail."""

SMALLER: Final = 4
"""A batch has at least this part of the rows of the largest: more clients than one such batch has
rows, and fewer than two of the largest have, get a size that they can fill again and again
(benchmarks/results/0014-sustained-backlog.md)."""


class Waiting(Protocol):
    """What the decision reads of a queued request."""

    rows: int
    deadline: float
    dead: bool


class Backlog:
    """What the takes from one group have seen."""

    __slots__ = ("_before", "_began", "_least")

    def __init__(self) -> None:
        self._began = 0
        """Requests that had come when the present window began."""
        self._least = 0
        """Rows that have waited at every take of it; 0: there is none."""
        self._before = 0
        """The same of the window before; 0: there was none."""

    def clear(self) -> None:
        """As after a take that saw next to nothing."""
        self._least = self._before = 0

    def rows(
        self, group: Sequence[Waiting], policy: BatchPolicy, *, arrived: int, answered: float
    ) -> int:
        """How many rows the batch may have that is taken next, where those are more than
        `policy.max_rows`; else 0. Asked once a take, with the group in the order in which it should
        run.

        `arrived`: requests that have ever joined the group. `answered`: when a run of
        `sustained_rows` rows that begins now has its answers sent; infinity, where nobody knows, is
        only for requests that have no deadline.
        """
        size, instances = policy.sustained_rows, policy.instances
        waiting, enough = 0, size * instances
        for entry in group:
            if not entry.dead:
                waiting += entry.rows
                if waiting >= enough:
                    break
        smallest = max(2 * policy.max_rows, size // SMALLER)
        if waiting < smallest * instances:
            self._least = self._before = 0
            return 0
        if not self._least:
            self._began, self._least = arrived, waiting
        elif arrived - self._began >= size:
            self._before = min(self._least, waiting)
            self._began, self._least = arrived, waiting
        elif waiting < self._least:
            self._least = waiting
        least = min(self._least, self._before)
        while size * instances > least:
            size //= 2
            if size < smallest:
                return 0
        return size if self._are_in_time(group, size, answered) else 0

    def _are_in_time(self, group: Sequence[Waiting], rows: int, answered: float) -> bool:
        taken = 0
        for entry in group:
            if entry.dead:
                continue
            if entry.deadline < answered:
                self.clear()
                return False
            taken += entry.rows
            if taken >= rows:
                break
        return True
