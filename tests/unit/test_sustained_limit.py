"""A model whose batches are larger while a backlog lasts: what else in the engine knows of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from stoker.engine.backlog import REST_S
from stoker.engine.forecast import RunSizes
from stoker.engine.row_limit import GROW_AFTER_S, LEAST_RUNS
from stoker.engine.served_model import ServedModel
from stoker.engine.watchdog import HUNG_FACTOR, hung_after
from stoker.errors import DeadlineExceeded, ExecutionFailed, Overloaded

from tests.engine_parts import Replies, Serving, changed, config, play, request, serving
from tests.fake_runtime import FakeClock, FakeModel, FakeRuntime

SILENT = replace(config(max_batch_size=4), batching_is_explicit=False, batch_size_is_explicit=False)


def cost(rows: int) -> float:
    """A row costs 1.1 s alone and 1.0125 s in a batch of eight."""
    return 0.1 + rows


COSTS = tuple((rows, cost(rows)) for rows in (1, 2, 4, 8, 16, 32))


class Scene:
    """A model on a clock that only runs move; every run is held until `step`."""

    def __init__(self, at: Serving, clock: FakeClock) -> None:
        self.at = at
        self.clock = clock
        self.served = at.add(SILENT, costs=COSTS)
        self.replies = Replies()
        self.submitted = 0

    def submit(self, count: int, *, value: float = 1.0, seconds: float | None = None) -> None:
        one = request(value=value)
        if seconds is not None:
            one = changed(one, deadline=self.clock.now + seconds)
        self.at.submit(*[one for _ in range(count)], to=self.replies)
        self.submitted += count

    async def begin(self, waiting: int, *, seconds: float | None = None) -> None:
        """One request, which has so many seconds, is inside its run; so many wait."""
        self.at.runtime.hold()
        self.submit(1, seconds=seconds)
        await self.at.runs(1)
        self.submit(waiting)

    async def step(self) -> None:
        """The run under way ends, the next one begins, and the loop has heard of the first."""
        await asyncio.sleep(0)  # what was submitted in this turn of the loop is queued at its end
        begun = len(self.at.runtime.runs)
        answered = sum(run.rows for run in self.at.runtime.runs)
        self.at.runtime.step()
        await self.at.runs(begun + 1)
        await self.replies.all(answered)

    async def pile_up(self) -> None:
        """A run of eight rows has begun, and eight requests wait."""
        await self.begin(waiting=16)
        await self.step()
        self.submit(8)
        await self.step()
        assert self.rows == [1, 1, 8]

    @property
    def rows(self) -> list[int]:
        return [run.rows for run in self.at.runtime.runs]


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    clock = FakeClock()
    runtime = FakeRuntime(FakeModel(seconds=cost), clock=clock, sleep=clock.advance)
    async with serving(runtime=runtime, clock=clock) as at:
        made = Scene(at, clock)
        yield made
        at.runtime.release()
        await made.replies.all(made.submitted)


def limits(served: ServedModel) -> tuple[int, int, RunSizes]:
    return served.policy.max_rows, served.policy.sustained_rows, served.costs.sizes


def test_a_wait_is_predicted_for_runs_at_the_knee_and_knows_the_long_one_under_way() -> None:
    async def scenario() -> None:
        async with scene() as at:
            assert limits(at.served) == (1, 8, RunSizes(1, 4))
            await at.pile_up()
            wait = at.served.predicted_wait(at.clock.now)
            waiting = at.submitted - sum(at.rows)
            assert wait == pytest.approx(cost(8) + waiting * cost(1))

    play(scenario)


def test_a_large_batch_is_run_by_bindings_as_a_small_one_is() -> None:
    async def scenario() -> None:
        async with scene() as at:
            await at.pile_up()
            assert [run.into for run in at.at.runtime.runs[1:]] == [("y",), ("y",)]

    play(scenario)


def test_a_long_run_is_not_taken_for_one_that_hangs() -> None:
    async def scenario() -> None:
        async with scene() as at:
            assert hung_after(at.served, 8, 0.0) == pytest.approx(HUNG_FACTOR * cost(8))

    play(scenario)


def test_memory_that_runs_out_bounds_both_limits_and_gives_them_back() -> None:
    async def scenario() -> None:
        async with scene() as at:
            served = at.served
            served.batch_limit.ran_out(8)
            assert limits(served) == (1, 4, RunSizes(1, 4))
            served.batch_limit.ran_out(3)
            assert limits(served) == (1, 0, RunSizes(1, 1))
            for rows in (1, 2, 4):
                at.clock.advance(GROW_AFTER_S)
                for _ in range(LEAST_RUNS):
                    served.batch_limit.fitted(rows)
            assert limits(served) == (1, 8, RunSizes(1, 4))
            assert not served.batch_limit.is_lowered

    play(scenario)


def test_a_deadline_that_a_long_run_would_miss_keeps_it_short_and_others_do_not() -> None:
    async def scenario() -> None:
        async with scene() as at:
            await at.begin(waiting=8)
            await at.step()
            at.submit(1, seconds=1.2 * cost(8))  # in time behind seven runs of one row
            at.submit(7)
            await at.step()
            assert at.rows == [1, 1, 1]
            for _ in range(3):  # what a run takes is known when the loop has seen one end
                at.submit(8, seconds=100 * cost(8))
                await at.step()
            assert at.rows[-1] == 8
            run_time = at.served.waiting.run_time
            assert run_time is not None
            assert run_time.sustained == pytest.approx(cost(8))

    play(scenario)


def test_after_a_refusal_for_want_of_time_runs_are_short_for_a_while() -> None:
    async def scenario() -> None:
        async with scene() as at:
            await at.begin(waiting=16)
            await at.step()
            at.submit(8)
            hasty = at.at.submit(changed(request(), deadline=at.clock.now + 2.0))
            assert isinstance((await hasty.all(1))[0], Overloaded)
            for _ in range(5):
                await at.step()
                at.submit(8)
            assert at.rows == [1] * 7
            at.clock.advance(REST_S)
            await at.step()
            at.submit(8)
            await at.step()
            assert at.rows == [1] * 8 + [8]

    play(scenario)


def test_after_a_run_that_failed_runs_are_short_for_a_while() -> None:
    async def scenario() -> None:
        async with scene() as at:
            at.at.runtime.model.fail = lambda feeds: (
                ExecutionFailed("seven") if 7 in feeds["x"] else None
            )
            at.at.runtime.hold()
            at.submit(1, value=7)
            await at.at.runs(1)
            at.submit(16)
            for _ in range(6):
                await at.step()
                at.submit(8)
            assert isinstance(at.replies.results[0], ExecutionFailed)
            assert at.rows == [1] * 7
            at.clock.advance(REST_S)
            await at.step()
            at.submit(8)
            await at.step()
            assert at.rows == [1] * 8 + [8]

    play(scenario)


def test_after_a_request_that_was_late_runs_are_short_for_a_while() -> None:
    async def scenario() -> None:
        async with scene() as at:
            await at.begin(waiting=16, seconds=0.01)
            at.clock.advance(0.02)
            (late,) = await at.replies.all(1)
            assert isinstance(late, DeadlineExceeded)
            await at.step()
            at.submit(8)
            await at.step()
            assert at.rows == [1, 1, 1]

    play(scenario)
