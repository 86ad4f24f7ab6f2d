"""The mean queue delay of the last seconds, as a gauge for autoscalers that cannot compute rates.

Two sums that only grow (nanoseconds waited, requests answered) are noted at each scrape; the mean
is the difference to the note that is one window old. Nothing runs between scrapes, and several
scrapers do not disturb each other. Pure: time and sums are arguments.
"""

from collections import deque
from typing import Final

WINDOW_S: Final = 30.0
_SPACING_S: Final = 1.0
"""Notes are at least this far apart, so that any number of scrapers keeps few of them."""


class QueueDelay:
    """Notes of (moment, waited nanoseconds, answered requests), oldest first."""

    def __init__(self, now: float) -> None:
        self._notes: deque[tuple[float, int, int]] = deque([(now, 0, 0)])

    def mean(self, *, waited_ns: int, answered: int, now: float) -> float:
        """Seconds that a request waited on average since one window ago; 0 if none was answered.

        When the last scrape is longer ago than the window, since that scrape.
        """
        notes = self._notes
        while len(notes) > 1 and notes[1][0] <= now - WINDOW_S:
            notes.popleft()
        _, waited_before, answered_before = notes[0]
        if now - notes[-1][0] >= _SPACING_S:
            notes.append((now, waited_ns, answered))
        if answered <= answered_before:
            return 0.0
        return (waited_ns - waited_before) / (answered - answered_before) / 1e9
