"""The event loop as a device: the share of each second that its thread needs a CPU.

The loop can be what limits a server, so its load is one of the numbers that demand is the maximum
of. It is the thread's CPU time plus the time it was runnable and waited for a CPU: on a node
without a spare core the second is what a client feels. Time spent waiting for the GIL is neither,
the thread sleeps then.

`LoopLoad` is pure; `ThreadClock` is the only reader.  Source of the numbers: the kernel's
Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat".
"""

import os
import threading
import time
from collections import deque
from typing import Final

_SPACING_S: Final = 0.5
_KEPT_S: Final = 31.0
_LEAST_S: Final = 1.0
"""A share over less than this is noise."""


class LoopLoad:
    """Readings of (moment, busy seconds since the thread began), oldest first."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, float]] = deque()
        self.busy_s = 0.0
        """The last reading: CPU time and runnable wait since the thread began."""

    def observe(self, now: float, busy_s: float) -> None:
        """Adds a reading. Called a few times a second; readings closer than 0.5 s replace none."""
        self.busy_s = busy_s
        readings = self._readings
        if readings and now - readings[-1][0] < _SPACING_S:
            return
        readings.append((now, busy_s))
        while len(readings) > 2 and readings[1][0] <= now - _KEPT_S:
            readings.popleft()

    def fraction(self, window_s: float) -> float | None:
        """Busy seconds per second over the last `window_s` (up to 30), None in the first second.

        A younger loop is measured since its first reading.
        """
        if not self._readings:
            return None
        last, busy = self._readings[-1]
        since, busy_before = self._readings[0]
        for moment, total in self._readings:
            if moment > last - window_s:
                break
            since, busy_before = moment, total
        if last - since < _LEAST_S:
            return None
        return (busy - busy_before) / (last - since)

    def peak(self, window_s: float) -> float | None:
        """The largest `fraction` of any `window_s` seconds in the readings that are kept, some 30
        s; None in the first second."""
        most: float | None = None
        readings = self._readings
        before = iter(readings)
        since, busy_before = next(before, (0.0, 0.0))
        following = next(before, None)
        for moment, busy in readings:
            while following is not None and following[0] <= moment - window_s:
                since, busy_before = following
                following = next(before, None)
            if moment - since >= max(window_s, _LEAST_S):
                most = max(most or 0.0, (busy - busy_before) / (moment - since))
        return self.fraction(window_s) if most is None else most


class ThreadClock:
    """CPU time and runnable wait of the thread that makes it. Call `read` on that thread only."""

    def __init__(self) -> None:
        try:
            self._file = os.open(
                f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY | os.O_CLOEXEC
            )
            self.read()
        except (OSError, ValueError):
            # Some sandboxes have no schedstat: CPU time alone, without the wait for a CPU.
            self.close()

    def read(self) -> float:
        """Seconds since the thread began. One read of a file in memory, a few microseconds."""
        if self._file < 0:
            return time.thread_time()
        return parse_schedstat(os.pread(self._file, 128, 0))

    def close(self) -> None:
        """Closes the file; reads give CPU time alone afterwards."""
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)
        self._file = -1


def parse_schedstat(text: bytes) -> float:
    """Seconds on a CPU plus seconds runnable without one. Raises ValueError on any other file."""
    running_ns, waiting_ns, _slices = text.split()
    return (int(running_ns) + int(waiting_ns)) / 1e9
