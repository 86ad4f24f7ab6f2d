"""How requests end: answers, refusals, expiry, cancels, failures, the end of the model."""

import asyncio
import math
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from stoker.engine.device_failures import MOST_IN_A_ROW, BatchFacts
from stoker.engine.forecast import RunSizes
from stoker.engine.outputs import POOL_SLABS
from stoker.engine.row_limit import GROW_AFTER_S, LEAST_RUNS
from stoker.engine.scheduler import BatchPolicy
from stoker.errors import (
    Cancelled,
    DeadlineExceeded,
    DeviceFailed,
    Draining,
    ExecutionFailed,
    Internal,
    InvalidRequest,
    OutOfMemory,
    Overloaded,
    Reach,
    ServingError,
)
from stoker.model import DynamicBatching, QueuePolicy, TensorConfig
from stoker.request import InferRequest, InferResponse
from stoker.runtime.independence import Independence
from stoker.telemetry.statistics import FailureReason, RefusalReason
from stoker.tensor import Array, DataType, Tensor, TensorSpec

from tests.engine_parts import (
    Replies,
    Serving,
    answer,
    changed,
    config,
    numbers,
    play,
    request,
    serving,
    timed,
)
from tests.fake_runtime import FakeClock, FakeModel, FakeRuntime
from tests.stopwatch import Stopwatch

BAD = 1000.0


def fails_on_bad(feeds: Mapping[str, Array]) -> ServingError | None:
    return ExecutionFailed("bad data") if (feeds["x"] == BAD).any() else None


async def held(at: Serving, first: InferRequest | None = None) -> Replies:
    """Holds the runtime with one request inside its run: what follows waits in the queue."""
    at.runtime.hold()
    replies = at.submit(first or request())
    await at.runs(1)
    return replies


def policy(**fields: int | bool) -> DynamicBatching:
    return DynamicBatching(default_queue_policy=QueuePolicy(**fields))  # type: ignore[arg-type]  # bools and ints by name


# --- refusals -----------------------------------------------------------------------------------


def test_a_full_queue_refuses_at_once_and_says_when_to_retry() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add(config(batching=policy(max_queue_size=2)))
            replies = await held(at)
            at.submit(request(), request(), to=replies)
            refused = (await at.submit(request()).all(1))[0]
            assert isinstance(refused, Overloaded)
            assert refused.retry_after == 1.0
            assert served.statistics.refusals[RefusalReason.QUEUE_FULL] == 1
            assert served.statistics.failures[FailureReason.REJECTED] == 1
            at.runtime.release()
            await replies.all(3)
            assert isinstance((await at.submit(request()).all(1))[0], InferResponse)

    play(scenario)


def test_an_invalid_request_never_enters_the_queue() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            assert isinstance(at.submit(request(width=5)).only, InvalidRequest)
            assert served.statistics.refusals[RefusalReason.INVALID] == 1
            assert served.statistics.in_flight == 0
            at.cancels[0]()

    play(scenario)


def millis(rows: int) -> float:
    return (2 + rows) / 1000


COSTS = tuple((rows, millis(rows)) for rows in (1, 2, 4, 8))


def timed_runtime() -> tuple[FakeRuntime, FakeClock]:
    """l(b) = 2 + b ms on a clock that only runs move."""
    clock = FakeClock()
    return FakeRuntime(FakeModel(seconds=millis), clock=clock, sleep=clock.advance), clock


async def queue_behind_a_run(at: Serving, rows: int) -> Replies:
    at.runtime.forget()
    replies = await held(at)
    return at.submit(*[request() for _ in range(rows)], to=replies)


def test_a_request_that_would_be_late_is_refused_and_one_that_would_not_is_taken() -> None:
    runtime, clock = timed_runtime()

    async def scenario() -> None:
        async with serving(runtime=runtime, clock=clock) as at:
            served = at.add(costs=COSTS)
            replies = await queue_behind_a_run(at, 80)  # 3 ms, then 10 batches of 10 ms
            (late,) = await at.submit(changed(request(), deadline=clock.now + 0.050)).all(1)
            assert isinstance(late, Overloaded)
            assert late.retry_after == pytest.approx(0.103 + 0.003 - 0.050)
            at.submit(changed(request(), deadline=clock.now + 5.0), to=replies)
            assert served.statistics.refusals[RefusalReason.PREDICTED_LATE] == 1
            at.runtime.release()
            results = await replies.all(82)
            assert all(isinstance(result, InferResponse) for result in results)
            assert served.statistics.wrong_refusals == 0

    play(scenario)


def test_a_refusal_that_proves_wrong_is_counted() -> None:
    runtime, clock = timed_runtime()

    async def scenario() -> None:
        async with serving(runtime=runtime, clock=clock) as at:
            served = at.add(costs=COSTS)
            replies = await queue_behind_a_run(at, 80)
            (late,) = await at.submit(changed(request(), deadline=clock.now + 0.050)).all(1)
            assert isinstance(late, Overloaded)
            runtime.model.seconds = None  # the runs cost nothing after all
            at.runtime.release()
            await replies.all(81)
            assert served.statistics.wrong_refusals == 1

    play(scenario)


def test_a_run_without_company_is_not_expected_to_take_as_long_as_those_that_had_some() -> None:
    runtime, clock = timed_runtime()

    async def scenario() -> None:
        async with serving(runtime=runtime, clock=clock) as at:
            served = at.add(costs=COSTS)
            for _ in range(9):
                served.costs.observe(4, 1, 4 * millis(1), alone=False)  # long ago
            await at.submit(changed(request(), deadline=clock.now + 99.0)).all(1)
            replies = await held(at)
            tight = clock.now + millis(1) + 3 * millis(2)
            at.submit(changed(request(), deadline=tight), request(), to=replies)
            await asyncio.sleep(0)  # the turn in which they came ends
            at.runtime.release()
            results = await replies.all(3)
            assert all(isinstance(result, InferResponse) for result in results)

    play(scenario)


def test_the_predicted_wait_is_the_real_one_also_after_the_cost_has_doubled() -> None:
    runtime, clock = timed_runtime()

    async def scenario() -> None:
        async with serving(runtime=runtime, clock=clock) as at:
            served = at.add(costs=COSTS)
            for factor in (1, 2):
                runtime.model.seconds = lambda rows, factor=factor: factor * millis(rows)
                for number in range(20):
                    await at.submit(request(rows=1 + number % 8)).all(1)
                replies = await queue_behind_a_run(at, 80)
                began, predicted = clock.now, served.predicted_wait(clock.now)
                at.runtime.release()
                await replies.all(81)
                assert predicted == pytest.approx(clock.now - began, rel=0.2)

    play(scenario)


def test_every_valid_request_is_worth_its_rows_at_the_efficient_batch() -> None:
    runtime, clock = timed_runtime()

    async def scenario() -> None:
        async with serving(runtime=runtime, clock=clock) as at:
            served = at.add(config(batching=policy(max_queue_size=1)), costs=COSTS)
            worth: list[float] = []
            served.add_demand = lambda seconds, now: worth.append(seconds)
            replies = await held(at, request(rows=2))
            at.submit(request(rows=4), to=replies)
            assert isinstance((await at.submit(request(rows=8)).all(1))[0], Overloaded)
            at.submit(changed(request(), is_retry=True))
            at.submit(request(width=5))
            assert worth == pytest.approx([rows * 0.010 / 8 for rows in (2, 4, 8)])
            at.runtime.release()
            await replies.all(2)

    play(scenario)


# --- expiry and cancel --------------------------------------------------------------------------


LATE_S = 5.0
"""How late the timer of a busy machine may be. What is not answered by the timer would wait for a
run that is held until the test releases it."""


def test_a_deadline_behind_a_long_run_is_answered_on_time_and_never_run() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            first = await held(at)
            began = time.monotonic()
            late = at.submit(timed(request(value=7), 0.1))
            await late.all(1)
            assert isinstance(late.only, DeadlineExceeded)
            assert "was not run" in late.only.message
            assert 0.1 <= late.times[0] - began < 0.1 + LATE_S
            assert (served.admission.rows, served.admission.bytes) == (0, 0)
            assert served.statistics.pending == 0
            assert served.statistics.failures[FailureReason.REJECTED] == 1
            at.runtime.release()
            await first.all(1)
            await at.submit(request()).all(1)
            assert [run.feeds["x"][0, 0] for run in at.runtime.runs] == [1, 1]

    play(scenario)


def test_a_queue_timeout_rejects_on_time() -> None:
    async def scenario() -> None:
        clock = Stopwatch()
        async with serving(clock=clock) as at:
            at.add(config(batching=policy(default_timeout_us=20_000)))
            first = await held(at)
            clock.start()
            began = time.monotonic()
            late = at.submit(request())
            await late.all(1)
            assert isinstance(late.only, DeadlineExceeded)
            assert "its queue timeout" in late.only.message
            assert 0.019 <= late.times[0] - began < 0.02 + LATE_S
            assert first.results == []  # a timeout holds in the queue only
            at.runtime.release()
            await first.all(1)
            assert isinstance(first.only, InferResponse)

    play(scenario)


def test_a_request_may_shorten_its_queue_timeout_where_the_policy_allows() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add(
                config(batching=policy(default_timeout_us=60_000_000, allow_timeout_override=True))
            )
            first = await held(at)
            late = at.submit(changed(request(), timeout_us=5_000))
            patient = at.submit(request())
            await late.all(1)
            assert isinstance(late.only, DeadlineExceeded)
            assert patient.results == []
            at.runtime.release()
            await patient.all(1)
            assert isinstance(patient.only, InferResponse)
            await first.all(1)

    play(scenario)


def test_a_deadline_holds_while_the_model_runs() -> None:
    async def scenario() -> None:
        clock = Stopwatch()
        async with serving(clock=clock) as at:
            at.add()
            replies = await held(at, changed(request(), deadline=clock() + 0.02))
            clock.start()
            await replies.all(1)
            assert isinstance(replies.only, DeadlineExceeded)
            assert "while it ran" in replies.only.message
            at.runtime.release()

    play(scenario)


def test_a_delayed_request_still_has_its_deadline() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add(config(batching=policy(default_timeout_us=1_000, delays_on_timeout=True)))
            first = await held(at)
            late = at.submit(timed(request(), 0.02))
            await late.all(1)
            assert isinstance(late.only, DeadlineExceeded)
            at.runtime.release()
            await first.all(1)
            assert len(at.runtime.runs) == 1

    play(scenario)


def own_array(rows: int = 1) -> tuple[InferRequest, "weakref.ref[Array]"]:
    array = numbers(rows)
    tensor = Tensor("x", DataType.FP32, array.shape, array)
    return InferRequest.of("m", inputs=(tensor,)), weakref.ref(array)


def test_a_cancelled_request_gives_everything_back_at_once() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            first = await held(at)
            one, array = own_array(rows=3)
            replies = at.submit(one)
            del one
            await asyncio.sleep(0)  # the turn in which it came ends
            assert served.admission.rows == 3
            assert array() is not None
            at.cancels[1]()
            assert isinstance(replies.only, Cancelled)
            assert array() is None
            assert (served.admission.rows, served.admission.bytes) == (0, 0)
            assert served.statistics.pending == 0
            at.cancels[1]()
            assert len(replies.results) == 1
            assert served.statistics.failures[FailureReason.CANCELED] == 1
            at.runtime.release()
            await first.all(1)

    play(scenario)


def test_a_request_that_is_cancelled_by_the_refusal_of_another_is_counted() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add(config(batching=policy(max_queue_size=1)))
            replies = await held(at)
            at.submit(request(), to=replies)

            def give_up(refusal: object) -> None:
                at.cancels[2]()

            at.engine.submit(request(), give_up)  # there is no room for it
            at.submit(request(), to=replies)
            await asyncio.sleep(0)  # the turn in which they came ends
            assert served.statistics.failures[FailureReason.CANCELED] == 1
            at.runtime.release()
            await replies.all(3)

    play(scenario)


def test_a_request_that_has_ended_keeps_its_client_no_longer() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add()
            first = await held(at)
            client = Replies()
            at.submit(timed(request(), 100.0), to=client)
            at.cancels[1]()
            gone = weakref.ref(client)
            del client
            assert gone() is None  # though its shell waits in the queue and in the timer
            at.runtime.release()
            await first.all(1)

    play(scenario)


def test_a_cancelled_request_does_not_disturb_its_batch() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add()
            replies = await held(at)
            others = [at.submit(request(value=value)) for value in (10, 20, 30)]
            at.cancels[2]()
            at.runtime.release()
            await replies.all(1)
            for value, other in zip((10, 30), (others[0], others[2]), strict=True):
                await other.all(1)
                np.testing.assert_array_equal(answer(other.only), 2 * numbers(1, value))
            assert [run.rows for run in at.runtime.runs] == [1, 2]

    play(scenario)


def test_a_running_request_that_is_cancelled_is_answered_at_once() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            replies = await held(at)
            at.cancels[0]()
            assert isinstance(replies.only, Cancelled)
            assert served.statistics.in_flight == 0
            at.runtime.release()
            await at.submit(request()).all(1)
            assert len(replies.results) == 1

    play(scenario)


# --- awaiting -----------------------------------------------------------------------------------


def test_infer_gives_the_answer_or_raises() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add()
            response = await at.engine.infer(request(value=3))
            np.testing.assert_array_equal(answer(response), 2 * numbers(1, 3))
            with pytest.raises(InvalidRequest):
                await at.engine.infer(request(width=9))

    play(scenario)


def test_cancelling_the_await_cancels_the_request() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            first = await held(at)
            task = asyncio.create_task(at.engine.infer(request()))
            await asyncio.sleep(0)
            assert served.admission.rows == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert served.admission.rows == 0
            at.runtime.release()
            await first.all(1)

    play(scenario)


WIDE = 1 << 14
WIDE_OUTPUT = TensorConfig("y", DataType.FP32, (WIDE,))


def wide_model() -> FakeModel:
    """Rows of 64 KiB: every batch of theirs has a slab."""
    return FakeModel(
        outputs=(TensorSpec("y", DataType.FP32, (-1, WIDE)),),
        compute=lambda feeds: {"y": np.repeat(feeds["x"][:, :1], WIDE, axis=1)},
    )


def test_an_answer_that_comes_as_its_await_is_cancelled_gives_its_slab_back() -> None:
    async def scenario() -> None:
        async with serving(wide_model()) as at:
            at.add(config(outputs=(WIDE_OUTPUT,)))
            await at.submit(request()).all(1)  # shows that outputs come as declared
            for _ in range(2 * POOL_SLABS):
                task = asyncio.create_task(at.engine.infer(request()))
                await asyncio.sleep(0)
                beside = Replies()

                def stop(
                    result: object,
                    task: "asyncio.Task[InferResponse]" = task,
                    beside: Replies = beside,
                ) -> None:
                    task.cancel()  # the answer is there, its await has not seen it
                    assert isinstance(result, InferResponse)
                    assert result.lease is not None
                    result.lease.release()
                    beside(result)

                at.engine.submit(request(), stop)
                await beside.all(1)
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert [run.into for run in at.runtime.runs[1:]] == [("y",)] * (2 * POOL_SLABS)

    play(scenario)


# --- failures -----------------------------------------------------------------------------------


def test_a_bad_request_fails_alone_in_its_batch() -> None:
    async def scenario() -> None:
        async with serving(FakeModel(fail=fails_on_bad)) as at:
            served = at.add()
            first = await held(at)
            good, bad, other = (at.submit(request(value=value)) for value in (5, BAD, 6))
            at.runtime.release()
            for replies in (first, good, bad, other):
                await replies.all(1)
            assert isinstance(bad.only, ExecutionFailed)
            np.testing.assert_array_equal(answer(good.only), 2 * numbers(1, 5))
            np.testing.assert_array_equal(answer(other.only), 2 * numbers(1, 6))
            assert served.statistics.bisections == 2
            assert served.statistics.failures[FailureReason.BACKEND] == 1
            assert served.statistics.success_count == 3

    play(scenario)


def test_batches_that_do_not_fit_into_memory_become_smaller() -> None:
    async def scenario() -> None:
        async with serving(FakeModel(fail=does_not_fit_above(2))) as at:
            batching = DynamicBatching(preferred_batch_sizes=(2, 8))
            served = at.add(config(batching=batching))
            replies = await held(at)
            at.submit(*[request() for _ in range(8)], to=replies)
            at.runtime.release()
            assert all(isinstance(result, InferResponse) for result in await replies.all(9))
            assert served.policy == BatchPolicy(2, (2,))

    play(scenario)


def test_a_request_that_does_not_fit_alone_is_run_in_parts_when_it_comes_again() -> None:
    async def scenario() -> None:
        async with serving(FakeModel(fail=does_not_fit_above(2))) as at:
            served = at.add()
            first = at.submit(request(rows=5))
            assert isinstance((await first.all(1))[0], OutOfMemory)
            assert served.policy.max_rows == 2
            again = at.submit(request(rows=5))
            np.testing.assert_array_equal(answer((await again.all(1))[0]), 2 * numbers(5))

    play(scenario)


def test_a_request_of_more_rows_than_batches_have_is_run_in_parts_as_well_if_it_does_not_fit() -> (
    None
):
    silent = replace(config(), batching_is_explicit=False, batch_size_is_explicit=False)

    async def scenario() -> None:
        async with serving(FakeModel(fail=does_not_fit_above(4))) as at:
            served = at.add(silent, costs=[(rows, 0.01 * rows) for rows in (1, 2, 4, 8)])
            assert served.policy == BatchPolicy(1)  # nothing is gained by batches
            first = at.submit(request(rows=8))
            assert isinstance((await first.all(1))[0], OutOfMemory)
            again = at.submit(request(rows=8))
            np.testing.assert_array_equal(answer((await again.all(1))[0]), 2 * numbers(8))
            assert served.policy == BatchPolicy(1)

    play(scenario)


@pytest.mark.parametrize("independence", [Independence.DEPENDENT, Independence.INDEPENDENT])
def test_a_request_alone_says_nothing_where_it_cannot_be_split_or_its_items_are_large(
    independence: Independence,
) -> None:
    async def scenario() -> None:
        x = TensorConfig("x", DataType.FP32, (-1,))
        specs = tuple(TensorSpec(name, DataType.FP32, (-1, -1)) for name in "xy")
        model = FakeModel(specs[:1], specs[1:], fail=does_not_fit_above(2))
        async with serving(model) as at:
            is_split = independence is Independence.INDEPENDENT
            y = TensorConfig("y", DataType.FP32, (-1,))
            served = at.add(config(inputs=(x,), outputs=(y,)), independence=independence)
            before = served.policy
            large = at.submit(request(rows=5, width=64 if is_split else 4))
            assert isinstance((await large.all(1))[0], OutOfMemory)
            assert served.policy == before

    play(scenario)


def does_not_fit_above(rows: int) -> Callable[[Mapping[str, Array]], ServingError | None]:
    return lambda feeds: OutOfMemory("too large") if len(feeds["x"]) > rows else None


def test_batches_grow_again_when_full_ones_have_fitted_for_a_while() -> None:
    is_full = True

    def fail(feeds: Mapping[str, Array]) -> ServingError | None:
        return OutOfMemory("too large") if is_full and len(feeds["x"]) > 2 else None

    async def scenario() -> None:
        nonlocal is_full
        clock = FakeClock()
        async with serving(FakeModel(fail=fail), clock=clock) as at:
            served = at.add(config(batching=DynamicBatching(preferred_batch_sizes=(2, 8))))
            replies = await held(at)
            at.submit(*[request() for _ in range(8)], to=replies)
            at.runtime.release()
            await replies.all(9)
            assert (served.policy.max_rows, served.costs.sizes.largest) == (2, 2)
            assert served.statistics.out_of_memory == 3
            is_full = False
            for growths, limit in enumerate((4, 8), start=1):
                clock.advance(GROW_AFTER_S)
                rows = served.policy.max_rows
                for _ in range(LEAST_RUNS):
                    await at.submit(request(rows=rows)).all(1)
                assert served.policy.max_rows == limit, growths
            assert served.policy == BatchPolicy(8, (2, 8))
            assert served.costs.sizes == RunSizes(8, 8)

    play(scenario)


def test_a_broken_device_fails_everything_once_and_refuses_what_follows() -> None:
    async def scenario() -> None:
        model = FakeModel(fail=lambda feeds: DeviceFailed("the GPU is gone"))
        async with serving(model) as at:
            served = at.add(config(max_batch_size=1, instances=2))
            told: list[DeviceFailed] = []
            served.on_device_failed = told.append
            at.runtime.hold()
            replies = at.submit(*[request(value=value) for value in range(6)])
            await at.runs(2)
            at.runtime.release()
            results = await replies.all(6)
            assert all(isinstance(result, DeviceFailed) for result in results)
            await at.finished(2)
            assert isinstance(at.submit(request()).only, DeviceFailed)
            assert served.statistics.refusals[RefusalReason.NOT_READY] == 1
            await served.drained()
        assert len(told) == 1

    play(scenario)


def test_a_batch_that_fails_twice_on_a_device_that_is_well_does_not_end_its_model() -> None:
    async def scenario() -> None:
        model = FakeModel(
            fail=lambda feeds: (
                DeviceFailed("CUBLAS failure 13", reach=Reach.RUN)
                if (feeds["x"] == BAD).any()
                else None
            )
        )
        async with serving(model) as at:
            served = at.add()
            told: list[DeviceFailed] = []
            served.on_device_failed = told.append
            for _ in range(2):
                for _ in range(MOST_IN_A_ROW - 1):
                    bad = at.submit(request(value=BAD))
                    assert isinstance((await bad.all(1))[0], DeviceFailed)
                good = at.submit(request(value=1))
                assert isinstance((await good.all(1))[0], InferResponse)
            assert not told
            assert served.statistics.device_retries == 2 * (MOST_IN_A_ROW - 1)

    play(scenario)


def test_several_batches_in_a_row_that_fail_so_are_the_devices_fault() -> None:
    async def scenario() -> None:
        model = FakeModel(fail=lambda feeds: DeviceFailed("CUBLAS failure 13", reach=Reach.RUN))
        async with serving(model) as at:
            served = at.add()
            told: list[DeviceFailed] = []
            served.on_device_failed = told.append
            for _ in range(MOST_IN_A_ROW):
                await at.submit(request(rows=2)).all(1)
            (cause,) = told
            assert cause.reach is Reach.PROCESS
            assert "3 batches in a row" in cause.message
            facts = served.device_failures.failed_batch
            assert facts == BatchFacts(rows=2, requests=1, shapes=("x FP32 [2,4]",))

    play(scenario)


def test_a_fault_of_the_process_is_told_although_the_model_was_broken_before() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            told: list[DeviceFailed] = []
            served.on_device_failed = told.append
            reaches = (Reach.MODEL, Reach.MODEL, Reach.PROCESS)
            for error in [DeviceFailed("gone", reach=reach) for reach in reaches]:
                served.stop(error, error)
            assert [each.reach for each in told] == [Reach.MODEL, Reach.PROCESS]

    play(scenario)


def test_a_model_whose_executor_breaks_answers_everybody_and_stops() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            told: list[DeviceFailed] = []
            served.on_device_failed = told.append
            replies = await held(at)
            served.policy = cast(BatchPolicy, None)  # the next decision raises
            at.submit(request(), to=replies)
            await asyncio.sleep(0)
            at.runtime.release()
            first, second = await replies.all(2)
            assert isinstance(first, InferResponse)
            assert isinstance(second, Internal)
            assert isinstance(at.submit(request()).only, Internal)
            assert len(told) == 1

    play(scenario)


def test_a_refused_request_is_kept_by_nobody() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            served.refusal = DeviceFailed("the GPU is gone")
            kept = []
            for _ in range(3):
                one, array = own_array()
                at.submit(one)
                kept.append(array)
            del one
            assert [array() for array in kept] == [None] * 3

    play(scenario)


# --- the end ------------------------------------------------------------------------------------


def test_a_drain_ends_when_the_last_request_has_its_answer() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            replies = await held(at)
            at.submit(request(), to=replies)
            drains = [asyncio.create_task(served.drained()) for _ in range(2)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in drains)
            at.runtime.release()
            await asyncio.gather(*drains)
            assert len(replies.results) == 2
            await served.drained()

    play(scenario)


def test_what_is_left_at_the_end_is_answered_and_later_requests_too() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            replies = await held(at)
            at.submit(request(), to=replies)
            served.refusal = Draining("the server is shutting down")
            served.answer_all(served.refusal)
            assert replies.results == [served.refusal] * 2
            assert at.submit(request()).only is served.refusal
            assert served.statistics.refusals[RefusalReason.DRAINING] == 1
            assert served.statistics.in_flight == 0
            at.runtime.release()

    play(scenario)


def test_closing_waits_for_the_last_run_of_a_retired_model() -> None:
    """Its requests have ended, but its thread is inside the session."""

    async def scenario() -> None:
        runtime = FakeRuntime()
        async with serving(runtime=runtime) as at:
            served = at.add()
            await held(at)
            at.cancels[0]()
            at.engine.retire(served)
            closing = asyncio.create_task(at.engine.close())
            await asyncio.sleep(0)
            assert not closing.done()
            runtime.release()
            await closing
            await at.finished(1)
            for session in runtime.sessions:
                session.close()

    play(scenario)


def test_a_reply_that_raises_harms_nobody() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add()

            def explode(result: object) -> None:
                raise ZeroDivisionError

            at.engine.submit(request(), explode)
            replies = at.submit(request(value=4))
            await replies.all(1)
            np.testing.assert_array_equal(answer(replies.only), 2 * numbers(1, 4))

    play(scenario)


def test_a_request_without_a_deadline_waits_as_long_as_it_takes() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add()
            replies = at.submit(changed(request(), deadline=math.inf))
            await replies.all(1)
            assert isinstance(replies.only, InferResponse)

    play(scenario)
