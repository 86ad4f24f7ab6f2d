"""Invented time: what is due happens in order, and nothing happens between.

It is both the simulation's clock and, to the product's code, the event loop: `call_soon` and
`call_later` are all that a served model asks of one. Events of one moment happen in the order in
which they were asked for, so a run depends on its seed and on nothing else.
"""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any


class Timer:
    """One callback to come."""

    __slots__ = ("arguments", "callback")

    def __init__(self, callback: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
        self.callback = callback
        self.arguments = arguments

    def cancel(self) -> None:
        """It will not be called."""
        self.callback = None
        self.arguments = ()


class Timeline:
    """Seconds since the simulation began, and what is due when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._ready: deque[Timer] = deque()
        self._due: list[tuple[float, int, Timer]] = []
        self._number = 0

    def clock(self) -> float:
        """`now`, as a function."""
        return self.now

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Calls back at this very moment, after what was asked for before."""
        timer = Timer(callback, arguments)
        self._ready.append(timer)
        return timer

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Calls back after `delay` seconds."""
        return self.call_at(self.now + max(0.0, delay), callback, *arguments)

    def call_at(self, moment: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Calls back at `moment`, which must not have passed."""
        if moment < self.now:
            raise ValueError(f"expected a moment from {self.now} s on, got {moment} s")
        timer = Timer(callback, arguments)
        self._number += 1
        heapq.heappush(self._due, (moment, self._number, timer))
        return timer

    def run(self, until: float) -> None:
        """Lets time pass until that moment. What is due at it happens still."""
        ready, due = self._ready, self._due
        while True:
            while ready:
                timer = ready.popleft()
                if timer.callback is not None:
                    timer.callback(*timer.arguments)
            if not due or due[0][0] > until:
                break
            self.now, _, timer = heapq.heappop(due)
            if timer.callback is not None:
                timer.callback(*timer.arguments)
        self.now = until
