"""A clock for engines whose requests must not time out before a test has got where it wants."""

import time


class Stopwatch:
    """Monotonic time that stands still until `start`, however long it takes to get there."""

    def __init__(self) -> None:
        self._stood_at = time.monotonic()
        self._behind: float | None = None

    def __call__(self) -> float:
        return self._stood_at if self._behind is None else time.monotonic() - self._behind

    def start(self) -> None:
        """From here on, time passes."""
        self._behind = time.monotonic() - self._stood_at
