"""A faster session is prepared while the version serves, proved, and swapped in between batches."""

import asyncio
import errno
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stoker.device import DeviceReport
from stoker.engine.load_watch import LoadWatch, NextRun
from stoker.engine.opened_version import FasterWay, OpenedVersion, Profile, RefusedWay
from stoker.engine.served_model import ServedModel
from stoker.errors import DeviceFailed, ExecutionFailed, OutOfMemory, Reach, ServingError
from stoker.lifecycle.memory_fit import MemoryFit
from stoker.lifecycle.upgrade import UpgradeState
from stoker.lifecycle.upgrades import Upgrades
from stoker.model import ModelConfig, ModelVersion, VersionState
from stoker.runtime.agreement import record
from stoker.runtime.buckets import MOST_BUCKETS
from stoker.runtime.independence import Independence
from stoker.runtime.memory import MemoryReading
from stoker.runtime.session import Placement
from stoker.tensor import Array

from tests.engine_parts import PATIENCE, Serving, answer, config, numbers, play, request, serving
from tests.fake_candidate import FakeCandidate, failing, nearly_double
from tests.fake_runtime import FakeClock, FakeModel, FakeRuntime

M = ModelVersion("m", 1)


class Scene:
    """An engine whose versions may have candidates."""

    def __init__(self, at: Serving, *, last_step_s: float = PATIENCE) -> None:
        self.at = at
        self.clock = FakeClock()
        self.changed = asyncio.Event()
        self.watched: list[tuple[ModelVersion, str, str]] = []
        self.free: int | None = None
        """Bytes of the device, of 100; None: cannot be read."""
        self.upgrades = Upgrades(
            at.engine,
            asyncio.get_running_loop(),
            memory=MemoryFit(self.reading),
            watch=self.watch,
            on_change=self.changed.set,
            clock=self.clock,
            last_step_s=last_step_s,
        )

    @contextmanager
    def watch(self, identity: ModelVersion, device: str, what: str) -> Iterator[Callable[[], None]]:
        self.watched.append((identity, device, what))
        yield lambda: None

    def reading(self, device: str) -> MemoryReading | None:
        return None if self.free is None else MemoryReading(100, 100 - self.free)

    def add(
        self,
        candidate: FakeCandidate | RefusedWay,
        model: ModelConfig | None = None,
        *,
        costs: Sequence[tuple[int, float]] = (),
    ) -> ServedModel:
        """Serves a model that has a candidate, or should have had one."""
        at, model = self.at, model or config()
        sessions = [
            (placement, at.runtime.open(Path("model.onnx"), model, placement))
            for placement in at.runtime.place(model)
        ]
        way: FasterWay | RefusedWay
        if isinstance(candidate, RefusedWay):
            way = candidate
        else:
            expected = record(sessions[0][1], model, Path(), candidate.corners())
            way = FasterWay(candidate, expected)
        at.runtime.forget()
        identity = ModelVersion(model.name, 1)
        opened = OpenedVersion(
            identity, model, sessions, Profile(costs, 4), Independence.INDEPENDENT, faster=way
        )
        served = at.engine.host(opened)
        at.registry.set_state(identity, VersionState.LOADING)
        at.registry.set_state(identity, VersionState.READY, served=served)
        self.upgrades.add(served, opened)
        return served

    async def until(self, state: UpgradeState, identity: ModelVersion = M) -> None:
        """Returns when the version's candidate is in this state."""
        async with asyncio.timeout(PATIENCE):
            while self.upgrades.states()[identity] is not state:
                self.changed.clear()
                await self.changed.wait()

    async def infer(self, rows: int = 1, value: float = 1.0, model: str = "m") -> Array:
        """The answer to one request."""
        return answer(await self.at.engine.infer(request(rows, value, model=model)))


@asynccontextmanager
async def upgrading(*candidates: FakeCandidate) -> AsyncIterator[Scene]:
    async with serving() as at:
        scene = Scene(at)
        try:
            yield scene
        finally:
            for candidate in candidates:
                candidate.release()
            assert await scene.upgrades.close(runs_have_ended=True)


def exact(rows: int, value: float) -> Array:
    return 2 * numbers(rows, value)


def rounded(rows: int, value: float) -> Array:
    return nearly_double({"x": numbers(rows, value)})["y"]


def test_the_version_serves_as_it_is_until_the_candidate_is_proved_and_then_by_the_candidate() -> (
    None
):
    async def scenario() -> None:
        candidate = FakeCandidate()
        candidate.hold()
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            scene.upgrades.begin()
            await asyncio.to_thread(candidate.wait_for_build)
            np.testing.assert_array_equal(await scene.infer(2, 5), exact(2, 5))
            assert scene.upgrades.states() == {M: UpgradeState.BUILDING}
            candidate.release()
            await scene.until(UpgradeState.SERVING)
            np.testing.assert_array_equal(await scene.infer(2, 5), rounded(2, 5))
            assert candidate.kept == 1
            assert candidate.discarded == 0

    play(scenario)


def test_a_run_under_way_at_the_swap_ends_where_it_began_and_the_next_is_faster() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate()
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            scene.at.runtime.hold()
            first = scene.at.submit(request(value=5))
            await scene.at.runs(1)
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING)
            second = scene.at.submit(request(value=6), request(value=7))
            scene.at.runtime.release()
            await first.all(1)
            await second.all(2)
            np.testing.assert_array_equal(answer(first.only), exact(1, 5))
            np.testing.assert_array_equal(answer(second.results[0]), rounded(1, 6))
            np.testing.assert_array_equal(answer(second.results[1]), rounded(1, 7))

    play(scenario)


def test_a_stream_of_requests_loses_none_at_the_swap() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate()
        candidate.hold()
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            scene.upgrades.begin()
            kinds = set()
            sent = 0
            while UpgradeState.SERVING not in scene.upgrades.states().values() or sent % 50:
                made = await scene.infer(1, sent)
                is_exact = np.array_equal(made, exact(1, sent))
                assert is_exact or np.array_equal(made, rounded(1, sent))
                kinds.add(is_exact)
                sent += 1
                if sent == 100:
                    candidate.release()
            made = await scene.infer(1, 3)
            np.testing.assert_array_equal(made, rounded(1, 3))
            assert True in kinds

    play(scenario)


def test_shapes_that_the_candidate_does_not_cover_stay_where_they_were() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate(most_rows=4)
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING)
            np.testing.assert_array_equal(await scene.infer(5, 1), exact(5, 1))
            np.testing.assert_array_equal(await scene.infer(4, 1), rounded(4, 1))

    play(scenario)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DeviceFailed("libnvinfer.so.10 not found"), "libnvinfer.so.10 not found"),
        (OutOfMemory("no room for two"), "no room for two"),
        (ExecutionFailed("no kernel"), "no kernel"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "a file or folder that it needs cannot be used: No space left on device",
        ),
        (KeyError("never foreseen"), "internal error; the server's log has the details"),
    ],
)
def test_a_build_that_fails_leaves_the_version_as_it_was_with_the_reason(
    error: Exception, reason: str
) -> None:
    async def scenario() -> None:
        candidate = FakeCandidate(error=error)
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            scene.upgrades.begin()
            await scene.until(UpgradeState.FAILED)
            np.testing.assert_array_equal(await scene.infer(2, 5), exact(2, 5))
            assert scene.upgrades.sentences() == (f"model 'm' v1: TensorRT: failed: {reason}",)
            assert candidate.kept == 0
            assert candidate.discarded == 1

    play(scenario)


def test_a_build_that_breaks_the_device_for_the_process_is_told_as_the_devices_failure() -> None:
    async def scenario() -> None:
        dead = DeviceFailed("an illegal address was accessed", reach=Reach.PROCESS)
        candidate = failing(dead)
        async with upgrading(candidate) as scene:
            served = scene.add(candidate)
            told: asyncio.Future[DeviceFailed] = asyncio.get_running_loop().create_future()
            served.on_device_failed = told.set_result
            scene.upgrades.begin()
            async with asyncio.timeout(PATIENCE):
                assert await told is dead
            assert (candidate.blamed, candidate.discarded) == (1, 1)
            assert scene.upgrades.states() == {M: UpgradeState.FAILED}

    play(scenario)


def test_sessions_on_a_device_that_a_comparison_broke_are_neither_closed_nor_let_go() -> None:
    """Ending it calls CUDA in a dead context, which may hang with the interpreter's lock held."""

    async def scenario() -> None:
        dead = DeviceFailed("an illegal address was accessed", reach=Reach.PROCESS)
        candidate = FakeCandidate(FakeRuntime(FakeModel(fail=lambda feeds: dead)))
        async with upgrading(candidate) as scene:
            scene.at.runtime.placements = (Placement("cpu", 1, 1), Placement("cpu", 1, 1))
            scene.add(candidate)
            scene.upgrades.begin()
            await scene.until(UpgradeState.FAILED)
            session = weakref.ref(candidate.runtime.sessions[1])
            assert candidate.sessions == [False, False]
            candidate.runtime.sessions.clear()
            gc.collect()
            assert session() is not None

    play(scenario)


def test_a_candidate_that_cannot_fit_beside_the_sessions_that_serve_is_not_built() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate()
        candidate.least = 61
        async with upgrading(candidate) as scene:
            scene.free = 60
            scene.add(candidate)
            scene.upgrades.begin()
            await scene.until(UpgradeState.FAILED)
            assert not candidate.builders
            (said,) = scene.upgrades.sentences()
            assert "it does not fit beside the sessions that serve: it takes 61 bytes" in said
            assert answer(await scene.at.engine.infer(request(1))) is not None

    play(scenario)


def test_the_first_batch_of_a_faster_session_waits_for_few_bindings() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate(most_rows=64)
        async with upgrading(candidate) as scene:
            scene.at.runtime.placements = (Placement("cuda:0", 1, 1),)
            steep = ((1, 0.001), (64, 0.064))
            served = scene.add(candidate, config(max_batch_size=64), costs=steep)
            assert len(served.filled["cuda:0"].sizes) > MOST_BUCKETS
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING)
            candidate.runtime.forget()
            await scene.infer(3, 1)
            warmed = {len(run.feeds["x"]) for run in candidate.runtime.runs}
            assert {1, 64} <= warmed
            assert len(warmed) <= MOST_BUCKETS

    play(scenario)


class NotedWatch(LoadWatch):
    """Notes what is watched."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.noted: list[tuple[str, str]] = []

    @contextmanager
    def step(self, identity: ModelVersion, device: str, what: str) -> Iterator[NextRun]:
        self.noted.append((device, what))
        with super().step(identity, device, what) as next_run:
            yield next_run


def test_each_run_that_the_first_batch_of_a_faster_session_waits_for_is_watched() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate()
        watch = NotedWatch(asyncio.get_running_loop())
        async with serving(load_watch=watch) as at:
            scene = Scene(at)
            at.runtime.placements = (Placement("cuda:0", 1, 1),)
            scene.add(candidate)
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING)
            candidate.runtime.forget()
            await scene.infer(8, 1)
            what = "a run of the making of a faster session's bindings"
            assert watch.noted == [("cuda:0", what)] * (len(candidate.runtime.runs) - 1)
            assert len(watch.noted) > 1
            assert await scene.upgrades.close(runs_have_ended=True)
        watch.close()

    play(scenario)


def test_each_run_of_the_comparison_is_watched() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate()
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING)
            assert set(scene.watched) == {(M, "cpu", "a run of the comparison")}
            assert len(scene.watched) == len(candidate.runtime.runs)

    play(scenario)


def test_what_the_candidates_sessions_took_of_the_device_is_told() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate()
        candidate.least = 60
        candidate.hold()
        async with upgrading(candidate) as scene:
            scene.free = 60
            scene.add(candidate)
            scene.upgrades.begin()
            await asyncio.to_thread(candidate.wait_for_build)
            scene.free = 15
            candidate.release()
            await scene.until(UpgradeState.SERVING)
            assert candidate.preparation.device_bytes == 45

    play(scenario)


def test_a_build_that_fails_of_itself_is_no_failure_of_the_device() -> None:
    async def scenario() -> None:
        candidate = failing(DeviceFailed("no kernel for this GPU", reach=Reach.MODEL))
        async with upgrading(candidate) as scene:
            served = scene.add(candidate)
            told: list[DeviceFailed] = []
            served.on_device_failed = told.append
            scene.upgrades.begin()
            await scene.until(UpgradeState.FAILED)
            np.testing.assert_array_equal(await scene.infer(2, 5), exact(2, 5))
            assert not told

    play(scenario)


def test_a_candidate_with_other_answers_never_serves_and_is_not_kept() -> None:
    async def scenario() -> None:
        def wrong(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
            return {"y": feeds["x"] * np.float32(2.1)}

        candidate = FakeCandidate(FakeRuntime(FakeModel(compute=wrong)))
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            scene.upgrades.begin()
            await scene.until(UpgradeState.FAILED)
            np.testing.assert_array_equal(await scene.infer(2, 5), exact(2, 5))
            (said,) = scene.upgrades.sentences()
            assert "output 'y' differs by 0.048 of its greatest value, and 0.005 is allowed" in said
            assert candidate.sessions == [True]
            assert candidate.kept == 0

    play(scenario)


def test_a_candidate_that_fails_a_comparison_run_does_not_serve() -> None:
    async def scenario() -> None:
        def fail(feeds: Mapping[str, Array]) -> ServingError | None:
            return ExecutionFailed("enqueue failed")

        candidate = FakeCandidate(FakeRuntime(FakeModel(fail=fail)))
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            scene.upgrades.begin()
            await scene.until(UpgradeState.FAILED)
            assert scene.upgrades.sentences()[0].endswith("failed: enqueue failed")

    play(scenario)


def test_a_serving_candidate_that_fails_a_good_request_gives_way_for_good() -> None:
    async def scenario() -> None:
        model = FakeModel(compute=nearly_double)
        candidate = FakeCandidate(FakeRuntime(model))
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING)
            model.fail = lambda feeds: ExecutionFailed("enqueue failed")
            np.testing.assert_array_equal(await scene.infer(2, 5), exact(2, 5))
            assert scene.upgrades.states() == {M: UpgradeState.FAILED}
            (said,) = scene.upgrades.sentences()
            assert said.endswith("failed: a run failed that succeeds without it: enqueue failed")
            model.fail = None
            np.testing.assert_array_equal(await scene.infer(2, 5), exact(2, 5))

    play(scenario)


def test_the_devices_that_metadata_shows_are_those_of_ways_that_are_open() -> None:
    async def scenario() -> None:
        report = DeviceReport("cuda:0", "cuda:0", "TensorrtExecutionProvider")
        model = FakeModel(compute=nearly_double, report=report)
        candidate = FakeCandidate(FakeRuntime(model))
        async with upgrading(candidate) as scene:
            served = scene.add(candidate)
            before = served.devices
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING)
            assert served.devices == (*before, report)
            model.fail = lambda feeds: ExecutionFailed("enqueue failed")
            await scene.infer(2, 5)
            assert served.devices == before

    play(scenario)


def test_a_version_that_broke_is_not_said_to_serve_faster() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate()
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            scene.upgrades.broke(M)  # too early, it goes on as a stop does
            assert scene.upgrades.states() == {M: UpgradeState.STOPPED}
        other = FakeCandidate()
        async with upgrading(other) as scene:
            scene.add(other)
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING)
            scene.upgrades.broke(M)
            assert scene.upgrades.states() == {M: UpgradeState.STOPPED}
            assert scene.upgrades.sentences() == (
                "model 'm' v1: TensorRT: stopped: the version cannot serve any more",
            )
            scene.upgrades.broke(M)
            scene.upgrades.broke(ModelVersion("unknown", 1))

    play(scenario)


def test_every_instance_gets_a_session_of_its_own_where_it_had_one() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate()
        async with upgrading(candidate) as scene:
            served = scene.add(candidate, config(instances=2))
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING)
            scene.at.runtime.hold()
            candidate.runtime.forget()
            candidate.runtime.hold()
            replies = scene.at.submit(request(8, 1))
            await asyncio.to_thread(candidate.runtime.wait_for_run, 1)
            scene.at.submit(request(8, 2), to=replies)
            await asyncio.to_thread(candidate.runtime.wait_for_run, 2)
            assert len({run.thread for run in candidate.runtime.runs}) == 2
            candidate.runtime.release()
            scene.at.runtime.release()
            await replies.all(2)
            assert len(served.instances) == 2

    play(scenario)


def test_nothing_is_built_before_the_start_up_loads_have_ended() -> None:
    async def scenario() -> None:
        candidate, later = FakeCandidate(), FakeCandidate()
        async with upgrading(candidate, later) as scene:
            scene.add(candidate)
            assert scene.upgrades.states() == {M: UpgradeState.WAITING}
            assert not candidate.builders
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING)
            scene.add(later, config("later"))
            await scene.until(UpgradeState.SERVING, ModelVersion("later", 1))

    play(scenario)


def test_one_device_builds_one_version_after_the_other() -> None:
    async def scenario() -> None:
        first, second = FakeCandidate(), FakeCandidate()
        first.hold()
        async with upgrading(first, second) as scene:
            scene.add(first, config("a"))
            scene.add(second, config("b"))
            scene.upgrades.begin()
            await asyncio.to_thread(first.wait_for_build)
            assert scene.upgrades.states()[ModelVersion("b", 1)] is UpgradeState.WAITING
            assert not second.builders
            first.release()
            await scene.until(UpgradeState.SERVING, ModelVersion("b", 1))
            assert first.builders == second.builders == ["prepare-cpu"]

    play(scenario)


def test_readiness_details_tell_how_long_a_build_takes() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate()
        candidate.hold()
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            scene.upgrades.begin()
            await asyncio.to_thread(candidate.wait_for_build)
            scene.clock.advance(40)
            assert scene.upgrades.sentences() == ("model 'm' v1: TensorRT: building 40 s",)
            candidate.preparation.crashes = 1
            assert scene.upgrades.sentences()[0].endswith(
                "building 40 s (an earlier attempt ended with its process: 1)"
            )
            candidate.preparation.doing = "another process builds it"
            assert scene.upgrades.sentences()[0].endswith("40 s (another process builds it)")
            candidate.release()
            await scene.until(UpgradeState.SERVING)
            assert scene.upgrades.sentences() == (
                "model 'm' v1: TensorRT: ready, differs by 0.0005",
            )

    play(scenario)


def test_a_refused_candidate_is_told_like_one_that_failed() -> None:
    async def scenario() -> None:
        async with upgrading() as scene:
            scene.add(RefusedWay("TensorRT", "declare the sizes"))
            scene.upgrades.begin()
            assert scene.upgrades.states() == {M: UpgradeState.FAILED}
            assert scene.upgrades.sentences() == (
                "model 'm' v1: TensorRT: failed: declare the sizes",
            )
            np.testing.assert_array_equal(await scene.infer(2, 5), exact(2, 5))

    play(scenario)


def test_an_unloaded_versions_build_is_interrupted_and_leaves_nothing() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate()
        candidate.hold()
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            scene.upgrades.begin()
            await asyncio.to_thread(candidate.wait_for_build)
            scene.upgrades.stop(M)
            await scene.until(UpgradeState.STOPPED)
            assert candidate.kept == 0
            assert candidate.discarded == 1
            assert all(candidate.sessions)

    play(scenario)


def test_a_build_that_cannot_be_interrupted_ends_without_being_swapped_in() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate(can_stop=False)
        candidate.hold()
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            scene.upgrades.begin()
            await asyncio.to_thread(candidate.wait_for_build)
            scene.upgrades.stop(M)
            candidate.release()
            await scene.until(UpgradeState.STOPPED)
            assert candidate.sessions == [True]
            np.testing.assert_array_equal(await scene.infer(2, 5), exact(2, 5))

    play(scenario)


def test_versions_that_still_wait_for_their_turn_are_never_built_after_a_stop() -> None:
    async def scenario() -> None:
        first, second = FakeCandidate(), FakeCandidate()
        first.hold()
        async with upgrading(first, second) as scene:
            scene.add(first, config("a"))
            scene.add(second, config("b"))
            scene.upgrades.begin()
            await asyncio.to_thread(first.wait_for_build)
            scene.upgrades.stop_all()
            await scene.until(UpgradeState.STOPPED, ModelVersion("a", 1))
            assert await scene.upgrades.close(runs_have_ended=True)
            assert not second.builders

    play(scenario)


def test_what_is_cancelled_before_its_turn_does_not_begin_and_what_has_begun_is_told() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate()
        async with upgrading(candidate) as scene:
            scene.add(candidate)
            upgrade = scene.upgrades.of(M)
            assert upgrade is not None
            upgrade.cancel()
            assert upgrade.state is UpgradeState.STOPPED
            assert not upgrade.begin()
            scene.add(candidate, config("later"))
            begun = scene.upgrades.of(ModelVersion("later", 1))
            assert begun is not None
            assert begun.begin()
            begun.cancel()
            assert begun.state is UpgradeState.BUILDING
            assert begun.stop.is_set

    play(scenario)


def test_the_end_of_the_server_closes_what_serves_and_waits_for_no_build_for_long() -> None:
    async def scenario() -> None:
        done, stuck = FakeCandidate(), FakeCandidate(can_stop=False)
        async with serving() as at:
            scene = Scene(at, last_step_s=0.05)
            scene.add(done, config("a"))
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING, ModelVersion("a", 1))
            assert done.sessions == [False]
            stuck.hold()
            scene.add(stuck, config("b"))
            await asyncio.to_thread(stuck.wait_for_build)
            scene.upgrades.stop_all()
            assert done.sessions == [False]  # it serves until the last request is answered
            closed = await scene.upgrades.close(runs_have_ended=True)
            assert not closed
            assert done.sessions == [True]
            assert stuck.discarded == 1
            stuck.release()

    play(scenario)


def test_sessions_are_left_open_while_a_run_goes_on_at_the_end() -> None:
    async def scenario() -> None:
        candidate = FakeCandidate()
        async with serving() as at:
            scene = Scene(at)
            scene.add(candidate)
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING)
            assert await scene.upgrades.close(runs_have_ended=False)
            assert candidate.sessions == [False]

    play(scenario)


def test_what_was_recorded_for_the_comparison_is_given_back() -> None:
    async def scenario() -> None:
        good, bad = FakeCandidate(), failing(ExecutionFailed("no"))
        async with upgrading(good, bad) as scene:
            scene.add(good, config("a"))
            scene.add(bad, config("b"))
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING, ModelVersion("a", 1))
            await scene.until(UpgradeState.FAILED, ModelVersion("b", 1))
            assert not any(each.way.record.runs for each in scene.upgrades.all())

    play(scenario)


def test_a_model_without_a_batch_dimension_is_swapped_as_well() -> None:
    async def scenario() -> None:
        class Fixed(FakeCandidate):
            def corners(self) -> tuple[dict[str, tuple[int, ...]], ...]:
                return ({"x": (1, 4)},)

        candidate = Fixed()
        model = replace(config(), max_batch_size=0, batching=None, batch_size_is_explicit=False)
        one = replace(model.inputs[0], dims=(1, 4))
        other = replace(model.outputs[0], dims=(1, 4))
        async with upgrading(candidate) as scene:
            scene.add(candidate, replace(model, inputs=(one,), outputs=(other,)))
            scene.upgrades.begin()
            await scene.until(UpgradeState.SERVING)
            np.testing.assert_array_equal(await scene.infer(1, 5), rounded(1, 5))

    play(scenario)
