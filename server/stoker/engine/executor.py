"""The threads that pull batches: one for all small models of a device, one per instance otherwise.

An idle executor takes a batch the moment there is work; a busy one takes, when it finishes, all
that came meanwhile. The thread starts at its first work, runs at a lower priority than the event
loop, and crosses to the loop once per batch.  Hot path.

Turns. Several models on one thread share it by deficit round robin in measured device time: each
round gives every waiting model the same quantum, a run's time is taken from its model's deficit,
and the model with credit that comes next in the ring runs. A model alone never waits for credit,
and its runs make no debt: nobody else wanted the time. A model whose queue is empty loses its
credit and keeps its debt, which is at most one run.
"""

import asyncio
import ctypes
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from stoker.engine.execution import Batch, Outcome, Runner
from stoker.engine.inbox import Bell, Doorbell
from stoker.telemetry.log import event

if TYPE_CHECKING:
    from stoker.engine.served_model import ServedModel

logger: Final = logging.getLogger(__name__)

QUANTUM: Final = 0.001
"""Seconds of device time a round: the longest run of a model that shares a thread."""

COMPUTE_NICE: Final = 10
"""Executors yield to the loop, so that answers leave while a model computes."""

STUMBLE_S: Final = 1.0
"""Pause of a thread that fails again and again for reasons nobody foresaw: it burns no CPU."""

PR_SET_TIMERSLACK: Final = 29
TIMER_SLACK_NS: Final = 1000
"""The kernel may end a timed wait this late; its default of 50 us would blur short queue delays."""


class Device:
    """What runs on one device now, to know which runs had it to themselves."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = 0
        """Runs under way."""
        self._lock = threading.Lock()
        self._crowdings = 0

    def enter(self) -> int:
        """A run begins. Returns a ticket for `leave`."""
        with self._lock:
            self.running += 1
            if self.running > 1:
                self._crowdings += 1
                return -1
            return self._crowdings

    def leave(self, ticket: int) -> bool:
        """The run is over. True if nothing else ran meanwhile."""
        with self._lock:
            self.running -= 1
            return ticket == self._crowdings


class Instance:
    """One model's place on one executor: its session and buffers, and its turn."""

    __slots__ = (
        "busy_rows",
        "busy_since",
        "deficit",
        "execution",
        "executor",
        "is_taken",
        "model",
        "wait",
    )

    def __init__(self, model: "ServedModel", execution: Runner, executor: "Executor") -> None:
        self.model = model
        self.execution = execution
        self.executor = executor
        self.deficit = 0.0
        self.wait = 0.0
        """Monotonic seconds before which there is nothing to run, unless a signal comes."""
        self.is_taken = False
        """The executor has a batch of it: nobody else may use the execution. Set under the lock of
        the model's queue; the executor clears it without, when the run is over."""
        self.busy_since: float | None = None
        """When the present run began; None while none is under way."""
        self.busy_rows = 0


class Executor:
    """One thread and the instances whose batches it runs."""

    def __init__(
        self,
        name: str,
        device: Device,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
        bell: Bell | None = None,
    ) -> None:
        self.name = name
        self.device = device
        self.doorbell: Doorbell[Instance | None] = Doorbell(bell)
        self.waiting: list[Instance] = []
        """Instances that may have work, in the order of their turns. The thread's own."""
        self.is_running = False
        """The thread has a run under way."""
        self.batches = 0
        """That the thread has run. The thread's own."""
        self._seen_batches = 0
        self._loop_s = 0.0
        """Seconds of runs on the loop since `_seen_batches`, while the thread was awake. The loop's
        own, as the line above."""
        self._loop = loop
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._first: Callable[[], None] | None = None

    def ring(self, instance: Instance) -> None:
        """There may be work for an instance. Called by the loop, and by other executors."""
        if self._thread is None:
            self._start()
        self.doorbell.ring(instance)

    def begin(self, first: Callable[[], None]) -> None:
        """Starts the thread, which calls `first` before it looks for work. Before any `ring`."""
        self._first = first
        self._start()

    def lets_loop_run(self) -> bool:
        """Whether the loop may run something itself: the thread sleeps, or the loop has run less
        than a quantum since the thread's last batch. Called by the loop."""
        if self._thread is None or self.doorbell.is_idle or self.batches != self._seen_batches:
            self._seen_batches = self.batches
            self._loop_s = 0.0
            return True
        return self._loop_s < QUANTUM

    def loop_ran(self, seconds: float) -> None:
        """The loop has run something itself, and took so long."""
        self._loop_s += seconds

    def close(self) -> None:
        """Ends the thread after its present run. Does not wait."""
        self.doorbell.ring(None)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """Waits (blocking) until the thread has ended, at most `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _start(self) -> None:
        with self._starting:  # two may ring first; held while a thread is made, never in a run
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name=self.name, daemon=True)
                self._thread.start()

    def _main(self) -> None:
        _lower_priority()
        if self._first is not None:
            self._first()
        is_open, has_stumbled = True, False
        while is_open:
            try:
                is_open = self._step()
                has_stumbled = False
            except Exception as error:  # whoever waited for this thread is told; it goes on
                logger.exception("executor %s failed", self.name)
                failed, self.waiting = self.waiting, []
                for instance in failed:
                    self._post(instance.model.fail, error)
                if has_stumbled:
                    time.sleep(STUMBLE_S)
                has_stumbled = True

    def _step(self) -> bool:
        """Collects signals, then takes one turn or sleeps. False: the executor is closed."""
        now = self._clock()
        for instance in self.doorbell.collect():
            if instance is None:
                return False
            instance.wait = 0.0
            if instance not in self.waiting:
                self.waiting.append(instance)
        ready = [each for each in self.waiting if each.wait <= now]
        if ready:
            self._turn(_next_turn(ready), now)
        else:
            until = min((each.wait for each in self.waiting), default=math.inf)
            self.doorbell.sleep(until - now)
        return True

    def _turn(self, instance: Instance, now: float) -> None:
        """Runs one batch of the instance, or learns how long it has nothing to run."""
        try:
            step = instance.model.take(instance, now)
            if isinstance(step, Batch):
                self._run(instance, step)
                return
        except Exception as error:  # this model's queue cannot be trusted any more
            logger.exception("serving %s failed", instance.model.plan.identity)
            self.waiting = [each for each in self.waiting if each is not instance]
            self._post(instance.model.fail, error)
            return
        if step == math.inf:
            instance.deficit = min(0.0, instance.deficit)
            self.waiting.remove(instance)
        else:
            instance.wait = step

    def _run(self, instance: Instance, batch: Batch) -> None:
        self.waiting.remove(instance)  # to the end of the ring
        self.waiting.append(instance)
        self.is_running = True
        try:
            outcome = self.perform(instance, batch)
        finally:
            self.is_running = False
            instance.is_taken = False
            self.batches += 1
        instance.deficit -= outcome.seconds
        self._post(instance.model.finish, outcome)

    def perform(self, instance: Instance, batch: Batch) -> Outcome:
        """Runs a batch on the calling thread."""
        began = self._clock()
        instance.busy_rows = batch.rows
        instance.busy_since = began
        ticket = self.device.enter()
        try:
            outcome: Outcome = instance.execution.execute(batch)
        finally:
            alone = self.device.leave(ticket)
            instance.busy_since = None
        outcome.alone = alone
        outcome.seconds = self._clock() - began
        return outcome

    def _post(self, callback: Callable[..., None], argument: object) -> None:
        """The one hop back to the loop."""
        try:
            self._loop.call_soon_threadsafe(callback, argument)
        except RuntimeError:
            pass  # the loop is closed: the process ends, nobody waits for the answer


def _next_turn(ready: list[Instance]) -> Instance:
    """The instance whose turn it is; gives all the quanta that the first one with credit needs."""
    if len(ready) == 1:
        ready[0].deficit = 0.0
        return ready[0]
    best = max(instance.deficit for instance in ready)
    if best <= 0:
        rounds = math.floor(-best / QUANTUM) + 1
        for instance in ready:
            instance.deficit += rounds * QUANTUM
    for instance in ready:
        if instance.deficit > 0:
            return instance
    return max(ready, key=lambda each: each.deficit)  # the sum was rounded to 0


def _lower_priority() -> None:
    thread = threading.get_native_id()
    try:
        os.setpriority(os.PRIO_PROCESS, thread, COMPUTE_NICE)
    except OSError:
        event(
            logger,
            "thread_priority",
            "cannot lower the priority of compute threads; answers may come later",
            level=logging.WARNING,
        )
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(TIMER_SLACK_NS), 0, 0, 0)
