"""Every order in which a few threads can meet, one after another: a scheduler for tests of races.

Real threads run real code, one at a time. Before each traced line the running thread may be
preempted (but for the outermost function of a started thread, which shares nothing); a schedule
says before which, and who goes on. `explore` runs a scenario under every schedule with at most so
many preemptions, in the manner of CHESS (Musuvathi and Qadeer, 2007): most races need no more than
two. Waiting is done by `Stepper.wait_until`, so that a thread that nobody will ever wake shows as
`Stuck`, at once and with its schedule.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, FrameType, TracebackType
from typing import Any

Schedule = tuple[tuple[int, int], ...]
"""Steps before which the running thread is preempted, each with the place, among those that can
run, of the thread that goes on."""


class Stuck(AssertionError):
    """All threads wait: somebody was not woken."""


class _Abandoned(BaseException):
    """Ends the threads of a scenario that is stuck."""


class _Worker:
    def __init__(self, root: FrameType | None) -> None:
        self.root = root
        self.baton = threading.Lock()
        self.baton.acquire()
        self.waits_for: Callable[[], bool] | None = None
        self.is_done = False

    @property
    def can_run(self) -> bool:
        return not self.is_done and (self.waits_for is None or self.waits_for())


class Stepper:
    """Lets one thread run at a time and switches where the schedule says."""

    def __init__(self, schedule: Schedule, traced: Callable[[CodeType], bool]) -> None:
        self._schedule = dict(schedule)
        self._traced = traced
        self._workers: dict[int, _Worker] = {}
        self._parked = threading.Semaphore(0)
        self._step = 0
        self._is_stuck = False
        self.choices: list[tuple[int, int]] = []
        """The steps before which another thread could have run, and which one."""

    @contextmanager
    def control(self, start: Callable[[], object], threads: int = 1) -> Iterator[None]:
        """Controls the calling thread and those that `start` starts, which run traced code.

        At the end the calling thread waits until the others have finished.
        """
        threading.settrace(self._trace)
        try:
            start()
            # A thread asks for the hook only after `start` has returned.
            for _ in range(threads):
                if not self._parked.acquire(timeout=10):
                    raise AssertionError("a started thread never ran traced code")
        finally:
            threading.settrace(None)
        others = list(self._workers.values())
        self._workers[threading.get_ident()] = _Worker(None)
        outer, hook = sys.gettrace(), threading.excepthook
        threading.excepthook = partial(_ignore_abandoned, hook)
        sys.settrace(self._trace)
        try:
            yield
            self.wait_until(lambda: all(each.is_done for each in others))
        except _Abandoned:
            raise Stuck("every thread waits and nobody will wake one") from None
        finally:
            sys.settrace(outer)
            if not all(each.is_done for each in others):
                self._abandon()
            for thread in threading.enumerate():
                if thread.ident in self._workers and thread is not threading.current_thread():
                    thread.join(10)
            threading.excepthook = hook

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits for what another thread does, and lets it run meanwhile."""
        me = self._workers.get(threading.get_ident())
        if me is None:  # before the control begins
            assert condition()
            return
        while not condition():
            me.waits_for = condition
            others = self._others(me)
            if not others:
                self._abandon()
                raise _Abandoned
            self._switch(me, others[0])
        me.waits_for = None

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if not self._traced(frame.f_code):
            return None
        if threading.get_ident() not in self._workers:
            worker = self._workers[threading.get_ident()] = _Worker(frame)
            self._parked.release()
            self._await_baton(worker)
        return self._trace_line

    def _trace_line(self, frame: FrameType, event: str, argument: object) -> Any:
        me = self._workers[threading.get_ident()]
        if event == "line" and frame is not me.root and not self._is_stuck:
            self._step += 1
            others = self._others(me)
            self.choices += [(self._step, place) for place in range(len(others))]
            chosen = self._schedule.get(self._step)
            if chosen is not None:
                self._switch(me, others[chosen])
        elif event == "return" and frame is me.root:
            me.is_done = True
            others = self._others(me)
            if others and not self._is_stuck:
                others[0].baton.release()
            elif not all(each.is_done for each in self._workers.values()):
                self._abandon()
        return self._trace_line

    def _others(self, me: _Worker) -> list[_Worker]:
        """Those that can run, in a fixed order that begins behind `me`."""
        workers = list(self._workers.values())
        at = workers.index(me)
        return [each for each in workers[at + 1 :] + workers[:at] if each.can_run]

    def _switch(self, me: _Worker, other: _Worker) -> None:
        other.baton.release()
        self._await_baton(me)

    def _await_baton(self, me: _Worker) -> None:
        assert me.baton.acquire(timeout=30)
        if self._is_stuck:
            raise _Abandoned

    def _abandon(self) -> None:
        self._is_stuck = True
        for worker in self._workers.values():
            if worker.baton.locked():
                worker.baton.release()


class SteppedBell:
    """A binary semaphore in the hands of a stepper, in place of a `threading.Lock`."""

    def __init__(self, stepper: Stepper) -> None:
        self._stepper = stepper
        self.is_taken = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Waits without end: a scenario has no time."""
        self._stepper.wait_until(lambda: not self.is_taken)
        self.is_taken = True
        return True

    def release(self) -> None:
        """As a Lock."""
        if not self.is_taken:
            raise RuntimeError("release unlocked lock")
        self.is_taken = False


class SteppedLock:
    """A lock in the hands of a stepper, in place of a `threading.Lock` in a `with` statement."""

    def __init__(self, stepper: Stepper) -> None:
        self._bell = SteppedBell(stepper)

    @property
    def is_taken(self) -> bool:
        """Whether somebody holds it."""
        return self._bell.is_taken

    def acquire(self, blocking: bool = True) -> bool:
        """As a Lock."""
        if not blocking and self._bell.is_taken:
            return False
        return self._bell.acquire()

    def release(self) -> None:
        """As a Lock."""
        self._bell.release()

    def __enter__(self) -> None:
        self._bell.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bell.release()


def _ignore_abandoned(
    hook: Callable[[threading.ExceptHookArgs], object], caught: threading.ExceptHookArgs
) -> None:
    if caught.exc_type is not _Abandoned:
        hook(caught)


def explore(
    scenario: Callable[[Stepper], None],
    *,
    preemptions: int,
    traced: Callable[[CodeType], bool],
) -> int:
    """Runs the scenario under every schedule of at most so many preemptions; gives their number.

    What the scenario raises comes out with the schedule that led there.
    """
    schedules: list[Schedule] = [()]
    count = 0
    while schedules:
        schedule = schedules.pop()
        stepper = Stepper(schedule, traced)
        count += 1
        try:
            scenario(stepper)
        except AssertionError as error:
            error.add_note(f"under the schedule {schedule}")
            raise
        if len(schedule) < preemptions:
            last = schedule[-1][0] if schedule else 0
            schedules += [(*schedule, choice) for choice in stepper.choices if choice[0] > last]
    return count
