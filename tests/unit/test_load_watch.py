"""Runs that do not end while a model is loaded: when that is told, and what it is on a GPU."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from stoker.engine.load_watch import HUNG_LOAD_AFTER_S, LoadWatch
from stoker.errors import DeviceFailed, Reach
from stoker.lifecycle.measurements import measure_costs
from stoker.lifecycle.watched_session import WatchedSession
from stoker.model import ModelVersion
from stoker.runtime.cuda_graphs import GraphSupport
from stoker.runtime.independence import Independence
from stoker.runtime.session import Placement

from tests.engine_parts import PATIENCE, config, play, serving
from tests.fake_runtime import FakeClock, FakeModel, FakeRuntime

M = ModelVersion("m", 1)
Told = tuple[ModelVersion, str, DeviceFailed]


class Scene:
    def __init__(self, limit_s: float) -> None:
        self.clock = FakeClock()
        self.told: list[Told] = []
        self.watch = LoadWatch(
            asyncio.get_running_loop(),
            lambda *told: self.told.append(told),
            limit_s=limit_s,
            clock=self.clock,
        )

    def passes(self, seconds: float, *, every: float = 5.0) -> None:
        for _ in range(round(seconds / every)):
            self.clock.advance(every)
            self.watch.look()


@asynccontextmanager
async def scene(limit_s: float = HUNG_LOAD_AFTER_S) -> AsyncIterator[Scene]:
    made = Scene(limit_s)
    try:
        yield made
    finally:
        made.watch.close()


def test_a_run_that_hangs_on_the_cpu_is_logged_and_counted_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        async with scene() as here:
            with here.watch.step(M, "cpu", "a run of the warm-up"):
                here.passes(HUNG_LOAD_AFTER_S - 5)
                assert not here.watch.hung
                here.passes(3600)
            assert here.watch.hung == {M: 1}
            assert not here.told

    play(scenario)
    (said,) = [each.getMessage() for each in caplog.records if "has not ended" in each.message]
    assert said == (
        "a run of the warm-up of 'm' v1 on cpu has not ended after 300 s; while a model is loaded "
        "a run may take 300 s, --hung-load-timeout"
    )


def test_a_run_that_hangs_on_a_gpu_is_a_fault_of_the_process() -> None:
    async def scenario() -> None:
        async with scene() as here:
            with here.watch.step(M, "cuda:0", "a run of the warm-up"):
                here.passes(HUNG_LOAD_AFTER_S)
            ((identity, device, fault),) = here.told
            assert (identity, device, fault.reach) == (M, "cuda:0", Reach.PROCESS)

    play(scenario)


def test_runs_that_end_one_after_the_other_never_hang() -> None:
    async def scenario() -> None:
        async with scene() as here:
            for _ in range(5):
                with here.watch.step(M, "cuda:0", "a run of the warm-up"):
                    here.passes(HUNG_LOAD_AFTER_S - 5)
            here.passes(HUNG_LOAD_AFTER_S)
            assert not here.told

    play(scenario)


def test_the_runs_of_one_step_have_the_limit_each() -> None:
    async def scenario() -> None:
        async with scene() as here:
            with here.watch.step(M, "cuda:0", "a run of the measuring") as next_run:
                for _ in range(5):
                    here.passes(HUNG_LOAD_AFTER_S - 5)
                    next_run()
                assert not here.told
                here.passes(HUNG_LOAD_AFTER_S + 5)
            assert len(here.told) == 1

    play(scenario)


def test_each_run_by_which_the_cost_is_measured_is_told_to_the_watch() -> None:
    """A model that takes a minute a run is no hung one: its curve takes six of them."""
    said: list[str] = []

    def run(feeds: object) -> None:
        said.append("run")

    runtime = FakeRuntime(FakeModel(fail=run))
    placement = Placement("cpu", 1, 1)
    session = runtime.open(Path("m.onnx"), config(), placement)
    profile = measure_costs(
        [(placement, session)],
        config(),
        Independence.INDEPENDENT,
        Path(),
        budget_s=10.0,
        next_run=lambda: said.append("next"),
    )
    assert len(profile.costs) > 2
    assert said.count("run") >= 5 * len(profile.costs)
    assert not any(pair == ("run", "run") for pair in pairwise(said))


def test_time_that_the_process_slept_through_accuses_nobody() -> None:
    async def scenario() -> None:
        async with scene() as here:
            with here.watch.step(M, "cuda:0", "a run of the warm-up"):
                here.passes(36_000, every=3600)
                assert not here.told

    play(scenario)


def test_a_limit_of_zero_watches_nothing() -> None:
    async def scenario() -> None:
        async with scene(0) as here:
            with here.watch.step(M, "cuda:0", "a run of the warm-up"):
                here.passes(36_000)
            assert not here.told

    play(scenario)


@contextmanager
def held(watch: LoadWatch) -> Iterator[None]:
    """A step on a thread of its own, which hangs until the block ends."""
    entered, may_end = threading.Event(), threading.Event()

    def hang() -> None:
        with watch.step(M, "cuda:0", "a run of the warm-up"):
            entered.set()
            may_end.wait(PATIENCE)

    thread = threading.Thread(target=hang)
    thread.start()
    assert entered.wait(PATIENCE)
    try:
        yield
    finally:
        may_end.set()
        thread.join()


def test_a_step_of_another_thread_is_seen_by_the_loops_own_timer() -> None:
    async def scenario() -> None:
        told: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        watch = LoadWatch(
            asyncio.get_running_loop(), lambda *each: told.set_result(each), limit_s=0.02
        )
        with held(watch):
            identity, _, _ = await asyncio.wait_for(told, PATIENCE)
        assert identity == M
        watch.close()
        with watch.step(M, "cuda:0", "a run at the very end"):
            pass

    play(scenario)


def test_each_run_of_a_watched_session_is_a_step_and_it_answers_as_the_session_does() -> None:
    session = FakeRuntime().open(Path("m.onnx"), config(), Placement("cpu", 1, 1))
    inside: list[str] = []

    @contextmanager
    def watch() -> Iterator[None]:
        inside.append("enter")
        yield
        inside.append("leave")

    watched = WatchedSession(session, watch)
    x = np.ones((2, 4), np.float32)
    (y,) = watched.run({"x": x}, ["y"])
    np.testing.assert_array_equal(y, 2 * x)
    assert inside == ["enter", "leave"]
    for name in ("inputs", "outputs", "dimension_names", "unranked", "device", "report"):
        assert getattr(watched, name) == getattr(session, name)
    assert (watched.memory, watched.graphs) == (session.memory, session.graphs)


def test_the_engine_has_the_making_of_bindings_and_graphs_watched() -> None:
    async def scenario() -> None:
        hangs = threading.Event()

        def hang(rows: int) -> None:
            hangs.wait(PATIENCE)

        model = FakeModel(graphs=GraphSupport(is_wanted=True), capture_error=hang)
        runtime = FakeRuntime(model, placements=(Placement("cuda:0", 1, 1),))
        told: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        watch = LoadWatch(
            asyncio.get_running_loop(), lambda *each: told.set_result(each), limit_s=0.02
        )
        async with serving(runtime=runtime, load_watch=watch) as at:
            preparing = asyncio.create_task(at.engine.prepare(at.add()), name="prepare")
            try:
                _, device, fault = await asyncio.wait_for(told, PATIENCE)
            finally:
                hangs.set()
            await preparing
            assert device == "cuda:0"
            assert fault.message.startswith(
                "a run of the making of bindings and CUDA graphs of 'm'"
            )
        watch.close()

    play(scenario)
