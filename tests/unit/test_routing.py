"""Which of two sessions runs a batch, and that the faster one never costs a request its answer."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from stoker.engine.execution import Batch, Execution, FailureBudget, Outcome
from stoker.engine.lone import LoneRun
from stoker.engine.pending import Pending
from stoker.engine.plan import ModelPlan, RequestForm
from stoker.engine.routing import Route, RoutedExecution, batch_shapes, covers_bindings
from stoker.engine.served_model import ServedModel
from stoker.errors import DeviceFailed, ExecutionFailed, OutOfMemory, Reach, ServingError
from stoker.model import ModelConfig, ModelVersion, TensorConfig
from stoker.request import InferRequest
from stoker.runtime.bucket_dimension import DimensionBuckets
from stoker.runtime.buckets import Buckets
from stoker.runtime.candidate import Shapes
from stoker.runtime.fixed import WatchRun
from stoker.runtime.session import Placement, Session
from stoker.telemetry.statistics import BatchEnd
from stoker.tensor import Array, DataType, Tensor

from tests.engine_parts import answer, config, numbers, request
from tests.fake_runtime import FakeClock, FakeModel, FakeRuntime

BAD = 1000.0


def fails_on_bad(feeds: Mapping[str, Array]) -> ServingError | None:
    return ExecutionFailed("bad data") if (feeds["x"] == BAD).any() else None


def at_most_four_rows(shapes: Shapes) -> bool:
    return shapes["x"][0] <= 4


class Scene:
    """A sure and a faster execution of y = 2x; each has a fake runtime of its own."""

    def __init__(self, sure: FakeModel | None = None, faster: FakeModel | None = None) -> None:
        self.clock = FakeClock()
        self.plan = ModelPlan(ModelVersion("m", 1), config(max_batch_size=64))
        self.closed: list[str] = []
        self.route = Route(at_most_four_rows, self.closed.append)
        self.sure, sure_runs = self._execution(sure or FakeModel())
        self.faster, faster_runs = self._execution(faster or FakeModel())
        self.sure_runs, self.faster_runs = sure_runs.runs, faster_runs.runs
        self.routed = RoutedExecution(self.sure, self.faster, self.route, self.plan)

    def _execution(self, model: FakeModel) -> tuple[Execution, FakeRuntime]:
        runtime = FakeRuntime(model, clock=self.clock, sleep=self.clock.advance)
        session = runtime.open(Path("model.onnx"), self.plan.config, Placement("cpu", 1, 1))
        execution = Execution(
            session, self.plan, max_rows=64, budget=FailureBudget(), clock=self.clock
        )
        return execution, runtime

    def execute(self, *requests: InferRequest) -> Outcome:
        return self.routed.execute(batch_of(self.plan, *requests))


def batch_of(plan: ModelPlan, *requests: InferRequest) -> Batch:
    model = cast(ServedModel, None)  # an execution never looks at it
    pairs = [
        (Pending(model, each, plan.check(each), lambda result: None, 0.0), each)
        for each in requests
    ]
    return Batch(pairs, sum(entry.rows for entry, _ in pairs), BatchEnd.IDLE, 0.0, 1)


def test_a_batch_within_the_covered_shapes_runs_in_the_faster_session_only() -> None:
    scene = Scene()
    outcome = scene.execute(request(2, 10), request(2, 20))
    np.testing.assert_array_equal(answer(outcome.results[1]), 2 * numbers(2, 20))
    assert [run.rows for run in scene.faster_runs] == [4]
    assert not scene.sure_runs


def test_a_batch_outside_of_them_never_meets_the_faster_session() -> None:
    scene = Scene()
    outcome = scene.execute(request(3, 10), request(2, 20))
    np.testing.assert_array_equal(answer(outcome.results[0]), 2 * numbers(3, 10))
    assert [run.rows for run in scene.sure_runs] == [5]
    assert not scene.faster_runs


def test_a_request_that_fails_both_ways_fails_and_the_faster_way_stays_open() -> None:
    scene = Scene(FakeModel(fail=fails_on_bad), FakeModel(fail=fails_on_bad))
    outcome = scene.execute(request(value=1), request(value=BAD), request(value=3))
    np.testing.assert_array_equal(answer(outcome.results[0]), 2 * numbers(1, 1))
    assert isinstance(outcome.results[1], ExecutionFailed)
    np.testing.assert_array_equal(answer(outcome.results[2]), 2 * numbers(1, 3))
    assert not scene.closed
    assert [run.rows for run in scene.sure_runs] == [1]  # the guilty one alone


def test_a_request_that_only_the_faster_session_fails_is_answered_and_closes_the_way() -> None:
    scene = Scene(faster=FakeModel(fail=fails_on_bad))
    outcome = scene.execute(request(value=1), request(value=BAD))
    np.testing.assert_array_equal(answer(outcome.results[1]), 2 * numbers(1, BAD))
    assert scene.closed == ["a run failed that succeeds without it: bad data"]
    before = len(scene.faster_runs)
    scene.execute(request(value=BAD))
    assert len(scene.faster_runs) == before
    assert len(scene.closed) == 1


def test_a_way_that_several_instances_find_broken_is_closed_once() -> None:
    closed: list[str] = []
    route = Route(at_most_four_rows, closed.append)
    start = threading.Barrier(8)

    def close(number: int) -> None:
        start.wait()
        route.close(f"by {number}")

    threads = [threading.Thread(target=close, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(closed) == 1
    assert not route.takes({"x": (1, 4)})


class Told:
    """Implements `Runner`: notes what it is told, and cannot be prepared where there is an
    error."""

    def __init__(self, runner: Execution, error: ServingError | None = None) -> None:
        self.runner = runner
        self.error = error
        self.told: list[str] = []
        self.while_preparing: Callable[[], None] = lambda: None

    @property
    def is_preparing(self) -> bool:
        return False

    @property
    def session(self) -> Session:
        return self.runner.session

    @property
    def sizes(self) -> Buckets:
        return self.runner.sizes

    def prepare(self, watch: WatchRun = nullcontext) -> None:
        self.told.append("prepare")
        with watch():
            self.while_preparing()
        if self.error is not None:
            raise self.error

    def execute(self, batch: Batch) -> Outcome:
        self.told.append("execute")
        return self.runner.execute(batch)

    def lone(self, form: RequestForm) -> LoneRun | None:
        return self.runner.lone(form)


def test_a_session_of_a_gpu_is_prepared_once_by_the_thread_of_its_first_batch() -> None:
    scene = Scene()
    faster = Told(scene.faster)
    scene.routed = RoutedExecution(scene.sure, faster, scene.route, scene.plan, prepares=True)
    scene.execute(request(5))  # not covered
    assert not faster.told
    scene.execute(request(1))
    scene.execute(request(2))
    assert faster.told == ["prepare", "execute", "execute"]


def test_while_a_session_is_prepared_its_runs_are_watched_and_not_taken_for_the_batchs() -> None:
    scene = Scene()
    faster = Told(scene.faster)
    inside: list[str] = []

    @contextmanager
    def watch() -> Iterator[None]:
        inside.append("enter")
        yield
        inside.append("leave")

    routed = RoutedExecution(
        scene.sure, faster, scene.route, scene.plan, prepares=True, watch=watch
    )
    scene.routed = routed
    faster.while_preparing = lambda: inside.append(f"preparing {routed.is_preparing}")
    assert not routed.is_preparing
    scene.execute(request(1))
    assert inside == ["enter", "preparing True", "leave"]
    assert not routed.is_preparing


def test_a_session_that_cannot_be_prepared_costs_no_request_its_answer() -> None:
    scene = Scene()
    faster = Told(scene.faster, OutOfMemory("no room for its buffers"))
    scene.routed = RoutedExecution(scene.sure, faster, scene.route, scene.plan, prepares=True)
    outcome = scene.execute(request(2, 7))
    np.testing.assert_array_equal(answer(outcome.results[0]), 2 * numbers(2, 7))
    assert scene.closed == ["it could not be prepared: no room for its buffers"]
    scene.execute(request(1))
    assert faster.told == ["prepare"]


@pytest.mark.parametrize(
    ("sizes", "max_rows", "fits"),
    [((1, 2, 4), 4, True), ((1, 4, 8), 8, False), ((), 4, True), ((), 5, False)],
)
def test_bindings_are_made_only_where_every_size_of_them_is_covered(
    sizes: tuple[int, ...], max_rows: int, fits: bool
) -> None:
    plan = Scene().plan
    assert covers_bindings(at_most_four_rows, plan, Buckets(sizes), max_rows) == fits


def test_edges_of_a_bucketed_dimension_count_as_sizes_of_bindings() -> None:
    inputs = (TensorConfig("x", DataType.FP32, (-1,)),)
    dimension = DimensionBuckets("length", (8, 32), {"x": (0,)}, {"y": (0,)})
    plan = ModelPlan(ModelVersion("m", 1), config(inputs=inputs, outputs=inputs), dimension)
    seen: list[Shapes] = []

    def covers(shapes: Shapes) -> bool:
        seen.append(shapes)
        return shapes["x"][1] <= 32

    assert covers_bindings(covers, plan, Buckets((1, 4)), 4)
    assert seen == [{"x": (1, 8)}, {"x": (4, 8)}, {"x": (1, 32)}, {"x": (4, 32)}]
    assert not covers_bindings(lambda shapes: shapes["x"][1] <= 8, plan, Buckets((1, 4)), 4)


def test_memory_that_suffices_the_sure_way_only_closes_the_faster_one() -> None:
    def full(feeds: Mapping[str, Array]) -> ServingError | None:
        return OutOfMemory("no room")

    scene = Scene(faster=FakeModel(fail=full))
    outcome = scene.execute(request(2, 5))
    np.testing.assert_array_equal(answer(outcome.results[0]), 2 * numbers(2, 5))
    assert outcome.out_of_memory_rows == 0  # the batch limit is not lowered for it
    assert scene.closed


def test_neighbours_that_were_not_run_again_say_nothing_of_the_faster_session() -> None:
    """One bad request takes all the time that failing batches may take: its neighbours are not run
    again there, and are the sure way."""
    slow = FakeModel(fail=fails_on_bad, seconds=lambda rows: 5.0)
    scene = Scene(FakeModel(), slow)
    scene.sure, _ = scene._execution(FakeModel(fail=fails_on_bad))
    scene.routed = RoutedExecution(scene.sure, scene.faster, scene.route, scene.plan)
    requests = [request(value=BAD), request(value=BAD), request(value=3), request(value=4)]
    outcome = scene.execute(*requests)
    np.testing.assert_array_equal(answer(outcome.results[2]), 2 * numbers(1, 3))
    assert not scene.closed


def test_a_broken_device_is_told_and_nothing_is_run_again() -> None:
    def broken(feeds: Mapping[str, Array]) -> ServingError | None:
        return DeviceFailed("the device is gone", reach=Reach.PROCESS)

    scene = Scene(faster=FakeModel(fail=broken))
    outcome = scene.execute(request())
    assert outcome.device_failed is not None
    assert not scene.sure_runs
    assert not scene.closed


@pytest.mark.parametrize("reach", [Reach.RUN, Reach.MODEL])
def test_a_device_fault_of_the_faster_session_alone_ends_that_way_and_not_the_model(
    reach: Reach,
) -> None:
    def failing(feeds: Mapping[str, Array]) -> ServingError | None:
        return DeviceFailed("CUBLAS failure 13; the device answers well after it", reach=reach)

    scene = Scene(faster=FakeModel(fail=failing))
    outcome = scene.execute(request(1, 5), request(1, 6))
    np.testing.assert_array_equal(answer(outcome.results[0]), 2 * numbers(1, 5))
    np.testing.assert_array_equal(answer(outcome.results[1]), 2 * numbers(1, 6))
    assert outcome.device_failed is None
    assert len(scene.closed) == 1


def test_a_device_fault_that_both_ways_meet_is_told() -> None:
    def failing(feeds: Mapping[str, Array]) -> ServingError | None:
        return DeviceFailed("CUBLAS failure 13", reach=Reach.RUN)

    scene = Scene(FakeModel(fail=failing), FakeModel(fail=failing))
    outcome = scene.execute(request())
    assert outcome.device_failed is not None
    assert not scene.closed


def test_a_bug_in_the_faster_session_costs_no_request_its_answer() -> None:
    def absurd(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        raise KeyError("never foreseen")

    scene = Scene(faster=FakeModel(compute=absurd))
    outcome = scene.execute(request(2, 7))
    np.testing.assert_array_equal(answer(outcome.results[0]), 2 * numbers(2, 7))
    assert outcome.bug is None
    assert scene.closed


def test_the_shapes_are_the_models_own_after_a_reshape_and_without_left_out_inputs() -> None:
    inputs = (
        TensorConfig("x", DataType.FP32, (4,), reshape=(2, 2)),
        TensorConfig("z", DataType.FP32, (1,), reshape=(), optional=True),
    )
    plan = ModelPlan(ModelVersion("m", 1), config(inputs=inputs))
    assert batch_shapes(batch_of(plan, request(2), request(1)), plan) == {"x": (3, 2, 2)}
    alone = ModelConfig("m", 0, inputs[:1], (), None)
    plan = ModelPlan(ModelVersion("m", 1), alone)
    single = InferRequest.of("m", inputs=(Tensor("x", DataType.FP32, (4,), numbers(1).tobytes()),))
    assert batch_shapes(batch_of(plan, single), plan) == {"x": (2, 2)}
