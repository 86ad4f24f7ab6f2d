"""One batch on an executor's thread: who gets what when the run fails."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.execution import FAILING_SHARE, Batch, Execution, FailureBudget, Outcome
from stoker.engine.outputs import POOL_SLABS
from stoker.engine.pending import Pending
from stoker.engine.plan import ModelPlan
from stoker.engine.served_model import ServedModel
from stoker.errors import (
    DeadlineExceeded,
    DeviceFailed,
    ExecutionFailed,
    Internal,
    ModelNotReady,
    OutOfMemory,
    Reach,
    ServingError,
)
from stoker.model import ModelVersion, TensorConfig
from stoker.request import InferRequest, InferResponse
from stoker.runtime.session import Placement
from stoker.telemetry.statistics import BatchEnd
from stoker.tensor import Array, DataType, TensorSpec

from tests.engine_parts import answer, config, numbers, request
from tests.fake_runtime import FakeClock, FakeModel, FakeRuntime

BAD = 1000.0
"""A row with this value makes a run fail."""


def fails_on_bad(feeds: Mapping[str, Array]) -> ServingError | None:
    return ExecutionFailed("bad data") if (feeds["x"] == BAD).any() else None


class Scene:
    def __init__(
        self,
        *,
        seconds: float = 0.001,
        model: FakeModel | None = None,
        max_rows: int = 64,
        outputs: tuple[TensorConfig, ...] | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.model = model or FakeModel(fail=fails_on_bad)
        self.model.seconds = lambda rows: seconds
        self.runtime = FakeRuntime(self.model, clock=self.clock, sleep=self.clock.advance)
        described = config(max_batch_size=64)
        if outputs is not None:
            described = config(max_batch_size=64, outputs=outputs)
        self.plan = ModelPlan(ModelVersion("m", 1), described)
        session = self.runtime.open(Path("model.onnx"), described, Placement("cpu", 1, 1))
        self.budget = FailureBudget()
        self.execution = Execution(
            session, self.plan, max_rows=max_rows, budget=self.budget, clock=self.clock
        )
        self.entries: list[Pending] = []

    def batch(self, *requests: InferRequest) -> Batch:
        model = cast(ServedModel, None)  # an execution never looks at it
        pairs = [
            (Pending(model, each, self.plan.check(each), lambda result: None, 0.0), each)
            for each in requests
        ]
        self.entries = [entry for entry, _ in pairs]
        return Batch(pairs, sum(entry.rows for entry, _ in pairs), BatchEnd.IDLE, 0.0, 1)

    def execute(self, *requests: InferRequest) -> Outcome:
        return self.execution.execute(self.batch(*requests))

    @property
    def runs(self) -> list[int]:
        return [run.rows for run in self.runtime.runs]


def singles(*values: float) -> list[InferRequest]:
    return [request(value=value) for value in values]


def test_a_batch_is_one_run_and_each_request_gets_its_rows() -> None:
    scene = Scene()
    outcome = scene.execute(request(2, 10), request(1, 20), request(3, 30))
    assert scene.runs == [6]
    got = [answer(result) for result in outcome.results]
    for array, (rows, value) in zip(got, [(2, 10), (1, 20), (3, 30)], strict=True):
        np.testing.assert_array_equal(array, 2 * numbers(rows, value))
    (run,) = outcome.runs
    assert (run.rows, run.requests, run.infer_ns) == (6, 3, 1_000_000)
    assert outcome.failed_seconds == 0


def test_the_answer_carries_the_requests_id_and_the_models_name() -> None:
    scene = Scene()
    (result,) = scene.execute(InferRequest.of("m", id="abc", inputs=request().inputs)).results
    assert isinstance(result, InferResponse)
    assert (result.model, result.version, result.id) == ("m", "1", "abc")


@given(st.integers(1, 20), st.data())
def test_bisection_finds_the_guilty_requests_and_answers_everyone_else(
    count: int, data: st.DataObject
) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1), max_size=3))
    scene = Scene()
    values = [BAD if place in guilty else float(place) for place in range(count)]
    outcome = scene.execute(*singles(*values))
    for place, result in enumerate(outcome.results):
        if place in guilty:
            assert isinstance(result, ExecutionFailed)
        else:
            np.testing.assert_array_equal(answer(result), 2 * numbers(1, place))
    assert sum(run.rows for run in outcome.runs) == count - len(guilty)
    assert len(outcome.runs) + round(outcome.failed_seconds / 0.001) == len(scene.runs)


def test_one_guilty_request_costs_as_many_runs_as_it_takes_halves() -> None:
    scene = Scene()
    outcome = scene.execute(*singles(*[1.0] * 7, BAD))
    assert scene.runs == [8, 4, 4, 2, 2, 1, 1]
    assert outcome.bisections == 3


def test_a_lone_request_that_fails_is_not_run_again() -> None:
    scene = Scene()
    outcome = scene.execute(*singles(BAD))
    assert scene.runs == [1]
    assert isinstance(outcome.results[0], ExecutionFailed)


def test_a_device_fault_is_never_bisected() -> None:
    scene = Scene(model=FakeModel(fail=lambda feeds: DeviceFailed("the GPU is gone")))
    outcome = scene.execute(*singles(1, 2, 3))
    assert scene.runs == [3]
    assert all(isinstance(result, DeviceFailed) for result in outcome.results)
    assert outcome.device_failed is not None


def test_a_device_that_breaks_during_a_bisection_ends_it() -> None:
    def fail(feeds: Mapping[str, Array]) -> ServingError | None:
        if len(feeds["x"]) == 4:
            return ExecutionFailed("bad data")
        return DeviceFailed("the GPU is gone")

    scene = Scene(model=FakeModel(fail=fail))
    outcome = scene.execute(*singles(1, 2, 3, 4))
    assert scene.runs == [4, 2]
    assert all(isinstance(result, DeviceFailed) for result in outcome.results)


def passing(*, after: int) -> FakeModel:
    """Fails so many runs for reasons that the device does not know of; the later ones pass."""
    left = [after]

    def fail(feeds: Mapping[str, Array]) -> ServingError | None:
        left[0] -= 1
        return DeviceFailed("CUBLAS failure 13", reach=Reach.RUN) if left[0] >= 0 else None

    return FakeModel(fail=fail)


def test_a_device_fault_of_one_run_is_tried_once_more() -> None:
    scene = Scene(model=passing(after=1))
    outcome = scene.execute(*singles(1, 2))
    assert scene.runs == [2, 2]
    assert outcome.device_retries == 1
    assert outcome.device_failed is None
    np.testing.assert_array_equal(answer(outcome.results[1]), 2 * numbers(1, 2))


def test_a_device_fault_that_comes_again_fails_the_batch() -> None:
    scene = Scene(model=passing(after=2))
    outcome = scene.execute(*singles(1, 2))
    assert scene.runs == [2, 2]
    assert all(isinstance(result, DeviceFailed) for result in outcome.results)
    assert outcome.device_failed is not None


def test_a_run_is_not_tried_again_for_requests_whose_deadline_has_passed() -> None:
    scene = Scene(model=passing(after=1), seconds=1.0)
    late = InferRequest.of("m", inputs=request().inputs, deadline=0.5)
    outcome = scene.execute(late, *singles(3))
    assert scene.runs == [2, 1]
    assert isinstance(outcome.results[0], DeadlineExceeded)
    np.testing.assert_array_equal(answer(outcome.results[1]), 2 * numbers(1, 3))


@pytest.mark.parametrize("reach", [Reach.MODEL, Reach.PROCESS])
def test_a_fault_that_reaches_further_is_not_tried_again(reach: Reach) -> None:
    error = DeviceFailed("gone", reach=reach)
    scene = Scene(model=FakeModel(fail=lambda feeds: error))
    assert scene.execute(*singles(1)).device_retries == 0
    assert scene.runs == [1]


def out_of_memory_above(rows: int) -> FakeModel:
    return FakeModel(
        fail=lambda feeds: OutOfMemory("too large") if len(feeds["x"]) > rows else None
    )


def test_a_batch_that_does_not_fit_is_run_in_halves_that_do() -> None:
    scene = Scene(model=out_of_memory_above(2))
    outcome = scene.execute(*singles(*range(8)))
    assert scene.runs == [8, 4, 2, 2, 4, 2, 2]
    assert all(isinstance(result, InferResponse) for result in outcome.results)
    assert outcome.out_of_memory_rows == 4


def test_a_request_that_does_not_fit_alone_says_nothing_about_batches() -> None:
    scene = Scene(model=out_of_memory_above(2))
    outcome = scene.execute(request(rows=3))
    assert isinstance(outcome.results[0], OutOfMemory)
    assert outcome.out_of_memory_rows == 0
    assert outcome.out_of_memory_runs == 1


def test_halves_of_a_batch_that_did_not_fit_leave_out_requests_that_are_late() -> None:
    scene = Scene(model=out_of_memory_above(2), seconds=1.0)
    late = InferRequest.of("m", inputs=request().inputs, deadline=0.5)
    outcome = scene.execute(*singles(1, 2), late)
    assert scene.runs == [3, 1, 1]
    assert [type(result) for result in outcome.results] == [
        InferResponse,
        InferResponse,
        DeadlineExceeded,
    ]


def test_failing_batches_beyond_a_tenth_of_a_second_fail_whole_and_retryably() -> None:
    scene = Scene(seconds=FAILING_SHARE)
    assert isinstance(scene.execute(*singles(1, BAD)).results[0], InferResponse)
    outcome = scene.execute(*singles(1, BAD))
    assert scene.runs[-1] == 2
    for result in outcome.results:
        assert isinstance(result, ModelNotReady)
        assert result.retry_after == 1.0
    scene.clock.advance(1.1)
    assert isinstance(scene.execute(*singles(1, BAD)).results[0], InferResponse)


def test_the_budget_forgets_after_a_second() -> None:
    budget = FailureBudget()
    budget.spend(FAILING_SHARE, 10.0)
    assert budget.allows(10.0)
    budget.spend(0.001, 10.5)
    assert not budget.allows(11.0)
    assert budget.allows(11.1)


def test_a_bisection_leaves_out_requests_whose_deadline_has_passed() -> None:
    scene = Scene(seconds=1.0)
    late = InferRequest.of("m", inputs=request().inputs, deadline=0.5)
    outcome = scene.execute(*singles(BAD), late, *singles(3))
    assert scene.runs == [3, 1, 1]
    assert isinstance(outcome.results[1], DeadlineExceeded)
    np.testing.assert_array_equal(answer(outcome.results[2]), 2 * numbers(1, 3))


def test_a_bisection_leaves_out_requests_that_have_ended() -> None:
    scene = Scene()
    batch = scene.batch(*singles(BAD, 2, 3))
    scene.entries[1].dead = True
    outcome = scene.execution.execute(batch)
    assert scene.runs == [3, 1, 1]
    assert isinstance(outcome.results[0], ExecutionFailed)
    assert isinstance(outcome.results[2], InferResponse)


def test_an_unforeseen_exception_is_kept_for_the_log_and_told_to_nobody() -> None:
    def explode(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        raise ZeroDivisionError("secret")

    scene = Scene(model=FakeModel(compute=explode))
    outcome = scene.execute(*singles(1, 2))
    assert isinstance(outcome.bug, ZeroDivisionError)
    for result in outcome.results:
        assert isinstance(result, Internal)
        assert "secret" not in result.message


def test_an_output_with_missing_rows_fails_only_its_own_request() -> None:
    def drops_a_row(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return {"y": feeds["x"][feeds["x"][:, 0] != BAD] * 2}

    scene = Scene(model=FakeModel(compute=drops_a_row))
    first, second = scene.execute(*singles(1, BAD)).results
    np.testing.assert_array_equal(answer(first), 2 * numbers(1, 1))
    assert isinstance(second, ExecutionFailed)


WIDE = 1 << 14
"""FP32 rows of 64 KiB: every batch gets a slab."""


def wide() -> Scene:
    model = FakeModel(
        outputs=(TensorSpec("y", DataType.FP32, (-1, WIDE)),),
        compute=lambda feeds: {"y": np.repeat(feeds["x"][:, :1], WIDE, axis=1)},
        fail=fails_on_bad,
    )
    return Scene(model=model, outputs=(TensorConfig("y", DataType.FP32, (WIDE,)),), max_rows=4)


def release(result: InferResponse | ServingError) -> None:
    assert isinstance(result, InferResponse)
    assert result.lease is not None
    result.lease.release()


def test_large_outputs_are_written_into_slabs_that_come_back_with_the_last_answer() -> None:
    scene = wide()
    scene.execute(*singles(1))  # shows that outputs come as declared
    outcomes = [scene.execute(*singles(number, number)) for number in range(POOL_SLABS)]
    assert all(run.into == ("y",) for run in scene.runtime.runs[1:])
    (fresh, _) = scene.execute(*singles(7, 7)).results
    assert not scene.runtime.runs[-1].into
    assert isinstance(fresh, InferResponse)
    assert fresh.lease is None
    for number, outcome in enumerate(outcomes):  # what is lent has not been touched since
        for result in outcome.results:
            assert isinstance(result, InferResponse)
            assert (result.outputs[0].array() == number).all()
    for result in outcomes[0].results:
        release(result)
    scene.execute(*singles(8, 8))
    assert scene.runtime.runs[-1].into == ("y",)


def test_a_run_that_fails_gives_its_slab_back() -> None:
    scene = wide()
    scene.execute(*singles(1))
    for _ in range(2 * POOL_SLABS):
        scene.execute(*singles(BAD))
    (result,) = scene.execute(*singles(1)).results
    assert scene.runtime.runs[-1].into == ("y",)
    release(result)


def test_an_output_that_comes_in_another_shape_than_before_is_answered_without_a_slab() -> None:
    scene = wide()
    scene.execute(*singles(1))
    usual = scene.model.compute
    scene.model.compute = lambda feeds: {"y": usual(feeds)["y"][:, None]}
    for _ in range(2):
        (result,) = scene.execute(*singles(3)).results
        assert isinstance(result, InferResponse)
        assert result.outputs[0].shape[:2] == (1, 1)
    assert [run.into for run in scene.runtime.runs] == [(), ("y",), (), ()]


def test_a_batch_of_many_guilty_requests_fails_whole_when_it_has_cost_enough() -> None:
    scene = Scene(seconds=0.02)
    outcome = scene.execute(*singles(*[BAD] * 64))
    assert outcome.failed_seconds <= 0.02 * 8
    kinds = {type(result) for result in outcome.results}
    assert kinds == {ExecutionFailed, ModelNotReady}


def test_one_guilty_request_is_found_however_slow_the_model_is() -> None:
    scene = Scene(seconds=0.5)
    outcome = scene.execute(*singles(*[1.0] * 31, BAD, *[1.0] * 32))
    assert [type(result) for result in outcome.results].count(InferResponse) == 63


def test_time_is_told_in_nanoseconds_of_the_clock() -> None:
    scene = Scene(seconds=math.pi / 1000)
    (run,) = scene.execute(*singles(1)).runs
    assert run.infer_ns == pytest.approx(math.pi * 1e6, abs=2)
    assert run.input_ns == run.output_ns == 0
