"""Runs that do not end: when one is told to hang, and what follows on a GPU and on the CPU."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.execution import Runner
from stoker.engine.served_model import ServedModel
from stoker.engine.watchdog import (
    HUNG_AFTER_S,
    HUNG_FACTOR,
    LONG_RUN_S,
    LongRuns,
    Watchdog,
    hung_after,
)
from stoker.errors import DeviceFailed, Reach
from stoker.request import InferResponse
from stoker.runtime.session import Placement

from tests.engine_parts import Replies, Serving, config, play, request, serving
from tests.fake_runtime import FakeClock, FakeRuntime

CURVE = ((1, 2.0), (8, 16.0))
"""Runs that take seconds: their limits are above the floor."""


class Scene:
    def __init__(self, at: Serving, clock: FakeClock) -> None:
        self.at = at
        self.clock = clock
        self.dog = Watchdog(asyncio.get_running_loop(), clock=clock)
        self.told: list[DeviceFailed] = []

    def add(self, costs: tuple[tuple[int, float], ...] = ()) -> ServedModel:
        served = self.at.add(config(), costs=costs)
        served.on_device_failed = self.told.append
        self.dog.watch(served)
        return served

    async def hang(self, rows: int = 1) -> Replies:
        self.at.runtime.hold()
        replies = self.at.submit(request(rows=rows))
        await self.at.runs(1)
        return replies

    def watch(self, seconds: float, *, every: float = 5.0) -> None:
        for _ in range(round(seconds / every)):
            self.clock.advance(every)
            self.dog.look()


@asynccontextmanager
async def scene(device: str = "cpu") -> AsyncIterator[Scene]:
    clock = FakeClock()
    runtime = FakeRuntime(placements=(Placement(device, 1, 1),))
    async with serving(runtime=runtime, clock=clock) as at:
        made = Scene(at, clock)
        try:
            yield made
        finally:
            made.dog.close()
            runtime.release()


def test_a_hung_run_on_the_cpu_is_counted_once_and_goes_on() -> None:
    async def scenario() -> None:
        async with scene() as here:
            served = here.add()
            replies = await here.hang()
            here.watch(HUNG_AFTER_S - 5)
            assert served.statistics.hung_runs == 0
            here.watch(5)
            assert served.statistics.hung_runs == 1
            here.watch(600)
            assert served.statistics.hung_runs == 1
            here.at.runtime.release()
            await replies.all(1)
            assert isinstance(replies.only, InferResponse)
            assert not here.told

    play(scenario)


def test_a_hung_run_on_a_gpu_is_a_fault_of_the_process_and_its_requests_are_answered() -> None:
    async def scenario() -> None:
        async with scene("cuda:0") as here:
            here.add()
            replies = await here.hang(rows=3)
            here.watch(HUNG_AFTER_S)
            assert isinstance(replies.only, DeviceFailed)
            (cause,) = here.told
            assert cause.reach is Reach.PROCESS
            assert "a run of 3 row(s) of 'm' v1 on cuda:0" in cause.message

    play(scenario)


class Preparing:
    """Implements `Runner` for a batch that waits until another session is prepared."""

    is_preparing = True

    def __init__(self, runner: Runner) -> None:
        self.session = runner.session
        self.sizes = runner.sizes
        self.prepare = runner.prepare
        self.execute = runner.execute
        self.lone = runner.lone


def test_a_batch_that_waits_for_a_faster_session_to_be_prepared_is_no_hung_run() -> None:
    """That takes many runs, of many sizes: each has a limit of its own."""

    async def scenario() -> None:
        async with scene("cuda:0") as here:
            served = here.add()
            (instance,) = served.instances
            await here.hang()
            runner = instance.execution
            here.watch(HUNG_AFTER_S - 5)
            instance.execution = Preparing(runner)
            here.watch(3600)
            assert not here.told
            instance.execution = runner
            here.watch(HUNG_AFTER_S - 5)
            assert not here.told
            here.watch(5)
            assert len(here.told) == 1

    play(scenario)


def test_a_model_whose_runs_take_seconds_has_a_limit_of_its_own() -> None:
    async def scenario() -> None:
        async with scene("cuda:0") as here:
            here.add(CURVE)
            await here.hang()
            here.watch(2.0 * HUNG_FACTOR - 5)
            assert not here.told
            here.watch(5)
            assert len(here.told) == 1

    play(scenario)


def test_the_limit_grows_with_the_rows_of_the_run() -> None:
    async def scenario() -> None:
        async with scene() as here:
            served = here.add(CURVE)
            assert hung_after(served, 1, HUNG_AFTER_S) == 100.0
            assert hung_after(served, 8, HUNG_AFTER_S) == 800.0

    play(scenario)


def test_long_runs_that_were_seen_lift_the_limit() -> None:
    async def scenario() -> None:
        async with scene() as here:
            served = here.add()
            assert hung_after(served, 4, HUNG_AFTER_S) == HUNG_AFTER_S
            served.long_runs.observe(4, 7.0)
            assert hung_after(served, 3, HUNG_AFTER_S) == 7.0 * HUNG_FACTOR
            assert hung_after(served, 5, HUNG_AFTER_S) == HUNG_AFTER_S

    play(scenario)


def test_time_in_which_the_process_was_stopped_accuses_nobody() -> None:
    async def scenario() -> None:
        async with scene("cuda:0") as here:
            here.add()
            await here.hang()
            here.watch(20)
            here.watch(3600, every=3600)
            here.watch(25)
            assert not here.told
            here.watch(10)
            assert len(here.told) == 1

    play(scenario)


def test_runs_that_end_and_begin_again_are_no_hung_run() -> None:
    async def scenario() -> None:
        async with scene("cuda:0") as here:
            here.add()
            replies = Replies()
            here.at.runtime.hold()
            for number in range(1, 10):
                here.at.submit(request(), to=replies)
                await here.at.runs(number)
                here.watch(50)
                here.at.runtime.step()
                await replies.all(number)
            assert not here.told

    play(scenario)


def test_a_model_that_is_gone_is_not_watched() -> None:
    async def scenario() -> None:
        async with scene("cuda:0") as here:
            served = here.add()
            await here.hang()
            here.dog.forget(served)
            here.watch(600)
            assert not here.told

    play(scenario)


def test_the_engine_watches_the_models_that_it_serves() -> None:
    async def scenario() -> None:
        runtime = FakeRuntime(placements=(Placement("cuda:0", 1, 1),))
        async with serving(runtime=runtime, hung_run_s=0.05) as at:
            served = at.add()
            failed: asyncio.Future[DeviceFailed] = asyncio.get_running_loop().create_future()
            served.on_device_failed = failed.set_result
            runtime.hold()
            replies = at.submit(request())
            cause = await asyncio.wait_for(failed, 10)
            runtime.release()
            assert "has not ended" in cause.message
            assert isinstance(replies.only, DeviceFailed)

    play(scenario)


@pytest.mark.parametrize(
    ("long", "runs", "p99"),
    [
        ([], 1000, 0.0),
        ([5.0], 1000, 0.0),
        ([5.0] * 10, 1000, 0.0),
        ([2.0] * 10 + [5.0], 1000, 2.0),
        ([float(n) for n in range(2, 102)], 100, 100.0),
        ([3.0], 1, 3.0),
        ([3.0], 0, 3.0),
    ],
)
def test_the_99th_percentile_counts_the_short_runs_that_nobody_remembers(
    long: list[float], runs: int, p99: float
) -> None:
    seen = LongRuns()
    for seconds in long:
        seen.observe(1, seconds)
    assert seen.p99(1, runs) == p99


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=200))
def test_the_percentile_is_that_of_all_runs(seconds: list[float]) -> None:
    seen = LongRuns()
    for each in seconds:
        if each > LONG_RUN_S:
            seen.observe(1, each)
    beyond = sum(each > seen.p99(1, len(seconds)) for each in seconds if each > LONG_RUN_S)
    assert beyond <= len(seconds) / 100 + 1
