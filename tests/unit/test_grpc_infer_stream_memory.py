"""ModelStreamInfer without a transport: what waits and is unsent is bounded, counted and freed."""

import asyncio

import pytest
from stoker.errors import Cancelled, ModelNotFound
from stoker.inference import Cancel, Reply
from stoker.request import InferRequest, InferResponse
from stoker.telemetry.server_statistics import UnroutedReason
from stoker.tensor import DataType, Tensor
from stoker.transport.grpc.infer_stream import MAX_HELD_BYTES, MAX_IN_FLIGHT
from stoker.transport.wire.limits import BufferBudget

from tests.engine_double import MODEL, EngineDouble
from tests.infer_streams import Stream, ids, message, run, turns


def test_a_client_that_does_not_read_stops_being_read() -> None:
    async def steps() -> None:
        stream = Stream(EngineDouble())
        stream.client.send(*(message(str(number)) for number in range(2 * MAX_IN_FLIGHT)))
        for taken in range(1, 4):
            await stream.next()
            await turns()
            # The answer that was taken last is held until the transport asks for the next one.
            assert len(stream.engine.requests) == MAX_IN_FLIGHT + taken - 1
            assert stream.client.asked == MAX_IN_FLIGHT + taken - 1
        stream.client.half_close()
        assert len(await stream.rest()) == 2 * MAX_IN_FLIGHT - 3

    run(steps)


@pytest.mark.slow
def test_a_client_that_is_slow_at_reading_stops_being_read_by_bytes_before_numbers() -> None:
    rows = 1 << 20  # 16 MiB
    large = message("large", rows=rows)
    fit = MAX_HELD_BYTES // len(large) + 1  # the last one may go beyond

    async def steps() -> None:
        stream = Stream()
        stream.client.send(*[large] * (fit + 2))
        waiting = asyncio.ensure_future(stream.next())
        await stream.client.read(fit - 1)
        await turns()
        assert len(stream.engine.requests) == fit
        assert stream.budget.used == fit * len(large)
        stream.engine.release()
        await waiting
        await turns()
        assert len(stream.engine.requests) == fit  # the answers are as large as the requests were
        await stream.next()
        await stream.next()
        await turns()
        assert len(stream.engine.requests) == fit + 2
        await stream.answers.aclose()
        assert stream.budget.used == 0

    run(steps)


def test_messages_and_unsent_answers_count_in_the_servers_budget_until_they_have_left() -> None:
    async def steps() -> None:
        stream = Stream()
        one = message("a", rows=100)
        waiting = await stream.send(one, one)
        assert stream.budget.used == 2 * len(one)
        stream.engine.release()
        answer = (await waiting).ByteSize()
        assert stream.budget.used == 2 * answer
        await stream.next()
        assert stream.budget.used == answer
        stream.client.half_close()
        assert await stream.rest() == []
        assert stream.budget.used == 0

    run(steps)


def test_a_failure_that_waits_counts_with_all_that_it_repeats_of_its_request() -> None:
    async def steps() -> None:
        stream = Stream(EngineDouble(lambda request: ModelNotFound("nope")))
        waiting = await stream.send(message("i" * 1000), message("j" * 1_000_000))
        assert (await waiting).infer_response.id == "i" * 1000
        assert stream.budget.used > 1_001_000
        stream.client.half_close()
        assert ids(await stream.rest()) == ["j" * 1_000_000]
        assert stream.budget.used == 0

    run(steps)


def test_a_message_that_the_server_has_no_room_for_is_told_and_the_stream_goes_on() -> None:
    async def steps() -> None:
        budget = BufferBudget(1000)
        stream = Stream(EngineDouble(), budget=budget)
        stream.client.send(message("large", rows=100), message("small"))
        stream.client.half_close()
        large, small = await stream.rest()
        assert ids([large, small]) == ["large", "small"]
        assert "1000" in large.error_message
        assert small.error_message == ""
        assert stream.statistics.unrouted[UnroutedReason.TOO_LARGE] == 1
        assert stream.statistics.unrouted[UnroutedReason.MALFORMED] == 0
        assert budget.used == 0

    run(steps)


class LeaseDouble:
    """Counts releases, and wipes the buffer on the first."""

    def __init__(self) -> None:
        self.buffer = bytearray(b"1234")
        self.releases = 0

    def release(self) -> None:
        self.releases += 1
        self.buffer[:] = bytes(len(self.buffer))


def leased(lease: LeaseDouble) -> InferResponse:
    output = Tensor("y", DataType.UINT8, (4,), memoryview(lease.buffer))
    return InferResponse.of(MODEL, "1", "", (output,), lease=lease)


def test_a_lease_is_released_once_when_the_answer_is_encoded() -> None:
    async def steps() -> None:
        lease = LeaseDouble()
        stream = Stream(EngineDouble(lambda request: leased(lease)))
        stream.client.send(message())
        answer = await stream.next()
        assert answer.infer_response.raw_output_contents == [b"1234"]
        assert lease.releases == 1
        await stream.answers.aclose()
        assert lease.releases == 1

    run(steps)


def test_a_response_that_comes_after_its_stream_gives_its_lease_back() -> None:
    class Late(EngineDouble):
        """Its cancel comes too late: the answer is on its way."""

        replies: list[Reply]

        def submit(self, request: InferRequest, reply: Reply) -> Cancel:
            self.replies.append(reply)
            return lambda: None

    async def steps() -> None:
        engine = Late()
        engine.replies = []
        stream = Stream(engine)
        waiting = await stream.send(message(), message())
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        lease = LeaseDouble()
        engine.replies[0](leased(lease))
        engine.replies[1](Cancelled("the client went away"))
        assert lease.releases == 1
        assert stream.budget.used == 0

    run(steps)
