"""An event loop's timers and clock, moved by hand: time is an argument of the test."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class HandTimer:
    """One callback and when it is due."""

    due: float
    callback: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class HandLoop:
    """Runs what is due when the test says how much time passes."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.timers: list[HandTimer] = []
        self.turn_s = 0.0
        """What else the loop does before a callback that is made ready: it takes this long."""

    def clock(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object]) -> HandTimer:
        timer = HandTimer(self.now + delay, callback)
        self.timers.append(timer)
        return timer

    def call_soon(self, callback: Callable[[], object]) -> HandTimer:
        return self.call_later(self.turn_s, callback)

    def advance(self, seconds: float, *, blocked: float = 0.0) -> None:
        """Lets time pass; a callback that is due within runs on time, or `blocked` too late."""
        end = self.now + seconds
        while due := [one for one in self.timers if not one.cancelled and one.due <= end + 1e-9]:
            first = min(due, key=lambda one: one.due)
            self.timers.remove(first)
            self.now = max(self.now, first.due) + blocked
            end += blocked
            blocked = 0.0
            first.callback()
        self.now = end
