"""Finds runs that will not end while a model is loaded or prepared: nobody waits for those.

The watchdog sees the runs of batches. Before a model serves it is warmed, proved, measured, its
bindings are made and its CUDA graphs captured; later a faster session of it is compared. No cost
curve says yet what such a run takes, and the first one of a shape may compile kernels for minutes:
so one generous limit, a setting, holds for each of them. Nothing can stop a run: on a GPU, where it
holds up every other, it is a sticky device fault; on the CPU it is logged and counted once.

Opening a session is not watched, nor the building of a TensorRT engine: both may take as long as
they like, and say nothing meanwhile.

  1. Steps are entered and left by any thread; all else is the event loop's.
  2. Time counts only while the watch sees it pass, as in `watchdog.py`.
  3. The timer runs only while there are steps.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from stoker.errors import DeviceFailed, Reach
from stoker.model import ModelVersion
from stoker.telemetry.log import event

logger: Final = logging.getLogger(__name__)

HUNG_LOAD_AFTER_S: Final = 300.0
"""The limit by default: longer than any first run that was heard of, and shorter than the start-up
probe of a pod with a GPU, which ends the pod without a reason."""
LOOK_S: Final = 5.0

NextRun: TypeAlias = Callable[[], None]
"""Says that a run of a step has ended, and that the next one begins."""

OnHung: TypeAlias = Callable[[ModelVersion, str, DeviceFailed], None]
"""Told of a step on a GPU that hangs: the version, the device, and the fault that it is."""


@dataclass(eq=False, slots=True)
class _Step:
    """Something under way that runs a model."""

    identity: ModelVersion
    device: str
    what: str
    runs: int = 0
    """Runs of it that have ended: counted by who runs, read by the event loop."""
    runs_seen: int = 0
    seen_s: float = 0.0
    """How long the run under way was seen."""

    def next_run(self) -> None:
        """Implements `NextRun`. Costs next to nothing, beside runs that are timed."""
        self.runs += 1


class LoadWatch:
    """Watches the steps of all loads of a server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_hung: OnHung = lambda identity, device, fault: None,
        *,
        limit_s: float = HUNG_LOAD_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limit_s` 0 turns it off."""
        self.hung: Counter[ModelVersion] = Counter()
        """Steps that hung, by version."""
        self._loop = loop
        self._on_hung = on_hung
        self._limit = limit_s
        self._clock = clock
        self._period = min(LOOK_S, limit_s / 4)
        self._steps: dict[_Step, None] = {}
        self._looked = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    @contextmanager
    def step(self, identity: ModelVersion, device: str, what: str) -> Iterator[NextRun]:
        """A run that ends with the block, or one after the other, between which the block calls
        what it is given. `what` names each: `a warm-up run`. For any thread."""
        if self._limit <= 0:
            yield lambda: None
            return
        step = _Step(identity, device, what)
        self._steps[step] = None
        if self._timer is None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                self._loop.call_soon_threadsafe(self._begin)
        try:
            yield step.next_run
        finally:
            self._steps.pop(step, None)

    def close(self) -> None:
        """Ends the timer."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        if self._timer is None and not self._is_closed:
            self._looked = self._clock()
            self._timer = self._loop.call_later(self._period, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.look()
        if self._steps and not self._is_closed:
            self._timer = self._loop.call_later(self._period, self._tick)

    def look(self) -> None:
        """Looks at every step under way. The timer calls it."""
        now = self._clock()
        passed = min(now - self._looked, 2 * self._period)
        self._looked = now
        for step in list(self._steps):
            if step.runs != step.runs_seen:
                step.runs_seen, step.seen_s = step.runs, 0.0
            else:
                step.seen_s += passed
            if step.seen_s >= self._limit:
                self._tell(step, step.seen_s)
                step.seen_s = -math.inf  # it is told once

    def _tell(self, step: _Step, seen: float) -> None:
        identity = step.identity
        self.hung[identity] += 1
        sentence = (
            f"{step.what} of {identity} on {step.device} has not ended after {seen:.0f} s; while a "
            f"model is loaded a run may take {self._limit:.0f} s, --hung-load-timeout"
        )
        event(
            logger,
            "hung_load",
            sentence,
            level=logging.ERROR,
            model=identity.name,
            version=identity.version,
            device=step.device,
            seconds=round(seen, 1),
            limit_s=round(self._limit, 1),
        )
        if step.device != "cpu":
            self._on_hung(identity, step.device, DeviceFailed(sentence, reach=Reach.PROCESS))
