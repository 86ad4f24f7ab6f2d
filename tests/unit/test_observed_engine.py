"""What the engine notes of observed requests: how long they waited, which batches they ran in."""

import asyncio
import weakref
from collections.abc import Sequence
from itertools import count

import pytest
from stoker.engine.loop_turns import LONE_TURNS
from stoker.engine.observed import ObservedEngine
from stoker.errors import ServingError
from stoker.request import InferRequest, InferResponse
from stoker.telemetry.observation import (
    MOST_CHARACTERS,
    BatchRecord,
    Caller,
    Observation,
    SpanIdentity,
    current,
)
from stoker.telemetry.observer import Observer

from tests.engine_parts import Replies, Serving, changed, numbers, play, request, serving

SHORT: Sequence[tuple[int, float]] = ((1, 10e-6), (8, 20e-6))
CALLER = Caller(
    is_grpc=True, method="POST", path="/", route="", peer="", scheme="http",
    protocol_version="2", request_id="", traceparent="",
)  # fmt: skip


class Kept:
    """Implements `Tracing`: traces every call and keeps the records."""

    def __init__(self) -> None:
        self.records: list[Observation | BatchRecord] = []
        self._numbers = count(1)

    def sample(self, traceparent: str, tracestate: str) -> SpanIdentity | None:
        return self.root()

    def child(self, parent: SpanIdentity) -> SpanIdentity:
        return SpanIdentity(parent.trace_id, next(self._numbers), parent.span_id)

    def root(self) -> SpanIdentity:
        return SpanIdentity(next(self._numbers), next(self._numbers))

    def record(self, record: Observation | BatchRecord) -> None:
        self.records.append(record)

    @property
    def batches(self) -> list[BatchRecord]:
        return [each for each in self.records if isinstance(each, BatchRecord)]


class Calls:
    """Calls of an observed engine, as a transport makes them."""

    def __init__(self, at: Serving, observer: Observer) -> None:
        self._engine = ObservedEngine(at.engine, observer)
        self._observer = observer
        self.replies = Replies()

    def submit(self, one: InferRequest) -> Observation:
        span = self._observer.sample("", "")
        observation = Observation(CALLER, self._observer.clock(), 0, span)

        def reply(result: InferResponse | ServingError) -> None:
            self.replies(result)
            self._observer.end(observation)

        token = current.set(observation)
        try:
            self._engine.submit(one, reply)
        finally:
            current.reset(token)
        return observation


class Clock:
    """Time that passes by a microsecond with each look."""

    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


def test_requests_that_the_loop_runs_itself_are_linked_to_their_batch() -> None:
    async def scenario() -> None:
        tracing, clock = Kept(), Clock()
        observer = Observer(tracing, None, clock)
        async with serving(clock=clock, runs_inline=True, observer=observer) as at:
            served = at.add(costs=SHORT)
            calls = Calls(at, observer)
            observed = [calls.submit(request(rows=2)), calls.submit(request(rows=2))]
            await calls.replies.all(2)
            assert not any(each.executor.is_alive for each in served.instances)  # no thread ran
            (batch,) = tracing.batches
            assert (batch.model, batch.version, batch.rows, batch.requests) == ("m", "1", 4, 2)
            assert [each.rows for each in batch.runs] == [4]
            assert list(batch.links) == [each.span for each in observed]
            for each in observed:
                (run,) = each.runs
                assert run.batch is batch.identity
                assert each.submitted < run.taken < run.ended < each.answered <= each.ended
                assert (each.model, each.version, each.rows, each.code) == ("m", "1", 2, "")
                assert each.queue_s == pytest.approx(run.taken - each.submitted)

    play(scenario)


def test_a_batch_without_observed_requests_is_not_recorded() -> None:
    async def scenario() -> None:
        tracing = Kept()
        async with serving(observer=Observer(tracing, None)) as at:
            at.add()
            await at.submit(request()).all(1)
        assert tracing.records == []

    play(scenario)


def test_with_the_access_log_alone_there_are_no_batches_to_record() -> None:
    class Lines:
        def __init__(self) -> None:
            self.calls: list[Observation] = []

        def note(self, observation: Observation) -> None:
            self.calls.append(observation)

    async def scenario() -> None:
        lines = Lines()
        observer = Observer(None, lines)
        async with serving(observer=observer) as at:
            at.add()
            calls = Calls(at, observer)
            calls.submit(request(rows=3))
            await calls.replies.all(1)
        (call,) = lines.calls
        (run,) = call.runs
        assert (run.batch, run.batch_rows) == (None, 3)
        assert call.span is None
        assert call.run_s > 0

    play(scenario)


def test_every_instance_of_a_version_observes() -> None:
    async def scenario() -> None:
        tracing = Kept()
        observer = Observer(tracing, None)
        async with serving(observer=observer) as at:
            at.add()
            calls = Calls(at, observer)
            for value in range(20):
                calls.submit(request(value=value))
                await calls.replies.all(value + 1)
        assert len(tracing.batches) == 20
        assert all(isinstance(each, InferResponse) for each in calls.replies.results)

    play(scenario)


def test_the_answers_are_those_of_requests_that_nobody_observes() -> None:
    async def scenario() -> None:
        observer = Observer(Kept(), None)
        async with serving(observer=observer) as at:
            at.add()
            calls = Calls(at, observer)
            calls.submit(request(rows=2, value=3))
            (result,) = await calls.replies.all(1)
            assert isinstance(result, InferResponse)
            (output,) = result.outputs
            assert output.array().tolist() == (2 * numbers(2, 3)).tolist()

    play(scenario)


def test_a_request_that_ended_in_the_queue_keeps_nothing_of_its_call() -> None:
    async def scenario() -> None:
        observer = Observer(Kept(), None)
        async with serving(observer=observer) as at:
            at.add()
            at.runtime.hold()
            calls = Calls(at, observer)
            calls.submit(request())
            await at.runs(1)
            call = Observation(CALLER, 1.0, 0, None)
            token = current.set(call)
            shell = ObservedEngine(at.engine, observer).submit(request(), lambda result: None)
            current.reset(token)
            gone = weakref.ref(call)
            await asyncio.sleep(0)  # the turn ends in which it came
            await asyncio.sleep(0)
            shell()  # cancels it
            del call, token
            assert gone() is None
            at.runtime.release()
            await calls.replies.all(1)

    play(scenario)


def test_names_and_ids_of_clients_are_not_kept_whole() -> None:
    async def scenario() -> None:
        observer = Observer(Kept(), None)
        async with serving(observer=observer) as at:
            at.add()
            calls = Calls(at, observer)
            long = "a" * 10_000
            noted = calls.submit(changed(request(), id=long, model=long, version=long))
            await calls.replies.all(1)
            kept = (noted.client_id, noted.model, noted.version)
            assert {len(each) for each in kept} == {MOST_CHARACTERS + 1}

    play(scenario)


def test_a_request_that_is_run_before_its_turn_ends_is_linked_to_a_batch_of_its_own() -> None:
    async def scenario() -> None:
        tracing, clock = Kept(), Clock()
        observer = Observer(tracing, None, clock)
        async with serving(clock=clock, runs_inline=True, observer=observer) as at:
            at.add(costs=SHORT)
            calls = Calls(at, observer)
            for number in range(LONE_TURNS):
                calls.submit(request())
                await calls.replies.all(number + 1)
                await asyncio.sleep(0)
            observed = calls.submit(request(rows=2))
            assert len(calls.replies.results) == LONE_TURNS + 1
            batch = tracing.batches[-1]
            assert (batch.model, batch.version, batch.rows, batch.requests) == ("m", "1", 2, 1)
            assert list(batch.links) == [observed.span]
            (of_batch,) = batch.runs
            assert of_batch.infer_s > 0
            (run,) = observed.runs
            assert run.batch is batch.identity
            assert observed.submitted < run.taken < run.ended < observed.answered <= observed.ended
            assert (observed.model, observed.version, observed.rows) == ("m", "1", 2)

    play(scenario)
