"""No lost wake-up and no double reply, in every order in which loop and executor can meet.

The event loop is the test's own thread, the executor is a real `Executor` (or a loop of the same
shape around a bare bell) in its own; `tests/interleaving.py` switches between them line by line.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any, cast

import numpy as np
import pytest
from stoker.engine import executor, inbox, inline, pending, queue, served_model, waiting
from stoker.engine.admission import Admission, ServerBudget
from stoker.engine.cost_book import CostBook
from stoker.engine.cost_curve import CostCurve
from stoker.engine.execution import Execution
from stoker.engine.executor import Device, Executor, Instance
from stoker.engine.forecast import RunSizes
from stoker.engine.inbox import Doorbell
from stoker.engine.inline import Inline
from stoker.engine.loop_turns import LoopTurns
from stoker.engine.plan import ModelPlan
from stoker.engine.scheduler import BatchPolicy
from stoker.engine.served_model import ServedModel
from stoker.errors import Cancelled, DeadlineExceeded, Draining, ServingError
from stoker.inference import Cancel
from stoker.model import ModelVersion
from stoker.request import InferRequest, InferResponse
from stoker.runtime.session import Placement
from stoker.telemetry.statistics import ModelStatistics
from stoker.tensor import Array

from tests.engine_parts import PATIENCE, answer, assert_at_rest, changed, config, numbers, request
from tests.fake_runtime import FakeRuntime, double
from tests.hand_loop import HandLoop
from tests.interleaving import SteppedBell, SteppedLock, Stepper, Stuck, explore

# --- the bell alone -----------------------------------------------------------------------------

BELL_FILES = (inbox.__file__, __file__)
BELL_STEPS = {"ring", "collect", "sleep", "answer_the_door", "scenario"}


def is_bell_step(code: CodeType) -> bool:
    return code.co_filename in BELL_FILES and code.co_name in BELL_STEPS


class ForgetsTheSecondLook(Doorbell[int]):
    def sleep(self, seconds: float = 0.0) -> None:
        self.is_idle = True
        self._bell.acquire()
        self.is_idle = False


class LooksBeforeItMarks(Doorbell[int]):
    def sleep(self, seconds: float = 0.0) -> None:
        if not self._signals:
            self.is_idle = True
            self._bell.acquire()
        self.is_idle = False


class ReadsTheMarkBeforeItSignals(Doorbell[int]):
    def ring(self, signal: int) -> None:
        is_idle = self.is_idle
        self._signals[signal] = None
        if is_idle:
            self.is_idle = False
            try:
                self._bell.release()
            except RuntimeError:
                pass


def two_rings(kind: Callable[[SteppedBell], Doorbell[int]], stepper: Stepper) -> None:
    bell = kind(SteppedBell(stepper))
    heard: list[int] = []

    def answer_the_door() -> None:
        while len(heard) < 2:
            heard.extend(bell.collect())
            if len(heard) < 2:
                bell.sleep()

    def scenario() -> None:
        bell.ring(1)
        bell.ring(2)

    thread = threading.Thread(target=answer_the_door)
    with stepper.control(thread.start):
        scenario()
    thread.join()
    assert sorted(heard) == [1, 2]


@pytest.mark.slow
def test_no_ring_is_lost() -> None:
    count = explore(partial(two_rings, Doorbell), preemptions=4, traced=is_bell_step)
    assert count > 1000


@pytest.mark.parametrize(
    "broken", [ForgetsTheSecondLook, LooksBeforeItMarks, ReadsTheMarkBeforeItSignals]
)
def test_a_bell_in_another_order_loses_a_ring(
    broken: Callable[[SteppedBell], Doorbell[int]],
) -> None:
    with pytest.raises(Stuck):
        explore(partial(two_rings, broken), preemptions=2, traced=is_bell_step)


# --- a served model and its executor ------------------------------------------------------------

MODULES = (executor, inbox, inline, pending, queue, served_model, waiting)
FILES = {module.__file__ for module in MODULES}
STEPS = {
    *("ring", "collect", "sleep"),  # Doorbell
    *("answer", "settle", "note_started"),  # what becomes of an entry
    *("_ring", "take", "_wake_another", "<listcomp>"),  # ServedModel, Waiting
    *("add", "_begun", "take_all"),  # Waiting, RequestQueue
    *("runs",),  # Inline
    *("_main",),  # Executor
}


SHORT = ((1, 10e-6), (8, 20e-6))
"""Costs of a model that runs on the loop while its executor sleeps."""

MEETING_FILES = {executor.__file__, inline.__file__, served_model.__file__, __file__}
MEETING_STEPS = {"_main", "_run", "_turn", "compute", "runs", "runs_arrivals", "take"}
"""Where loop and executor may meet in one instance."""


def is_step(code: CodeType) -> bool:
    return code.co_name in STEPS and code.co_filename in FILES


def is_meeting_step(code: CodeType) -> bool:
    return code.co_name in MEETING_STEPS and code.co_filename in MEETING_FILES


class ScriptedLoop(HandLoop):
    """An event loop whose turns the scenario takes; other threads may leave callbacks."""

    def __init__(self, stepper: Stepper) -> None:
        super().__init__()
        self._stepper = stepper
        self._ready: deque[Callable[[], object]] = deque()

    def call_soon(self, callback: Callable[[], object]) -> Any:
        self._ready.append(callback)

    def call_soon_threadsafe(self, callback: Callable[..., object], argument: object) -> None:
        self._ready.append(partial(callback, argument))

    def turn(self) -> None:
        """Runs what is ready."""
        for _ in range(len(self._ready)):
            self._ready.popleft()()

    def turn_until(self, is_over: Callable[[], bool]) -> None:
        """Turns until the scenario has what it waits for; sleeps where nothing is ready."""
        while not is_over():
            self._stepper.wait_until(lambda: bool(self._ready))
            self.turn()


class WatchedLock(SteppedLock):
    """Knows the threads that would wait for it."""

    def __init__(self, stepper: Stepper) -> None:
        super().__init__(stepper)
        self.waiters: set[threading.Thread] = set()

    def acquire(self, blocking: bool = True) -> bool:
        if blocking:
            self.waiters.add(threading.current_thread())
        return super().acquire(blocking)

    def __enter__(self) -> None:
        self.waiters.add(threading.current_thread())
        super().__enter__()


class Scene:
    """One model on one executor, and the replies to its requests."""

    def __init__(
        self,
        stepper: Stepper,
        *,
        max_rows: int = 8,
        executors: int = 1,
        costs: Sequence[tuple[int, float]] = (),
        instance: type[Instance] = Instance,
        lock: type[WatchedLock] = WatchedLock,
    ) -> None:
        """With `costs` that are short the model may run on the loop."""
        self.loop = ScriptedLoop(stepper)
        loop = cast(Any, self.loop)
        plan = ModelPlan(ModelVersion("m", 1), config())
        self.budget = ServerBudget(1 << 30)
        self.served = ServedModel(
            plan,
            BatchPolicy(max_rows),
            Admission(plan.identity, plan.config.batching, self.budget, max_bytes=1 << 30),
            CostBook(CostCurve(costs), RunSizes(max_rows, 8), elements=4),
            ModelStatistics("m", 1),
            loop,
            self.loop.clock,
        )
        self.lock = self.served.waiting.lock = lock(stepper)
        self.runtime = FakeRuntime()
        device = Device("cpu")
        for number in range(executors):
            session = self.runtime.open(Path("model.onnx"), plan.config, Placement("cpu", 1, 1))
            bell = SteppedBell(stepper)
            thread = Executor(f"executor {number}", device, loop, self.loop.clock, bell)
            execution = Execution(
                session, plan, max_rows=8, budget=self.served.failure_budget, clock=self.loop.clock
            )
            self.served.instances.append(instance(self.served, execution, thread))
        if costs:
            self.served.inline = Inline(self.served, self.served.instances[0], LoopTurns(loop))
        self.replies: list[list[InferResponse | ServingError]] = []

    def submit(self, each: InferRequest) -> Cancel:
        """Submits one request; the loop's turn ends."""
        cancel = self.submit_quietly(each)
        self.loop.turn()
        return cancel

    def submit_quietly(self, each: InferRequest) -> Cancel:
        """Submits one request; the loop's turn goes on."""
        replies: list[InferResponse | ServingError] = []
        self.replies.append(replies)
        return self.served.submit(each, replies.append, self.loop.now)

    def submit_to_executor(self, each: InferRequest) -> None:
        """Submits one request, which the loop does not run itself; the turn ends."""
        kept, self.served.inline = self.served.inline, None
        self.submit(each)
        self.served.inline = kept

    def is_answered(self) -> bool:
        return all(self.replies)

    def start(self) -> None:
        """Starts the executors' threads: they look around for nothing."""
        for instance in self.served.instances:
            instance.executor.ring(instance)

    def close(self) -> None:
        """Lets the executors' threads end."""
        for instance in self.served.instances:
            instance.executor.close()

    def join(self) -> None:
        """Returns when they have."""
        for instance in self.served.instances:
            instance.executor.join(PATIENCE)

    def check(self) -> None:
        """Each request has one answer, each row ran at most once, nothing is counted any more."""
        self.loop.turn()
        assert [len(replies) for replies in self.replies] == [1] * len(self.replies)
        assert_at_rest(self.served)
        assert self.budget.queued_bytes == 0
        assert not any(instance.is_taken for instance in self.served.instances)
        assert threading.current_thread() not in self.lock.waiters  # the loop
        ran = [value for run in self.runtime.runs for value in run.feeds["x"][:, 0].tolist()]
        assert len(set(ran)) == len(ran)


def played(
    act: Callable[[Scene], None],
    stepper: Stepper,
    *,
    max_rows: int = 8,
    executors: int = 1,
    costs: Sequence[tuple[int, float]] = (),
    instance: type[Instance] = Instance,
    lock: type[WatchedLock] = WatchedLock,
) -> list[InferResponse | ServingError]:
    """Plays a scene to its end under one schedule; gives the answers."""
    scene = Scene(
        stepper, max_rows=max_rows, executors=executors, costs=costs, instance=instance, lock=lock
    )
    with stepper.control(scene.start, executors):
        act(scene)
        scene.loop.turn_until(scene.is_answered)
        scene.close()
    scene.join()
    scene.check()
    return [replies[0] for replies in scene.replies]


@pytest.mark.slow
@pytest.mark.parametrize(("requests", "preemptions"), [(1, 2), (2, 1)])
def test_every_request_is_taken_whenever_it_comes(requests: int, preemptions: int) -> None:
    def act(scene: Scene) -> None:
        for number in range(requests):
            scene.submit(request(value=number))

    def scenario(stepper: Stepper) -> None:
        for result in played(act, stepper, max_rows=1):
            assert isinstance(result, InferResponse)

    assert explore(scenario, preemptions=preemptions, traced=is_step) > 40


@pytest.mark.slow
def test_no_executor_sleeps_while_a_request_waits_behind_the_run_of_another() -> None:
    def scenario(stepper: Stepper) -> None:
        def act(scene: Scene) -> None:
            def compute(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
                stepper.wait_until(lambda: len(scene.runtime.runs) == 2)  # both run, or none ends
                return double(feeds)

            scene.runtime.model.compute = compute
            first, _ = scene.served.instances
            stepper.wait_until(lambda: first.executor.doorbell.is_idle)
            for number in range(2):
                scene.submit_quietly(request(value=number))
            scene.loop.turn()

        for result in played(act, stepper, max_rows=1, executors=2):
            assert isinstance(result, InferResponse)

    assert explore(scenario, preemptions=1, traced=is_step) > 100


@pytest.mark.slow
def test_a_cancelled_request_is_answered_once_whatever_the_executor_does() -> None:
    def act(scene: Scene) -> None:
        cancel = scene.submit(request())
        scene.loop.turn()
        cancel()

    seen: set[type] = set()

    def scenario(stepper: Stepper) -> None:
        (result,) = played(act, stepper)
        seen.add(type(result))

    assert explore(scenario, preemptions=2, traced=is_step) > 400
    assert seen == {InferResponse, Cancelled}


@pytest.mark.slow
def test_a_cancelled_request_does_not_disturb_its_batch() -> None:
    def act(scene: Scene) -> None:
        cancel = scene.submit(request(value=1))
        scene.submit(request(value=2))
        cancel()

    def scenario(stepper: Stepper) -> None:
        _, second = played(act, stepper)
        np.testing.assert_array_equal(answer(second), 2 * numbers(1, 2))

    assert explore(scenario, preemptions=1, traced=is_step) > 40


@pytest.mark.slow
def test_a_request_that_expires_is_answered_once_whatever_the_executor_does() -> None:
    def act(scene: Scene) -> None:
        scene.submit(changed(request(), deadline=1.0))
        scene.loop.turn()
        scene.loop.advance(2.0)

    seen: set[type] = set()

    def scenario(stepper: Stepper) -> None:
        (result,) = played(act, stepper)
        seen.add(type(result))

    assert explore(scenario, preemptions=2, traced=is_step) > 400
    assert seen == {InferResponse, DeadlineExceeded}


@pytest.mark.slow
def test_the_end_of_a_model_answers_everybody_once() -> None:
    def act(scene: Scene) -> None:
        scene.submit(request(value=1))
        scene.submit(request(value=2))
        scene.loop.turn()
        scene.served.refusal = Draining("it ends")
        scene.served.answer_all(scene.served.refusal)

    seen: set[type] = set()

    def scenario(stepper: Stepper) -> None:
        seen.update(type(result) for result in played(act, stepper, max_rows=1))

    assert explore(scenario, preemptions=1, traced=is_step) > 40
    assert seen == {InferResponse, Draining}


@pytest.mark.slow
def test_a_request_in_parts_is_answered_once_whatever_is_cancelled() -> None:
    def act(scene: Scene) -> None:
        cancel = scene.submit(request(rows=12, value=1))
        scene.loop.turn()
        cancel()

    seen: set[type] = set()

    def scenario(stepper: Stepper) -> None:
        (result,) = played(act, stepper)
        seen.add(type(result))

    assert explore(scenario, preemptions=1, traced=is_step) > 40
    assert seen == {InferResponse, Cancelled}


@pytest.mark.slow
def test_an_executor_that_is_closed_always_ends() -> None:
    def scenario(stepper: Stepper) -> None:
        played(lambda scene: None, stepper)

    assert explore(scenario, preemptions=2, traced=is_step) > 20


class ForgetfulInstance(Instance):
    """Does not know that the executor has a batch."""

    @property
    def is_taken(self) -> bool:
        return False

    @is_taken.setter
    def is_taken(self, value: bool) -> None: ...


class OpenLock(WatchedLock):
    """Lets the loop in whoever has it."""

    def acquire(self, blocking: bool = True) -> bool:
        return super().acquire() if blocking else True

    def release(self) -> None: ...


def meet(
    stepper: Stepper,
    threads: set[str],
    *,
    is_taken: bool = True,
    instance: type[Instance] = Instance,
    lock: type[WatchedLock] = WatchedLock,
) -> None:
    """The executor has just taken one request, or is on its way to it, when the loop gets two
    more."""
    inside: list[str] = []

    def act(scene: Scene) -> None:
        def compute(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            inside.append(threading.current_thread().name)
            beside = len(inside)
            inside.pop()
            assert beside == 1, "two runs of one instance at the same time"
            return double(feeds)

        scene.runtime.model.compute = compute
        scene.submit_to_executor(request(value=1))
        if is_taken:
            stepper.wait_until(lambda: scene.served.waiting.entries == 0)
        scene.submit(request(value=2))
        scene.submit(request(value=3))
        scene.loop.turn_until(scene.is_answered)
        threads.update(run.thread for run in scene.runtime.runs)

    for result in played(act, stepper, max_rows=1, costs=SHORT, instance=instance, lock=lock):
        assert isinstance(result, InferResponse), result


@pytest.mark.slow
@pytest.mark.parametrize("is_taken", [False, True])
def test_loop_and_executor_never_run_one_instance_at_the_same_time(is_taken: bool) -> None:
    threads: set[str] = set()

    def scenario(stepper: Stepper) -> None:
        meet(stepper, threads, is_taken=is_taken)

    assert explore(scenario, preemptions=2, traced=is_meeting_step) > 1000
    assert len(threads) == 2, threads


@pytest.mark.slow
def test_without_the_mark_of_the_executors_batch_they_would() -> None:
    with pytest.raises(AssertionError):
        explore(
            lambda stepper: meet(stepper, set(), instance=ForgetfulInstance),
            preemptions=2,
            traced=is_meeting_step,
        )


@pytest.mark.slow
def test_without_the_lock_of_the_queue_they_would_as_well() -> None:
    with pytest.raises(AssertionError):
        explore(
            lambda stepper: meet(stepper, set(), lock=OpenLock),
            preemptions=2,
            traced=is_meeting_step,
        )
