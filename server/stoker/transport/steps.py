"""Work in steps, and the one thread that takes turns with it.

Inflating, reading and compressing large bodies are generators: they give the thread back after each
step, so that a small body never waits for more than one turn of each large one, and whoever went
away is noticed. What a step yields is the bytes that the next ones want to hold, 0 for none: the
loop reserves them, or ends the work. Nothing here knows what the work is.

  1. Between two steps no C call is under way: the GIL is held for one step at most.
  2. `done` is called exactly once, on the loop.
  3. No frame keeps an outcome, or an error's traceback would keep the body until the garbage
     collector finds the cycle.
"""

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Final, Generic, TypeAlias, TypeVar

from stoker.errors import Cancelled, ServingError

T = TypeVar("T")

Steps: TypeAlias = Generator[int, None, T]
"""Yields bytes to reserve before it goes on (0: none), returns the outcome."""

TURN_S: Final = 0.005
"""A turn: what the interpreter gives a thread, and some ten steps. Taking turns costs 30 us."""


def run_through(steps: Steps[T]) -> T:
    """The outcome, at once and without reserving anything."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            outcome: T = end.value
            return outcome


class Job(Generic[T]):
    """Work under way. Its fields belong to the thread during a turn and to the loop between two."""

    __slots__ = ("_context", "_done", "_is_cancelled", "_loop", "_reserve", "_steps", "_thread")

    def __init__(
        self,
        thread: ThreadPoolExecutor,
        steps: Steps[T],
        done: Callable[[T | Exception], None],
        reserve: Callable[[int], None],
    ) -> None:
        self._thread = thread
        self._steps: Steps[T] | None = steps
        self._done = done
        self._reserve = reserve
        self._loop = asyncio.get_running_loop()
        self._is_cancelled = False
        self._context = copy_context()
        """`done` is called in the context of the call that began this, as all of a call is."""

    def cancel(self) -> None:
        """Ends it before its next step."""
        self._is_cancelled = True

    def queue(self) -> None:
        """Waits for a turn. Raises RuntimeError when the thread has ended."""
        self._thread.submit(self._turn).add_done_callback(self._end_if_dropped)

    def _turn(self) -> None:
        """In the thread."""
        steps, until = self._steps, time.monotonic() + TURN_S
        if steps is None:
            return
        wanted = 0
        try:
            while not wanted:
                if self._is_cancelled:
                    self._finish(Cancelled("the client went away"))
                    return
                wanted = next(steps)
                if time.monotonic() >= until:
                    break
        except StopIteration as end:
            self._finish(end.value)
        except Exception as error:
            self._finish(error)
        else:
            if wanted:
                self._loop.call_soon_threadsafe(self._grant, wanted, context=self._context)
            else:
                self._queue_again()

    def _grant(self, wanted: int) -> None:
        """On the loop."""
        try:
            self._reserve(wanted)
        except ServingError as error:
            self._finish(error)
        else:
            self._queue_again()

    def _queue_again(self) -> None:
        try:
            self.queue()
        except RuntimeError:  # the thread has ended
            self._finish(_closed())

    def _end_if_dropped(self, turn: Future[None]) -> None:
        if turn.cancelled():
            self._finish(_closed())

    def _finish(self, outcome: T | Exception) -> None:
        self._steps = None
        self._loop.call_soon_threadsafe(self._done, outcome, context=self._context)


def _closed() -> Cancelled:
    return Cancelled("the server closed before it read the request")


class StepThread:
    """One thread that works on all jobs, a turn each."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    def run(
        self,
        steps: Steps[T],
        done: Callable[[T | Exception], None],
        reserve: Callable[[int], None],
    ) -> Job[T]:
        """Begins; `done` and `reserve`, which may raise ServingError, are called on this loop.

        Raises RuntimeError after `close`.
        """
        job = Job(self._thread, steps, done, reserve)
        job.queue()
        return job

    def close(self) -> None:
        """Ends after the turn under way. Unfinished jobs end with Cancelled."""
        self._thread.shutdown(wait=True, cancel_futures=True)
