"""Short models run on the loop while their executor sleeps, and on their executor otherwise."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from stoker.engine.executor import QUANTUM
from stoker.engine.inline import MOST_SLOW, REST_S, SLOW_RUN_S
from stoker.engine.loop_turns import LONE_TURNS, MAX_RUN_S, TURN_S
from stoker.engine.served_model import ServedModel
from stoker.errors import (
    Cancelled,
    DeviceFailed,
    ExecutionFailed,
    Internal,
    OutOfMemory,
    ServingError,
)
from stoker.model import DynamicBatching, QueuePolicy, TensorConfig
from stoker.request import InferRequest, InferResponse
from stoker.telemetry.statistics import FailureReason
from stoker.tensor import Array, DataType, TensorSpec

from tests.engine_parts import (
    PATIENCE,
    Replies,
    Serving,
    answer,
    assert_at_rest,
    changed,
    config,
    numbers,
    play,
    request,
    serving,
)
from tests.fake_runtime import FakeModel, double

SHORT: Sequence[tuple[int, float]] = ((1, 10e-6), (8, 20e-6))


class Clock:
    """Time that passes by `step` with each look."""

    def __init__(self) -> None:
        self.now = 1.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def named(name: str, one: InferRequest) -> InferRequest:
    """The request with its input under another name."""
    inputs = tuple(replace(each, name=name) for each in one.inputs)
    return InferRequest.of(one.kind.model, inputs=inputs)


def threads(served: ServedModel) -> int:
    """Executor threads that have started."""
    return sum(instance.executor.is_alive for instance in served.instances)


async def answered(at: Serving, count: int = 3) -> None:
    replies = at.submit(*[request(value=value) for value in range(count)])
    for value, result in enumerate(await replies.all(count)):
        assert answer(result).tolist() == (2 * numbers(1, value)).tolist()


async def rests(at: Serving, clock: Clock) -> None:
    """Returns when so many runs of the model `m` were slow that its executor is to run it."""
    for _ in range(1 + MOST_SLOW):  # from the first one on the CPU clock is looked at
        clock.step = SLOW_RUN_S
        await answered(at, 1)
        clock.step = 0.0


def test_a_short_model_runs_without_a_thread() -> None:
    async def scenario() -> None:
        async with serving(clock=Clock(), runs_inline=True) as at:
            served = at.add(costs=SHORT)
            await answered(at)
            await answered(at)
            assert threads(served) == 0
            assert served.statistics.success_count == 6

    play(scenario)


@pytest.mark.parametrize(
    "model",
    [
        config(batching=DynamicBatching(max_queue_delay_us=10)),
        config(inputs=(TensorConfig("x", DataType.FP32, (-1,)),)),
    ],
)
def test_a_model_with_delays_or_free_shapes_keeps_to_its_thread(model: object) -> None:
    async def scenario() -> None:
        async with serving(runs_inline=True) as at:
            served = at.add(model, costs=SHORT)  # type: ignore[arg-type]  # a ModelConfig
            assert served.inline is None
            await answered(at, 1)
            assert threads(served) > 0

    play(scenario)


@pytest.mark.parametrize("costs", [(), ((1, 2 * MAX_RUN_S), (8, 3 * MAX_RUN_S))])
def test_a_model_that_is_long_or_unmeasured_keeps_to_its_thread(
    costs: Sequence[tuple[int, float]],
) -> None:
    async def scenario() -> None:
        async with serving(runs_inline=True) as at:
            served = at.add(costs=costs)
            await answered(at, 1)
            assert threads(served) == 1

    play(scenario)


def test_more_rows_than_a_short_run_takes_go_to_the_thread() -> None:
    async def scenario() -> None:
        async with serving(clock=Clock(), runs_inline=True) as at:
            served = at.add(costs=((1, MAX_RUN_S / 2), (8, 2 * MAX_RUN_S)))
            await answered(at, 1)
            assert threads(served) == 0
            await answered(at, 8)
            assert threads(served) == 1

    play(scenario)


def test_runs_that_hold_the_loop_send_the_model_to_its_thread_for_a_while() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with serving(clock=clock, cpu_clock=clock, runs_inline=True) as at:
            served = at.add(costs=SHORT)
            await rests(at, clock)
            assert threads(served) == 0
            await answered(at, 1)
            assert threads(served) == 1

    play(scenario)


def test_a_pause_that_the_machine_made_is_not_the_models_fault() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with serving(clock=clock, cpu_clock=lambda: 0.0, runs_inline=True) as at:
            served = at.add(costs=SHORT)
            await rests(at, clock)
            await answered(at, 1)
            assert threads(served) == 0
            assert served.statistics.slow_loop_runs == 1 + MOST_SLOW

    play(scenario)


def test_a_slow_run_after_a_rest_is_not_the_models_fault_either() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with serving(clock=clock, cpu_clock=clock, runs_inline=True) as at:
            served = at.add(costs=SHORT)
            await rests(at, clock)
            clock.now += REST_S
            clock.step = SLOW_RUN_S
            await answered(at, 1)
            clock.step = 0.0
            await answered(at, 1)
            assert threads(served) == 0

    play(scenario)


def test_a_slow_run_now_and_then_is_not_the_models_fault() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with serving(clock=clock, cpu_clock=clock, runs_inline=True) as at:
            served = at.add(costs=SHORT)
            for _ in range(2 * MOST_SLOW):
                clock.step = SLOW_RUN_S
                await answered(at, 1)
                clock.step = 1e-6
                for _ in range(40):
                    await answered(at, 1)
            assert threads(served) == 0

    play(scenario)


def test_what_a_turn_of_the_loop_has_no_time_for_waits_for_the_next_and_wakes_no_thread() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with serving(clock=clock, runs_inline=True) as at:
            models = [at.add(config(name), costs=SHORT) for name in ("a", "b")]
            clock.step = TURN_S / 4
            replies = at.submit(request(model="a"), request(model="b"))
            await asyncio.sleep(0)  # the turn in which they came ends
            assert len(replies.results) == 1
            at.submit(request(model="b", value=3), to=replies)
            await replies.all(3)
            assert [served.statistics.execution_count for served in models] == [1, 1]
            assert sum(map(threads, models)) == 0

    play(scenario)


def test_what_a_run_leaves_waits_for_the_next_turn_of_the_loop() -> None:
    x, z = FakeModel().inputs[0], TensorSpec("z", DataType.FP32, (-1, 4), optional=True)
    inputs = (
        TensorConfig("x", DataType.FP32, (4,)),
        TensorConfig("z", DataType.FP32, (4,), optional=True),
    )

    async def scenario() -> None:
        async with serving(FakeModel(inputs=(x, z)), clock=Clock(), runs_inline=True) as at:
            served = at.add(config(inputs=inputs), costs=SHORT)
            whole = InferRequest.of("m", inputs=(*request().inputs, *named("z", request()).inputs))
            replies = at.submit(request(), whole)
            await replies.all(2)
            assert [len(run.feeds) for run in at.runtime.runs] == [1, 2]
            assert threads(served) == 0

    play(scenario)


def test_a_model_that_rests_from_the_loop_does_not_wait_for_a_turn_of_it() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with serving(clock=clock, cpu_clock=clock, runs_inline=True) as at:
            resting = at.add(costs=SHORT)
            at.add(config("other"), costs=SHORT)
            await rests(at, clock)
            clock.step = TURN_S / 4
            replies = at.submit(request(model="other"), request())
            await asyncio.sleep(0)  # the turn in which they came ends
            assert threads(resting) == 1
            await replies.all(2)

    play(scenario)


def test_shells_of_requests_that_ended_while_their_model_waited_for_a_turn_are_cleared() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with serving(clock=clock, runs_inline=True) as at:
            _, cancelled = [at.add(config(name), costs=SHORT) for name in ("a", "b")]
            clock.step = TURN_S / 4
            replies = at.submit(request(model="a"), request(model="b"))
            await asyncio.sleep(0)  # the turn in which they came ends
            at.cancels[1]()
            await asyncio.sleep(0)
            assert len(replies.results) == 2
            assert cancelled.waiting.entries == 0

    play(scenario)


def test_a_busy_model_does_not_keep_others_from_their_turn_of_the_loop() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with serving(clock=clock, runs_inline=True) as at:
            for name in ("a", "b", "c"):
                at.add(config(name), costs=SHORT)
            clock.step = TURN_S / 4  # a run a turn
            replies = at.submit(*[request(model=name, value=1) for name in ("a", "b", "c")])
            for value in range(2, 6):
                await asyncio.sleep(0)
                at.submit(request(model="a", value=value), to=replies)
            await replies.all(7)
            models = [result.model for result in replies.results]  # type: ignore[union-attr]  # all are good
            assert models[:4] == ["a", "b", "c", "a"]

    play(scenario)


class BrokenLock:
    """Fails whoever takes it."""

    def acquire(self, blocking: bool = True) -> bool:
        raise RuntimeError("nobody foresaw this")

    def release(self) -> None: ...

    def __enter__(self) -> None:
        raise RuntimeError("nobody foresaw this")

    def __exit__(self, *_: object) -> None: ...


def test_a_model_whose_queue_breaks_on_the_loop_answers_all_and_is_unready() -> None:
    async def scenario() -> None:
        async with serving(clock=Clock(), runs_inline=True) as at:
            served = at.add(costs=SHORT)
            broken: list[DeviceFailed] = []
            served.on_device_failed = broken.append
            served.waiting.lock = BrokenLock()
            results = await at.submit(request(), request()).all(2)
            assert [type(each) for each in results] == [Internal, Internal]
            assert len(broken) == 1

    play(scenario)


def test_a_model_that_breaks_in_its_turn_of_the_loop_keeps_none_from_theirs() -> None:
    clock = Clock()

    def fail(_: DeviceFailed) -> None:
        raise ValueError("nobody foresaw this either")

    async def scenario() -> None:
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: failures.append(what))
        async with serving(clock=clock, runs_inline=True) as at:
            _, broken, _ = [at.add(config(name), costs=SHORT) for name in ("a", "b", "c")]
            broken.waiting.lock = BrokenLock()
            broken.on_device_failed = fail
            clock.step = TURN_S / 4
            first = at.submit(request(model="a"), request(model="b"))
            last = at.submit(request(model="c"))
            answer((await last.all(1))[0])
            assert len(first.results) == 2
            assert len(failures) == 1

    play(scenario)


def test_a_model_runs_on_the_loop_while_its_executor_computes_another() -> None:
    may_end = threading.Event()

    def compute(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        if feeds["x"][0, 0] == 7:
            assert may_end.wait(PATIENCE)
        return double(feeds)

    async def scenario() -> None:
        async with serving(FakeModel(compute=compute), clock=Clock(), runs_inline=True) as at:
            long = at.add(config("long"), costs=((1, 2 * MAX_RUN_S), (8, 3 * MAX_RUN_S)))
            short = at.add(config("short"), costs=SHORT)
            assert long.instances[0].executor is short.instances[0].executor
            first = at.submit(request(model="long", value=7))
            await at.runs(1)
            second = at.submit(request(model="short", value=1))
            await asyncio.sleep(0)  # the turn in which it came ends
            assert answer(second.only).tolist() == (2 * numbers(1, 1)).tolist()
            assert not first.results
            may_end.set()
            await first.all(1)
            assert at.runtime.runs[1].thread == threading.current_thread().name
            assert long.instances[0].executor.device.running == 0
            assert_at_rest(long)
            assert_at_rest(short)

    play(scenario)


def test_runs_on_the_loop_leave_an_executor_that_computes_its_share() -> None:
    may_end = threading.Event()
    clock = Clock()

    def compute(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        if feeds["x"][0, 0] == 7:
            assert may_end.wait(PATIENCE)
        return double(feeds)

    async def scenario() -> None:
        async with serving(FakeModel(compute=compute), clock=clock, runs_inline=True) as at:
            at.add(config("long"), costs=((1, 2 * MAX_RUN_S), (8, 3 * MAX_RUN_S)))
            short = at.add(config("short"), costs=SHORT)
            first = at.submit(request(model="long", value=7))
            await at.runs(1)
            others = Replies()
            clock.step = QUANTUM / 16  # some 4 looks a run
            for value in range(8, 24):
                at.submit(request(model="short", value=value), to=others)
                await asyncio.sleep(0)
            on_the_loop = len(others.results)
            assert 0 < on_the_loop < 16
            clock.step = 0.0
            may_end.set()
            await first.all(1)
            await others.all(16)
            names = [run.thread for run in at.runtime.runs[1 : 1 + on_the_loop]]
            assert set(names) == {threading.current_thread().name}
            assert at.runtime.runs[1 + on_the_loop].thread == short.instances[0].executor.name

    play(scenario)


def test_an_answer_on_the_loop_may_cancel_the_next_request_of_its_run() -> None:
    async def scenario() -> None:
        async with serving(clock=Clock(), runs_inline=True) as at:
            served = at.add(costs=SHORT)
            second = Replies()
            at.engine.submit(request(value=1), lambda _: at.cancels[0]())
            at.submit(request(value=2), to=second)
            await second.all(1)
            await asyncio.sleep(0)
            assert [type(each) for each in second.results] == [Cancelled]
            assert served.statistics.success_count == 1
            assert served.statistics.failures[FailureReason.CANCELED] == 1
            assert_at_rest(served)

    play(scenario)


def test_a_run_that_fails_on_the_loop_fails_only_the_guilty_request() -> None:
    def fail(feeds: Mapping[str, Array]) -> ExecutionFailed | None:
        return ExecutionFailed("seven") if 7 in feeds["x"][:, 0] else None

    async def scenario() -> None:
        async with serving(FakeModel(fail=fail), clock=Clock(), runs_inline=True) as at:
            served = at.add(costs=SHORT)
            replies = await at.submit(*[request(value=value) for value in (1, 7, 3)]).all(3)
            kinds = {type(each) for each in replies}
            assert kinds == {InferResponse, ExecutionFailed}
            assert served.statistics.success_count == 2
            assert served.statistics.failures[FailureReason.BACKEND] == 1
            assert threads(served) == 0
            assert_at_rest(served)

    play(scenario)


def test_requests_that_wait_for_a_turn_of_the_loop_are_drained() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with serving(clock=clock, runs_inline=True) as at:
            _, second = [at.add(config(name), costs=SHORT) for name in ("a", "b")]
            clock.step = TURN_S / 4
            replies = at.submit(request(model="a"), request(model="b"))
            await asyncio.sleep(0)  # the turn in which they came ends
            assert len(replies.results) == 1
            await asyncio.wait_for(second.drained(), PATIENCE)
            assert len(replies.results) == 2

    play(scenario)


def test_no_more_requests_run_at_once_on_the_loop_than_may_wait() -> None:
    queue = DynamicBatching(default_queue_policy=QueuePolicy(max_queue_size=2))

    async def scenario() -> None:
        async with serving(clock=Clock(), runs_inline=True) as at:
            at.add(config(batching=queue), costs=SHORT)
            replies = await at.submit(*[request(value=value) for value in range(3)]).all(3)
            kinds = sorted(type(each).__name__ for each in replies)
            assert kinds == ["InferResponse", "InferResponse", "Refused"], kinds

    play(scenario)


def test_a_limit_that_was_lowered_holds_on_the_loop_at_once() -> None:
    async def scenario() -> None:
        async with serving(clock=Clock(), runs_inline=True) as at:
            served = at.add(costs=SHORT)
            await answered(at)
            served.batch_limit.ran_out(8)
            await at.submit(*[request(value=value) for value in range(8)]).all(8)
            assert max(run.rows for run in at.runtime.runs) <= served.policy.max_rows == 4

    play(scenario)


def test_runs_on_the_loop_are_no_debt_of_the_model_on_its_thread() -> None:
    async def scenario() -> None:
        async with serving(clock=Clock(), runs_inline=True) as at:
            served = at.add(costs=SHORT)
            await answered(at)
            assert served.instances[0].deficit == 0.0

    play(scenario)


async def lone_turns(at: Serving, count: int = LONE_TURNS, model: str = "m") -> None:
    """So many turns of the loop with one request each."""
    for value in range(count):
        await at.submit(request(value=value, model=model)).all(1)
        await asyncio.sleep(0)


def test_after_some_turns_with_one_request_the_next_is_answered_before_its_turn_ends() -> None:
    async def scenario() -> None:
        async with serving(clock=Clock(), runs_inline=True) as at:
            served = at.add(costs=SHORT)
            await lone_turns(at, LONE_TURNS - 1)
            last = at.submit(request(value=3))
            assert not last.results
            await last.all(1)
            await asyncio.sleep(0)
            early = at.submit(request(value=5))
            assert answer(early.only).tolist() == (2 * numbers(1, 5)).tolist()
            await asyncio.sleep(0)
            assert served.statistics.success_count == LONE_TURNS + 1
            assert threads(served) == 0

    play(scenario)


def test_requests_that_come_behind_an_early_one_run_together_and_none_is_early_after_them() -> None:
    async def scenario() -> None:
        async with serving(clock=Clock(), runs_inline=True) as at:
            at.add(costs=SHORT)
            await lone_turns(at)
            replies = at.submit(*[request(value=value) for value in range(4)])
            assert len(replies.results) == 1
            await replies.all(4)
            assert [run.rows for run in at.runtime.runs[LONE_TURNS:]] == [1, 3]
            await asyncio.sleep(0)
            both = at.submit(request(value=1), request(value=2))
            assert not both.results
            await both.all(2)
            assert at.runtime.runs[-1].rows == 2

    play(scenario)


def test_a_request_that_an_early_answer_brings_waits_for_the_turns_end() -> None:
    async def scenario() -> None:
        async with serving(clock=Clock(), runs_inline=True) as at:
            at.add(costs=SHORT)
            await lone_turns(at)
            second = Replies()

            def ask_again(_: InferResponse | ServingError) -> None:
                at.submit(request(value=2), to=second)

            at.engine.submit(request(), ask_again)
            assert not second.results
            await second.all(1)
            await asyncio.sleep(0)
            assert not at.submit(request()).results  # that turn had two

    play(scenario)


def test_turns_that_several_models_share_let_no_request_run_early() -> None:
    async def scenario() -> None:
        async with serving(clock=Clock(), runs_inline=True) as at:
            names = [f"m{number}" for number in range(LONE_TURNS + 1)]
            for name in names:
                at.add(config(name), costs=SHORT)
            for _ in range(2):
                replies = at.submit(*[request(model=name) for name in names])
                assert not replies.results
                await replies.all(len(names))
                await asyncio.sleep(0)

    play(scenario)


def test_an_early_run_counts_in_what_its_turn_of_the_loop_may_spend() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with serving(clock=clock, runs_inline=True) as at:
            for name in ("a", "b"):
                at.add(config(name), costs=SHORT)
            await lone_turns(at, model="a")
            clock.step = TURN_S / 4
            replies = at.submit(request(model="a"), request(model="b"))
            assert len(replies.results) == 1
            await asyncio.sleep(0)  # the turn in which they came ends
            assert len(replies.results) == 1
            clock.step = 0.0
            await replies.all(2)

    play(scenario)


def test_early_runs_are_no_debt_of_later_turns() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with serving(clock=clock, runs_inline=True) as at:
            at.add(costs=SHORT)
            await lone_turns(at)
            clock.step = TURN_S / 4
            for value in range(3):
                early = at.submit(request(value=value))
                assert len(early.results) == 1
                await asyncio.sleep(0)

    play(scenario)


def test_an_early_run_that_fails_says_why_and_harms_nobody() -> None:
    def fail(feeds: Mapping[str, Array]) -> ExecutionFailed | None:
        return ExecutionFailed("seventy") if 70 in feeds["x"][:, 0] else None

    async def scenario() -> None:
        async with serving(FakeModel(fail=fail), clock=Clock(), runs_inline=True) as at:
            served = at.add(costs=SHORT)
            await lone_turns(at)
            early = at.submit(request(value=70))
            assert isinstance(early.only, ExecutionFailed)
            assert early.only.message == "seventy"
            await answered(at, 1)
            assert served.statistics.success_count == LONE_TURNS + 1
            assert served.statistics.failures[FailureReason.BACKEND] == 1
            assert_at_rest(served)

    play(scenario)


def test_a_request_for_which_nothing_can_be_bound_fails_alone() -> None:
    model = FakeModel()

    async def scenario() -> None:
        async with serving(model, clock=Clock(), runs_inline=True) as at:
            served = at.add(costs=SHORT)
            await lone_turns(at)
            model.bind_error = OutOfMemory("no room")
            (failed,) = await at.submit(request(rows=2)).all(1)
            assert isinstance(failed, OutOfMemory)
            await answered(at, 1)  # by what is bound already
            model.bind_error = None
            (again,) = await at.submit(request(rows=2)).all(1)
            assert answer(again).tolist() == (2 * numbers(2)).tolist()
            assert served.refusal is None
            assert_at_rest(served)

    play(scenario)


def test_a_request_whose_deadline_is_near_is_not_run_early() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with serving(clock=clock, runs_inline=True) as at:
            at.add(costs=SHORT)
            await lone_turns(at)
            hurried = at.submit(changed(request(), deadline=clock.now + 0.001))
            assert not hurried.results
            await hurried.all(1)

    play(scenario)


def test_a_slow_model_is_sent_to_its_thread_by_early_runs_too() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with serving(clock=clock, cpu_clock=clock, runs_inline=True) as at:
            served = at.add(costs=SHORT)
            await lone_turns(at)
            clock.step = SLOW_RUN_S
            for _ in range(1 + MOST_SLOW):
                assert len(at.submit(request()).results) == 1
                await asyncio.sleep(0)
            clock.step = 0.0
            await answered(at, 1)
            assert threads(served) == 1

    play(scenario)


def test_runs_of_one_request_are_counted_as_those_of_batches_are() -> None:
    clock = Clock()

    async def scenario() -> None:
        seen = []
        for runs_inline in (False, True):
            async with serving(clock=clock, runs_inline=runs_inline) as at:
                served = at.add(costs=SHORT)
                demand: list[float] = []
                served.add_demand = lambda seconds, now, told=demand: told.append(seconds)
                await lone_turns(at, LONE_TURNS + 4)
                retry = changed(request(rows=2), is_retry=True)
                await at.submit(retry).all(1)
                await asyncio.sleep(0)
                statistics = served.statistics
                seen.append(
                    (
                        statistics.success_count,
                        statistics.execution_count,
                        statistics.inference_count,
                        statistics.compute_count,
                        statistics.batch_ends,
                        {rows: runs.count for rows, runs in statistics.batches.items()},
                        sum(statistics.request_histogram.counts),
                        sum(statistics.queue_histogram.counts),
                        sum(statistics.compute_histogram.counts),
                        len(demand),
                    )
                )
        assert seen[0] == seen[1]

    play(scenario)
