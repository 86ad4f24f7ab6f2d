"""How long an event that is ready waits for the event loop.

A timer probes 20 times a second. Its lag is the part of its lateness that is over the loop's timer
resolution (uvloop counts whole milliseconds), plus one turn of the loop: from the timer's callback
to one that was made ready there. So a callback that blocks shows as lateness, a loop with much to
do in each turn as the turn, and an idle loop shows microseconds, not the timer's rounding.

The same timer reads the loop's own load (`loop_load.py`) twice a second.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from stoker.telemetry.loop_load import LoopLoad, ThreadClock
from stoker.telemetry.statistics import Histogram

INTERVAL_S: Final = 0.05
LAG_BUCKETS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""As those of requests, but for 2 ms, which is what the lag shall stay within at its p99."""
_RESOLUTION_S: Final = 0.001
_TICKS_PER_LOAD: Final = 10
_KEPT: Final = 600
"""Probes that quantiles look back on: 30 s."""


class Timer(Protocol):
    """What a loop gives for a callback that waits."""

    def cancel(self) -> None: ...


class Timers(Protocol):
    """The part of an event loop that is used here."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer: ...

    def call_soon(self, callback: Callable[[], object], /) -> Timer: ...


class LoopLag:
    """Probes one loop from `start` to `stop`. Made, started and stopped on the loop's thread."""

    def __init__(self, timers: Timers, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.histogram = Histogram(tuple(round(bound * 1e9) for bound in LAG_BUCKETS_S))
        """Nanoseconds, since the start."""
        self.load = LoopLoad()
        self._timers = timers
        self._clock = clock
        self._thread_clock: ThreadClock | None = None
        self._handle: Timer | None = None
        self._due = 0.0
        self._fired = 0.0
        self._late = 0.0
        self._ticks = 0
        self._recent: deque[float] = deque(maxlen=_KEPT)

    def start(self) -> None:
        """Begins to probe."""
        if self._handle is not None:
            raise RuntimeError("expected a lag probe that is stopped, got one that is running")
        self._thread_clock = ThreadClock()
        self.load.observe(self._clock(), self._thread_clock.read())
        self._wait()

    def stop(self) -> None:
        """Ends probing; harmless when it never began."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._thread_clock is not None:
            self._thread_clock.close()
            self._thread_clock = None

    def quantile(self, share: float) -> float:
        """Seconds of lag that `share` of the last 30 s' probes stay within; 0 before the first."""
        ordered = sorted(self._recent)
        if not ordered:
            return 0.0
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def _wait(self) -> None:
        self._due = self._clock() + INTERVAL_S
        self._handle = self._timers.call_later(INTERVAL_S, self._fire)

    def _fire(self) -> None:
        self._fired = self._clock()
        self._late = max(0.0, self._fired - self._due - _RESOLUTION_S)
        self._handle = self._timers.call_soon(self._turned)

    def _turned(self) -> None:
        now = self._clock()
        lag = self._late + (now - self._fired)
        self.histogram.observe(int(lag * 1e9))
        self._recent.append(lag)
        self._ticks += 1
        if self._ticks % _TICKS_PER_LOAD == 0 and self._thread_clock is not None:
            self.load.observe(now, self._thread_clock.read())
        self._wait()
