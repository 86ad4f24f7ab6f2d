"""Measurements have the machine to themselves: no load opens a model while another one measures.

Opening a session optimises its graph on all CPUs; a cost curve taken beside that is several times
too high, at some sizes and not at others, and what follows from it is wrong. Used by load threads.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turn:
    """One piece of work, or one measurement."""

    def __init__(self) -> None:
        self.was_alone = True
        """No other work was under way at any moment of it. True for certain when it is over."""


class Quiet:
    """Many may work at once, or one may measure. Who wants to measure goes before new work."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._working: list[Turn] = []
        self._wants = 0
        self._is_measuring = False

    @contextmanager
    def work(self) -> Iterator[Turn]:
        """Waits for measurements, then works beside others who work."""
        turn = Turn()
        with self._changed:
            self._changed.wait_for(lambda: not self._wants and not self._is_measuring)
            self._working.append(turn)
            if len(self._working) > 1:
                for each in self._working:
                    each.was_alone = False
        try:
            yield turn
        finally:
            with self._changed:
                self._working.remove(turn)
                self._changed.notify_all()

    @contextmanager
    def measurement(self) -> Iterator[Turn]:
        """Waits until nobody works or measures."""
        with self._changed:
            self._wants += 1
            self._changed.wait_for(lambda: not self._working and not self._is_measuring)
            self._wants -= 1
            self._is_measuring = True
        try:
            yield Turn()
        finally:
            with self._changed:
                self._is_measuring = False
                self._changed.notify_all()
