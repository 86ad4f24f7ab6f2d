"""How requests become batches: what runs when, in which order, on which thread."""

import asyncio
import random
import threading
import time
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from stoker.engine.served_model import ServedModel
from stoker.errors import Cancelled, InvalidRequest, ModelNotFound, ModelNotReady
from stoker.model import (
    PLATFORM,
    DynamicBatching,
    ModelVersion,
    QueuePolicy,
    Readiness,
    TensorConfig,
    VersionState,
)
from stoker.request import InferRequest, InferResponse
from stoker.telemetry.server_statistics import UnroutedReason
from stoker.telemetry.statistics import BatchEnd
from stoker.tensor import Array, DataType, TensorSpec

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
)
from tests.fake_runtime import FakeClock, FakeModel, FakeRuntime

ONE_BY_ONE = config(max_batch_size=1)


def rows_of_runs(at: Serving) -> list[int]:
    return [run.rows for run in at.runtime.runs]


def values_of_runs(at: Serving) -> list[float]:
    return [float(run.feeds["x"][0, 0]) for run in at.runtime.runs]


async def held(at: Serving, first: InferRequest | None = None) -> Replies:
    """Holds the runtime with one request inside its run: what follows waits in the queue."""
    at.runtime.hold()
    replies = at.submit(first or request())
    await at.runs(1)
    return replies


# --- forming batches ----------------------------------------------------------------------------


def test_a_lone_request_runs_at_once() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            replies = at.submit(request(rows=3, value=5))
            await replies.all(1)
            np.testing.assert_array_equal(answer(replies.only), 2 * numbers(3, 5))
            assert rows_of_runs(at) == [3]
            assert served.statistics.batch_ends[BatchEnd.IDLE] == 1

    play(scenario)


def test_what_came_while_the_executor_was_busy_is_one_batch() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add()
            first = await held(at)
            others = [at.submit(request(value=value)) for value in range(5)]
            await asyncio.sleep(0)  # the turn in which they came ends
            assert served.statistics.pending == 5
            assert served.statistics.in_flight == 6
            at.runtime.release()
            await first.all(1)
            for value, replies in enumerate(others):
                await replies.all(1)
                np.testing.assert_array_equal(answer(replies.only), 2 * numbers(1, value))
            assert rows_of_runs(at) == [1, 5]

    play(scenario)


def test_requests_of_one_turn_of_the_loop_are_one_batch() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add()
            replies = at.submit(*[request(value=value) for value in range(8)])
            await replies.all(8)
            assert rows_of_runs(at) == [8]

    play(scenario)


def test_a_batch_never_has_more_rows_than_the_limit() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add()
            replies = await held(at)
            at.submit(*[request(rows=3) for _ in range(5)], to=replies)
            at.runtime.release()
            await replies.all(6)
            assert rows_of_runs(at) == [1, 6, 6, 3]

    play(scenario)


def test_each_request_gets_the_outputs_it_asked_for() -> None:
    two = FakeModel(
        outputs=(TensorSpec("y", DataType.FP32, (-1, 4)), TensorSpec("z", DataType.FP32, (-1, 4))),
        compute=lambda feeds: {"y": feeds["x"] * 2, "z": feeds["x"] * 3},
    )

    async def scenario() -> None:
        async with serving(two) as at:
            outputs = (
                TensorConfig("y", DataType.FP32, (4,)),
                TensorConfig("z", DataType.FP32, (4,)),
            )
            at.add(config(outputs=outputs))
            replies = await held(at, changed(request(value=1), requested_outputs=("z",)))
            at.submit(
                changed(request(value=2), requested_outputs=("z", "y")),
                changed(request(value=3), requested_outputs=("y",)),
                to=replies,
            )
            at.runtime.release()
            got = [
                {tensor.name: float(tensor.array()[0, 0]) for tensor in result.outputs}
                for result in await replies.all(3)
                if isinstance(result, InferResponse)
            ]
            assert got == [{"z": 3.0}, {"z": 6.0, "y": 4.0}, {"y": 6.0}]
            assert list(got[1]) == ["z", "y"]
            assert [run.outputs for run in at.runtime.runs] == [("z",), ("y", "z")]

    play(scenario)


ANY_WIDTH = FakeModel(
    inputs=(TensorSpec("x", DataType.FP32, (-1, -1)),),
    outputs=(TensorSpec("y", DataType.FP32, (-1, -1)),),
)


def test_shapes_do_not_block_each_other() -> None:
    async def scenario() -> None:
        async with serving(ANY_WIDTH) as at:
            x, y = TensorConfig("x", DataType.FP32, (-1,)), TensorConfig("y", DataType.FP32, (-1,))
            at.add(config(inputs=(x,), outputs=(y,)))
            replies = await held(at)
            widths = [4, 8, 4, 2, 8]
            at.submit(*[request(width=width) for width in widths], to=replies)
            at.runtime.release()
            await replies.all(6)
            shapes = [run.feeds["x"].shape for run in at.runtime.runs]
            assert shapes == [(1, 4), (2, 4), (2, 8), (1, 2)]

    play(scenario)


def test_a_configured_delay_holds_a_lone_request_and_ends_with_a_full_batch() -> None:
    async def scenario() -> None:
        async with serving() as at:
            served = at.add(config(batching=DynamicBatching(max_queue_delay_us=30_000)))
            began = asyncio.get_running_loop().time()
            await at.submit(request()).all(1)
            assert asyncio.get_running_loop().time() - began >= 0.029
            assert served.statistics.batch_ends[BatchEnd.DELAY] == 1
            slow = at.add(config("slow", batching=DynamicBatching(max_queue_delay_us=60_000_000)))
            replies = at.submit(*[request(model="slow", rows=4) for _ in range(2)])
            await replies.all(2)
            assert slow.statistics.batch_ends[BatchEnd.FULL] == 1

    play(scenario)


def test_a_preferred_size_ends_the_wait() -> None:
    async def scenario() -> None:
        async with serving() as at:
            batching = DynamicBatching(preferred_batch_sizes=(4,), max_queue_delay_us=60_000_000)
            served = at.add(config(batching=batching))
            replies = at.submit(request(rows=3))
            at.submit(request(rows=1), to=replies)
            await replies.all(2)
            assert rows_of_runs(at) == [4]
            assert served.statistics.batch_ends[BatchEnd.PREFERRED] == 1

    play(scenario)


# --- order --------------------------------------------------------------------------------------


def test_a_higher_priority_goes_first() -> None:
    async def scenario() -> None:
        async with serving() as at:
            batching = DynamicBatching(priority_levels=2, default_priority_level=2)
            at.add(config(max_batch_size=1, batching=batching))
            replies = await held(at)
            at.submit(
                request(value=20),
                changed(request(value=21), priority=2),
                changed(request(value=10), priority=1),
                changed(request(value=22), priority=9),
                to=replies,
            )
            at.runtime.release()
            await replies.all(5)
            assert values_of_runs(at) == [1, 10, 20, 21, 22]

    play(scenario)


def test_the_nearer_deadline_goes_first() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add(ONE_BY_ONE)
            replies = await held(at)
            now = asyncio.get_running_loop().time()
            at.submit(
                request(value=30),
                changed(request(value=20), deadline=now + 200),
                changed(request(value=10), deadline=now + 100),
                to=replies,
            )
            at.runtime.release()
            await replies.all(4)
            assert values_of_runs(at) == [1, 10, 20, 30]

    play(scenario)


def test_a_request_past_its_timeout_may_be_delayed_behind_the_others() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        async with serving(clock=clock) as at:
            policy = QueuePolicy(
                default_timeout_us=1_000_000, allow_timeout_override=True, delays_on_timeout=True
            )
            batching = DynamicBatching(default_queue_policy=policy)
            at.add(config(max_batch_size=1, batching=batching))
            replies = await held(at)
            at.submit(
                changed(request(value=30), timeout_us=1000),
                request(value=10),
                request(value=20),
                to=replies,
            )
            clock.advance(0.5)
            at.runtime.release()
            await replies.all(4)
            assert values_of_runs(at) == [1, 10, 20, 30]
            assert all(isinstance(result, InferResponse) for result in replies.results)

    play(scenario)


def test_answers_keep_the_order_of_their_batches_across_instances() -> None:
    first_may_end = threading.Event()

    def compute(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        if feeds["x"][0, 0] == 1:
            assert first_may_end.wait(10)
        return {"y": feeds["x"] * 2}

    async def scenario() -> None:
        async with serving(FakeModel(compute=compute)) as at:
            batching = DynamicBatching(preserve_ordering=True)
            at.add(config(max_batch_size=1, batching=batching, instances=2))
            replies = at.submit(request(value=1))
            await at.runs(1)
            at.submit(request(value=2), request(value=3), to=replies)
            await at.runs(3)  # the second has ended and its outcome is on the loop
            await asyncio.sleep(0)
            assert replies.results == []
            first_may_end.set()
            results = await replies.all(3)
            assert [float(answer(result)[0, 0]) for result in results] == [2, 4, 6]

    play(scenario)


# --- threads ------------------------------------------------------------------------------------


def test_instances_run_at_the_same_time() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add(config(max_batch_size=1, instances=3))
            at.runtime.hold()
            replies = at.submit(*[request(value=value) for value in range(5)])
            await at.runs(3)
            assert len({run.thread for run in at.runtime.runs}) == 3
            at.runtime.release()
            await replies.all(5)
            assert sorted(values_of_runs(at)) == [0, 1, 2, 3, 4]

    play(scenario)


SHORT = tuple((rows, 0.0001) for rows in (1, 2, 4, 8))
"""Costs that let a model share the thread of its device."""


def shared_runtime(**seconds: float) -> tuple[FakeRuntime, FakeClock]:
    """Models by name whose runs take these seconds of a clock that only they move."""
    clock = FakeClock()

    def costing(cost: float) -> FakeModel:
        return FakeModel(seconds=lambda rows: cost)

    models = {name: costing(cost) for name, cost in seconds.items()}
    return FakeRuntime(models=models, clock=clock, sleep=clock.advance), clock


async def race(at: Serving, first: str, **counts: int) -> list[str]:
    """Queues requests to several models behind a held run; gives the names in running order."""
    at.runtime.forget()
    replies = await held(at, request(model=first))
    for name, count in counts.items():
        at.submit(*[request(model=name) for _ in range(count)], to=replies)
    await asyncio.sleep(0)  # the bells ring
    at.runtime.release()
    await replies.all(1 + sum(counts.values()))
    names = {id(model): name for name, model in at.runtime.models.items()}
    return [names[id(run.session.model)] for run in at.runtime.runs]


def add_shared(at: Serving, *names: str) -> dict[str, ServedModel]:
    return {name: at.add(config(name, max_batch_size=1), costs=SHORT) for name in names}


def used(order: list[str], name: str, seconds: float) -> float:
    return order.count(name) * seconds


def test_an_executor_that_stumbles_goes_on() -> None:
    stumbles = threading.Event()

    def clock() -> float:
        if stumbles.is_set() and threading.current_thread() is not threading.main_thread():
            stumbles.clear()
            raise ValueError("no time")
        return time.monotonic()

    async def scenario() -> None:
        async with serving(clock=clock) as at:
            at.add()
            await at.submit(request()).all(1)
            stumbles.set()
            replies = at.submit(request(value=3))
            np.testing.assert_array_equal(answer((await replies.all(1))[0]), 2 * numbers(1, 3))
            assert not stumbles.is_set()

    play(scenario)


def test_small_models_share_a_thread_by_the_time_they_take() -> None:
    cost = {"dear": 0.0009, "cheap": 0.0001}
    runtime, clock = shared_runtime(**cost)

    async def scenario() -> None:
        async with serving(runtime=runtime, clock=clock) as at:
            add_shared(at, *cost)
            order = await race(at, "cheap", dear=40, cheap=360)
            assert len({run.thread for run in runtime.runs}) == 1
            for length in range(1, 200):  # while both have work
                part = order[:length]
                shares = [used(part, name, seconds) for name, seconds in cost.items()]
                assert abs(shares[0] - shares[1]) < 0.0021

    play(scenario)


def test_a_model_that_had_the_thread_alone_owes_nothing_for_it() -> None:
    runtime, clock = shared_runtime(old=0.0009, new=0.0009)

    async def scenario() -> None:
        async with serving(runtime=runtime, clock=clock) as at:
            add_shared(at, "old", "new")
            await at.submit(*[request(model="old") for _ in range(200)]).all(200)
            order = await race(at, "new", old=20, new=20)
            assert order[:10].count("old") in (4, 5, 6)

    play(scenario)


def test_a_model_whose_queue_runs_empty_keeps_its_debt() -> None:
    runtime, clock = shared_runtime(dear=0.010, cheap=0.0001)

    async def scenario() -> None:
        async with serving(runtime=runtime, clock=clock) as at:
            add_shared(at, "dear", "cheap")
            replies = await held(at, request(model="cheap"))
            at.submit(*[request(model="cheap") for _ in range(400)], to=replies)
            at.submit(request(model="dear"), to=replies)

            def again(result: object) -> None:
                at.submit(request(model="dear"), to=replies)

            at.engine.submit(request(model="dear"), again)
            await asyncio.sleep(0)
            at.runtime.release()
            await replies.all(403)
            names = {id(model): name for name, model in at.runtime.models.items()}
            order = [names[id(run.session.model)] for run in at.runtime.runs]
            places = [place for place, name in enumerate(order) if name == "dear"]
            assert len(places) == 3
            assert min(after - before for before, after in pairwise(places)) >= 90

    play(scenario)


# --- the whole ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("instances", [1, 3])
def test_a_thousand_requests_with_cancels_are_answered_right_and_once(instances: int) -> None:
    async def scenario() -> None:
        chance = random.Random(instances)
        async with serving() as at:
            served = at.add(config(max_batch_size=16, instances=instances))
            sent: list[tuple[int, float, Replies]] = []
            cancelled = set()
            for number in range(1000):
                rows, value = chance.randint(1, 40), float(chance.randint(0, 10_000))
                sent.append((rows, value, at.submit(request(rows, value))))
                if chance.random() < 0.2:
                    victim = chance.randrange(number + 1)
                    at.cancels[victim]()
                    cancelled.add(victim)
                if chance.random() < 0.1:
                    await asyncio.sleep(0)
            for number, (rows, value, replies) in enumerate(sent):
                await replies.all(1)
                if number in cancelled and isinstance(replies.only, Cancelled):
                    continue
                np.testing.assert_array_equal(answer(replies.only), 2 * numbers(rows, value))
            statistics = served.statistics
            assert statistics.success_count + statistics.failure_count == 1000
            assert statistics.queue_ns >= 0
            assert max(rows_of_runs(at)) <= 16

    play(scenario)


# --- questions ----------------------------------------------------------------------------------


def test_the_engine_tells_what_it_serves() -> None:
    async def scenario() -> None:
        async with serving() as at:
            second, first = at.add(version=2), at.add(version=1)
            metadata = at.engine.metadata("m")
            assert (metadata.name, metadata.versions, metadata.platform) == (
                "m",
                ("1", "2"),
                PLATFORM,
            )
            assert metadata.inputs == (TensorSpec("x", DataType.FP32, (-1, 4)),)
            assert metadata.outputs == (TensorSpec("y", DataType.FP32, (-1, 4)),)
            assert at.engine.metadata("m", "1").versions == ("1",)
            assert at.engine.config("m") is second.plan.config
            assert at.engine.statistics() == [first.statistics, second.statistics]
            assert at.engine.statistics("m") == [first.statistics, second.statistics]
            assert at.engine.statistics("m", "1") == [first.statistics]
            assert at.engine.ready() == Readiness(True)
            assert at.engine.ready("m", "2") == Readiness(True)
            unknown = at.engine.ready("x")
            assert not unknown.ready
            assert unknown.reasons == ("Request for unknown model: 'x' is not found",)
            with pytest.raises(InvalidRequest):
                at.engine.ready("x", "one")

    play(scenario)


def test_a_request_that_reaches_no_version_is_refused_and_counted() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.registry.set_state(ModelVersion("loading", 1), VersionState.LOADING)
            assert isinstance(at.submit(request(model="x")).only, ModelNotFound)
            assert isinstance(at.submit(request(model="loading")).only, ModelNotReady)
            assert at.unrouted.unrouted[UnroutedReason.UNKNOWN_MODEL] == 1
            assert at.unrouted.unrouted[UnroutedReason.NOT_READY] == 1
            at.cancels[0]()

    play(scenario)


def test_a_request_gets_the_version_that_it_names() -> None:
    async def scenario() -> None:
        async with serving() as at:
            at.add(version=1)
            at.add(version=2)
            results = [
                (await at.submit(changed(request(), version=version)).all(1))[0]
                for version in ("", "1", "2")
            ]
            assert [result.version for result in results if isinstance(result, InferResponse)] == [
                "2",
                "1",
                "2",
            ]

    play(scenario)
