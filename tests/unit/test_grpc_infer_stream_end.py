"""How a stream of ModelStreamInfer ends: by its client, by its transport, by a drain."""

import asyncio

import pytest
from stoker.errors import Draining, TooLarge
from stoker.inference import Cancel, Reply
from stoker.request import InferRequest

from tests.engine_double import EngineDouble
from tests.infer_streams import Stream, ids, message, run, turns


def test_a_stream_without_a_request_ends_well() -> None:
    async def steps() -> None:
        stream = Stream()
        stream.client.half_close()
        assert await stream.rest() == []

    run(steps)


def test_a_stream_whose_client_goes_away_cancels_its_requests() -> None:
    class Counting(EngineDouble):
        cancels = 0

        def submit(self, request: InferRequest, reply: Reply) -> Cancel:
            cancel = super().submit(request, reply)

            def count() -> None:
                self.cancels += 1
                cancel()

            return count

    async def steps() -> None:
        engine = Counting(answer=None)
        stream = Stream(engine)
        waiting = await stream.send(message("a"), message("b"), message("c"))
        engine.release("b")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert engine.cancels == 2  # b has its answer
        assert stream.budget.used == 0
        stream.client.send(message("d"))
        await turns()
        assert len(engine.requests) == 3

    run(steps)


def test_a_stream_that_is_closed_between_two_answers_cancels_its_requests() -> None:
    async def steps() -> None:
        stream = Stream()
        waiting = await stream.send(message("a"), message("b"))
        stream.engine.release("a")
        await waiting
        await stream.answers.aclose()
        assert stream.engine.cancelled.is_set()
        assert stream.budget.used == 0

    run(steps)


def test_what_the_transport_raises_ends_the_stream_after_the_answers_before_it() -> None:
    async def steps() -> None:
        stream = Stream()
        waiting = await stream.send(message("a"), message("b"))
        stream.client.fail(TooLarge("expected less"))
        await turns()
        assert not waiting.done()
        stream.engine.release()
        assert ids([await waiting, await stream.next()]) == ["a", "b"]
        with pytest.raises(TooLarge):
            await stream.next()

    run(steps)


def test_a_stopped_stream_answers_what_it_read_and_then_tells_of_the_drain() -> None:
    async def steps() -> None:
        stream = Stream()
        waiting = await stream.send(message("a"), message("b"))
        stream.streams.stop()
        stream.streams.stop()
        stream.client.send(message("late"))
        await turns()
        assert not waiting.done()
        stream.engine.release()
        assert ids([await waiting, await stream.next()]) == ["a", "b"]
        with pytest.raises(Draining) as told:
            await stream.next()
        assert told.value.retry_after is not None
        assert [each.id for each in stream.engine.requests] == ["a", "b"]

    run(steps)


def test_a_stopped_stream_without_a_request_ends_at_once() -> None:
    async def steps() -> None:
        stream = Stream()
        waiting = await stream.send()
        stream.streams.stop()
        with pytest.raises(Draining):
            await waiting

    run(steps)


def test_a_stopped_stream_that_its_client_had_half_closed_ends_well() -> None:
    async def steps() -> None:
        stream = Stream()
        waiting = await stream.send(message("a"))
        stream.client.half_close()
        await turns()
        stream.streams.stop()
        stream.engine.release()
        assert ids([await waiting, *await stream.rest()]) == ["a"]

    run(steps)


def test_a_stream_that_begins_after_the_stop_is_refused() -> None:
    async def steps() -> None:
        stream = Stream()
        stream.streams.stop()
        with pytest.raises(Draining):
            await stream.next()
        assert stream.client.asked == 0

    run(steps)
