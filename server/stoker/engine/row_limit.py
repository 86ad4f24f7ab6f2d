"""How many rows a batch may have after one did not fit into memory: down at once, up slowly.

Theory. A batch that does not fit is run again in halves, so half of its rows is known to fit, or
to be found too large by the next failure. The way back up is a guess: the memory may have been
another model's, or fragmented, or a burst of long items. Each guess that is wrong costs one failed
run, so the limit doubles only when batches as large as it have run well for a while, and the
while doubles with every guess that failed.

  1. 1 <= rows <= configured.
  2. The limit grows only after GROW_AFTER_S without a failure and LEAST_RUNS runs of full size.
  3. A failure within GROW_AFTER_S after the limit grew doubles the time to the next growth, up to
     LONGEST_WAIT_S; reaching the configured limit and staying there that long forgets it.

Pure: the present time is an argument.  Source: design, section "Batching", "Out of memory".
"""

from typing import Final

GROW_AFTER_S: Final = 300.0
"""Long beside what frees memory (a load that ended, a burst that passed), short beside a day of
traffic served at half the batch."""
LONGEST_WAIT_S: Final = 3600.0
LEAST_RUNS: Final = 20
"""Runs of full size that show that the present limit fits."""


class RowLimit:
    """The limit of one model. Monotonic seconds throughout."""

    def __init__(self, configured: int) -> None:
        """`configured`: the most rows of a batch where memory suffices."""
        self.rows = configured
        self._configured = configured
        self._wait = GROW_AFTER_S
        self._changed = 0.0
        """When the limit last went down or up."""
        self._has_grown = False
        """The last change was upwards."""
        self._full_runs = 0

    @property
    def is_lowered(self) -> bool:
        """Whether batches are smaller than configured."""
        return self.rows < self._configured

    def lower(self, failed_rows: int, now: float) -> bool:
        """A batch of so many rows did not fit. Whether the limit changed."""
        if self._has_grown:
            if now - self._changed < GROW_AFTER_S:
                self._wait = min(2 * self._wait, LONGEST_WAIT_S)
            elif not self.is_lowered and now - self._changed >= self._wait:
                self._wait = GROW_AFTER_S
        limit = max(1, min(self.rows, failed_rows // 2))
        has_changed = limit < self.rows
        self.rows = limit
        self._changed = now  # the same failure again, at the limit of 1, puts growth off as well
        self._has_grown = False
        self._full_runs = 0
        return has_changed

    def ran(self, rows: int, now: float) -> bool:
        """A run of so many rows fitted. Whether the limit grew."""
        if not self.is_lowered or rows < self.rows:
            return False
        self._full_runs += 1
        if self._full_runs < LEAST_RUNS or now - self._changed < self._wait:
            return False
        self.rows = min(2 * self.rows, self._configured)
        self._changed = now
        self._has_grown = True
        self._full_runs = 0
        return True
