"""A request of more rows than max_batch_size: run in parts, answered and counted as one."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from stoker.engine.oversized import JOIN_ON_LOOP_BYTES, MOST_PARTS
from stoker.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    ExecutionFailed,
    InvalidRequest,
    Overloaded,
    ServingError,
)
from stoker.model import DynamicBatching, QueuePolicy, TensorConfig
from stoker.request import InferRequest, InferResponse
from stoker.runtime.independence import Independence
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
from tests.fake_runtime import FakeModel

BAD = 1000.0


def fails_on_bad(feeds: Mapping[str, Array]) -> ServingError | None:
    return ExecutionFailed("bad data") if (feeds["x"] == BAD).any() else None


async def held(at: Serving) -> Replies:
    at.runtime.hold()
    replies = at.submit(request())
    await at.runs(1)
    return replies


def test_the_parts_come_back_as_one_answer_in_the_right_order() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            replies = at.submit(changed(request(rows=20, value=5), id="big"))
            assert served.statistics.in_flight == 1
            assert served.statistics.pending == 1
            await replies.all(1)
            np.testing.assert_array_equal(answer(replies.only), 2 * numbers(20, 5))
            assert isinstance(replies.only, InferResponse)
            assert (replies.only.id, replies.only.version) == ("big", "1")
            assert [run.rows for run in at.runtime.runs] == [8, 8, 4]

    play(scenario)


def test_it_counts_once() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            await at.submit(request(rows=20)).all(1)
            statistics = served.statistics
            assert statistics.success_count == 1
            assert statistics.compute_count == 1
            assert statistics.inference_count == 20
            assert statistics.execution_count == 3
            assert sum(statistics.queue_histogram.counts) == 1

    play(scenario)


def test_its_last_part_shares_a_batch_with_others() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add()
            first = await held(at)
            whole, other = at.submit(request(rows=12, value=50)), at.submit(request(4, 70))
            await asyncio.sleep(0)  # the turn in which they came ends
            at.runtime.release()
            for replies in (first, whole, other):
                await replies.all(1)
            np.testing.assert_array_equal(answer(whole.only), 2 * numbers(12, 50))
            np.testing.assert_array_equal(answer(other.only), 2 * numbers(4, 70))
            assert [run.rows for run in at.runtime.runs] == [1, 8, 8]

    play(scenario)


@pytest.mark.parametrize("held_as", [np.asarray, lambda array: memoryview(array.tobytes())])
def test_arrays_and_views_are_split_alike(held_as: type) -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add()
            array = numbers(11, 3)
            tensor = Tensor("x", DataType.FP32, array.shape, held_as(array))
            replies = at.submit(InferRequest.of("m", inputs=(tensor,)))
            await replies.all(1)
            np.testing.assert_array_equal(answer(replies.only), 2 * array)

    play(scenario)


def test_the_first_failure_ends_all_parts() -> None:
    async def scenario() -> None:
        async with serving(FakeModel(fail=fails_on_bad)) as at:
            served = at.add()
            replies = await held(at)
            whole = at.submit(request(rows=40, value=BAD))
            at.runtime.step()
            await replies.all(1)
            await at.runs(2)
            at.runtime.release()
            await whole.all(1)
            assert isinstance(whole.only, ExecutionFailed)
            assert served.statistics.failure_count == 1
            await at.submit(request()).all(1)
            assert len(whole.results) == 1

    play(scenario)


def test_a_cancel_ends_all_parts_and_gives_everything_back() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            first = await held(at)
            whole = at.submit(request(rows=20))
            assert served.admission.rows == 20
            at.cancels[1]()
            assert isinstance(whole.only, Cancelled)
            assert (served.admission.rows, served.admission.bytes) == (0, 0)
            assert (served.statistics.pending, served.statistics.in_flight) == (0, 1)
            at.cancels[1]()
            at.runtime.release()
            await first.all(1)
            await at.submit(request(value=9)).all(1)
            assert [run.rows for run in at.runtime.runs] == [1, 1]
            assert len(whole.results) == 1

    play(scenario)


def test_a_deadline_ends_all_parts() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            first = await held(at)
            whole = at.submit(timed(request(rows=20), 0.02))
            await whole.all(1)
            assert isinstance(whole.only, DeadlineExceeded)
            assert served.admission.rows == 0
            at.runtime.release()
            await first.all(1)

    play(scenario)


def test_the_end_of_the_model_answers_it_once() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            first = await held(at)
            whole = at.submit(request(rows=20))
            served.answer_all(Draining("it ends"))
            assert isinstance(whole.only, Draining)
            assert isinstance(first.only, Draining)
            at.runtime.release()

    play(scenario)


def test_it_is_admitted_whole_and_takes_one_place_in_the_queue() -> None:
    async def scenario() -> None:
        async with serving() as at:
            batching = DynamicBatching(default_queue_policy=QueuePolicy(max_queue_size=2))
            at.add(config(batching=batching))
            replies = await held(at)
            at.submit(request(rows=40), request(), to=replies)
            assert isinstance(at.submit(request(rows=20)).only, Overloaded)
            at.runtime.release()
            assert all(isinstance(result, InferResponse) for result in await replies.all(3))

    play(scenario)


def test_a_request_of_too_many_parts_is_refused() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add(config(max_batch_size=1))
            refused = at.submit(request(rows=MOST_PARTS + 1)).only
            assert isinstance(refused, InvalidRequest)
            assert f"expected at most {MOST_PARTS} rows" in refused.message

    play(scenario)


@pytest.mark.parametrize("verdict", [Independence.DEPENDENT, Independence.UNPROVEN])
def test_a_model_that_may_mix_rows_refuses_it(verdict: Independence) -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add(independence=verdict)
            refused = at.submit(request(rows=9)).only
            assert isinstance(refused, InvalidRequest)
            assert "expected at most max_batch_size 8 rows, got 9" in refused.message

    play(scenario)


def test_parts_whose_outputs_do_not_fit_together_fail_the_request() -> None:
    def cut(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return {"y": feeds["x"][:, : 1 if len(feeds["x"]) == 4 else 2]}

    async def scenario() -> None:
        async with serving(FakeModel(compute=cut)) as at:
            at.add(config(outputs=(TensorConfig("y", DataType.FP32, (-1,)),)))
            replies = at.submit(request(rows=12))
            await replies.all(1)
            assert isinstance(replies.only, ExecutionFailed)
            assert "expected rows of one shape" in replies.only.message

    play(scenario)


WIDE = 1 << 14
"""FP32 rows of 64 KiB: they have slabs, and eight of them are joined in a thread."""


def wide_model() -> FakeModel:
    return FakeModel(
        outputs=(TensorSpec("y", DataType.FP32, (-1, WIDE)),),
        compute=lambda feeds: {"y": np.repeat(feeds["x"][:, :1], WIDE, axis=1)},
    )


def wide_config() -> TensorConfig:
    assert 8 * WIDE * 4 > JOIN_ON_LOOP_BYTES
    return TensorConfig("y", DataType.FP32, (WIDE,))


def test_large_outputs_are_joined_in_a_thread_and_their_slabs_come_back() -> None:
    async def scenario() -> None:
        async with serving(wide_model()) as at:
            at.add(config(outputs=(wide_config(),)))
            for _ in range(5):
                replies = at.submit(request(rows=12, value=3))
                await replies.all(1)
                np.testing.assert_array_equal(answer(replies.only)[:, 0], numbers(12, 3)[:, 0])
                assert isinstance(replies.only, InferResponse)
                assert replies.only.lease is None
            assert all(run.into == ("y",) for run in at.runtime.runs[1:])

    play(scenario)


def test_answers_keep_their_order_past_a_request_in_large_parts() -> None:
    batching = DynamicBatching(preserve_ordering=True)

    async def scenario() -> None:
        async with serving(wide_model()) as at:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
            at.add(config(outputs=(wide_config(),), batching=batching, instances=4))
            replies = Replies()
            for number in range(20):
                at.submit(request(rows=12, value=2 * number), to=replies)
                at.submit(request(rows=1, value=2 * number + 1), to=replies)
            results = await replies.all(40)
            assert [answer(result)[0, 0] for result in results] == list(range(40))

    play(scenario)


def test_a_cancel_during_the_join_leaves_the_slabs_of_others_alone() -> None:
    async def scenario() -> None:
        async with serving(wide_model()) as at:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
            at.add(config(outputs=(wide_config(),)))
            first = await held(at)
            whole = at.submit(request(rows=12, value=3))
            neighbour = Replies()

            def cancel(result: InferResponse | ServingError) -> None:
                at.cancels[1]()  # all parts have come, their rows are being joined
                neighbour(result)

            at.engine.submit(request(rows=4, value=70), cancel)
            at.runtime.release()
            await neighbour.all(1)
            await first.all(1)
            assert isinstance(whole.only, Cancelled)
            await asyncio.to_thread(int)  # the one thread has ended the join before this
            for number in range(9):
                await at.submit(request(rows=8, value=100 + number)).all(1)
            np.testing.assert_array_equal(answer(neighbour.only)[:, 0], numbers(4, 70)[:, 0])

    play(scenario)
