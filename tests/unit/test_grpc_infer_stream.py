"""ModelStreamInfer without a transport: a hand-fed iterator of messages in, answers out."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stoker.errors import (
    Cancelled,
    Draining,
    InvalidRequest,
    ModelNotFound,
    ServingError,
    TooLarge,
)
from stoker.inference import Cancel, Reply
from stoker.protocol import inference_pb2 as pb
from stoker.request import InferRequest, InferResponse
from stoker.telemetry.server_statistics import ServerStatistics, UnroutedReason
from stoker.tensor import DataType, Tensor
from stoker.transport.grpc.call import CallContext
from stoker.transport.grpc.infer_stream import MAX_HELD_BYTES, MAX_IN_FLIGHT, InferStreams
from stoker.transport.wire.limits import BufferBudget

from tests.engine_double import MODEL, EngineDouble, echo, values

PATIENCE_S = 10.0
ENDS_ON_ERROR = CallContext(metadata={"triton_grpc_error": "true"})


class Messages:
    """What a client sends, as a transport's iterator; counts how often the handler asked."""

    def __init__(self) -> None:
        self.asked = 0
        self._sent: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self._changed = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self.asked += 1
        self._changed.set()
        sent = await self._sent.get()
        if isinstance(sent, Exception):
            raise sent
        return sent

    def send(self, *messages: bytes) -> None:
        for message in messages:
            self._sent.put_nowait(message)

    def half_close(self) -> None:
        self._sent.put_nowait(StopAsyncIteration())

    def fail(self, error: Exception) -> None:
        self._sent.put_nowait(error)

    async def read(self, count: int) -> None:
        """Waits until the handler has taken `count` messages and asks for the next."""
        while self.asked <= count:
            self._changed.clear()
            await self._changed.wait()


class Stream:
    """One stream of an engine that holds every request until the test lets it go."""

    def __init__(
        self,
        engine: EngineDouble | None = None,
        *,
        context: CallContext | None = None,
        budget: BufferBudget | None = None,
    ) -> None:
        self.engine = engine or EngineDouble(answer=None)
        self.statistics = ServerStatistics()
        self.budget = budget or BufferBudget(1 << 40)
        self.streams = InferStreams(self.engine, self.statistics, self.budget)
        self.client = Messages()
        self.answers = self.streams.answer(self.client, context or CallContext())

    async def next(self) -> pb.ModelStreamInferResponse:
        return pb.ModelStreamInferResponse.FromString(await anext(self.answers))

    async def rest(self) -> list[pb.ModelStreamInferResponse]:
        return [pb.ModelStreamInferResponse.FromString(each) async for each in self.answers]

    async def send(self, *messages: bytes) -> "asyncio.Task[pb.ModelStreamInferResponse]":
        """Sends, and waits until all are submitted. Gives the wait for the next answer."""
        self.client.send(*messages)
        waiting = asyncio.ensure_future(self.next())
        await self.client.read(len(messages))
        return waiting


def run(steps: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await steps()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(within())


async def turns() -> None:
    """Lets everything happen that is ready to."""
    for _ in range(10):
        await asyncio.sleep(0)


def message(id: str = "", *, rows: int = 1, model: str = MODEL, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "model_name": model,
        "inputs": [
            pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[rows, 4])
        ],
        "raw_input_contents": [values(rows).tobytes()],
        "id": id,
    }
    return pb.ModelInferRequest(**{**fields, **changes}).SerializeToString()


def ids(answers: list[pb.ModelStreamInferResponse]) -> list[str]:
    return [each.infer_response.id for each in answers]


def is_final(answer: pb.ModelStreamInferResponse) -> bool:
    parameters = answer.infer_response.parameters
    return list(parameters) == ["triton_final_response"] and (
        parameters["triton_final_response"].bool_param
    )


def refused(request: InferRequest) -> InferResponse | ServingError:
    """The engine's answer: an error where the id says so."""
    if request.id.startswith("bad"):
        return ModelNotFound("Request for unknown model: 'nope' is not found")
    return echo(request)


def test_requests_of_one_stream_are_in_the_engine_together() -> None:
    async def steps() -> None:
        stream = Stream()
        waiting = await stream.send(message("a"), message("b"), message("c"))
        assert [each.id for each in stream.engine.requests] == ["a", "b", "c"]
        assert not waiting.done()
        stream.client.half_close()
        stream.engine.release()
        assert ids([await waiting, *await stream.rest()]) == ["a", "b", "c"]

    run(steps)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)))
def test_answers_leave_in_the_order_of_their_requests(order: list[int]) -> None:
    async def steps() -> None:
        stream = Stream()
        waiting = await stream.send(*(message(str(number)) for number in range(6)))
        stream.client.half_close()
        for number in order:
            stream.engine.release(str(number))
            await asyncio.sleep(0)
        answers = [await waiting, *await stream.rest()]
        assert ids(answers) == [str(number) for number in range(6)]

    run(steps)


def test_a_request_that_is_ready_waits_only_for_those_before_it() -> None:
    async def steps() -> None:
        stream = Stream()
        waiting = await stream.send(message("a"), message("b"), message("c"))
        stream.engine.release("b", "a")
        assert ids([await waiting, await stream.next()]) == ["a", "b"]
        stream.engine.release("c")
        stream.client.half_close()
        assert ids(await stream.rest()) == ["c"]

    run(steps)


def test_an_answer_is_that_of_model_infer_and_says_that_it_is_final() -> None:
    async def steps() -> None:
        stream = Stream(EngineDouble())
        stream.client.send(message("7", rows=3))
        stream.client.half_close()
        (answer,) = await stream.rest()
        response = answer.infer_response
        assert answer.error_message == ""
        assert (response.model_name, response.model_version, response.id) == (MODEL, "1", "7")
        (output,) = response.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("x", "FP32", [3, 4])
        assert response.raw_output_contents == [values(3).tobytes()]
        assert is_final(answer)

    run(steps)


def test_the_parameters_of_a_response_stand_beside_the_final_one() -> None:
    async def steps() -> None:
        stream = Stream(
            EngineDouble(lambda request: InferResponse.of(MODEL, "1", "", (), {"note": "text"}))
        )
        stream.client.send(message())
        parameters = (await stream.next()).infer_response.parameters
        assert parameters["note"].string_param == "text"
        assert parameters["triton_final_response"].bool_param
        await stream.answers.aclose()

    run(steps)


@pytest.mark.parametrize("asks", [True, False])
def test_asking_for_an_empty_final_response_gives_no_further_response(asks: bool) -> None:
    async def steps() -> None:
        stream = Stream(EngineDouble())
        parameters = {"triton_enable_empty_final_response": pb.InferParameter(bool_param=asks)}
        stream.client.send(message("a", parameters=parameters), message("b"))
        stream.client.half_close()
        answers = await stream.rest()
        assert ids(answers) == ["a", "b"]
        assert all(map(is_final, answers))
        assert all(each.infer_response.outputs for each in answers)

    run(steps)


def test_a_failed_request_is_told_in_its_place_and_the_stream_goes_on() -> None:
    async def steps() -> None:
        stream = Stream(EngineDouble(refused))
        stream.client.send(
            message("1"), message("bad", model="nope", model_version="3"), message("2")
        )
        stream.client.half_close()
        first, failed, last = await stream.rest()
        assert ids([first, last]) == ["1", "2"]
        assert failed.error_message.startswith("Request for unknown model")
        response = failed.infer_response
        assert (response.id, response.model_name, response.model_version) == ("bad", "nope", "3")
        assert is_final(failed)
        assert not response.outputs

    run(steps)


def test_a_malformed_request_is_told_under_its_id() -> None:
    async def steps() -> None:
        stream = Stream(EngineDouble())
        not_bool = {"triton_enable_empty_final_response": pb.InferParameter(int64_param=1)}
        stream.client.send(
            message("short", raw_input_contents=[b"123"]),
            message("reserved", parameters=not_bool),
            message("good"),
        )
        stream.client.half_close()
        answers = await stream.rest()
        assert ids(answers) == ["short", "reserved", "good"]
        assert ["expected" in each.error_message for each in answers] == [True, True, False]
        assert [each.id for each in stream.engine.requests] == ["good"]
        assert stream.statistics.unrouted[UnroutedReason.MALFORMED] == 2

    run(steps)


def test_bytes_that_are_no_message_are_told_without_an_id_and_the_stream_goes_on() -> None:
    async def steps() -> None:
        stream = Stream(EngineDouble())
        stream.client.send(b"\xff\xff", message("good"))
        stream.client.half_close()
        failed, good = await stream.rest()
        assert "do not parse" in failed.error_message
        assert failed.HasField("infer_response")
        assert is_final(failed)
        assert ids([failed, good]) == ["", "good"]
        assert stream.statistics.unrouted[UnroutedReason.MALFORMED] == 1

    run(steps)


def test_an_error_without_words_is_an_error_all_the_same() -> None:
    async def steps() -> None:
        stream = Stream(EngineDouble(lambda request: InvalidRequest("")))
        stream.client.send(message())
        stream.client.half_close()
        (failed,) = await stream.rest()
        assert failed.error_message == "INVALID_REQUEST"

    run(steps)


def test_a_bug_is_logged_once_and_told_in_its_place(caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: InferRequest) -> InferResponse | ServingError:
        if request.id == "bad":
            raise ZeroDivisionError("secret")
        return echo(request)

    async def steps() -> None:
        stream = Stream(EngineDouble(broken))
        stream.client.send(message("bad"), message("good"))
        stream.client.half_close()
        failed, good = await stream.rest()
        assert failed.infer_response.id == "bad"
        assert failed.error_message
        assert "secret" not in failed.error_message
        assert good.infer_response.id == "good"

    with caplog.at_level(logging.ERROR):
        run(steps)
    (record,) = caplog.records
    assert record.exc_info is not None


def test_an_answer_that_cannot_be_encoded_is_told_in_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def steps() -> None:
        stream = Stream(EngineDouble(lambda request: InferResponse.of(MODEL, "1", "\ud800", ())))
        stream.client.send(message("9"))
        stream.client.half_close()
        (failed,) = await stream.rest()
        assert failed.error_message
        assert failed.infer_response.id == "9"

    run(steps)
    assert len(caplog.records) == 1


def test_a_client_that_asks_for_it_gets_the_first_failure_as_status() -> None:
    async def steps() -> None:
        stream = Stream(context=ENDS_ON_ERROR)
        waiting = await stream.send(message("a"), b"\xff\xff", message("c"))
        stream.engine.release("a")
        assert ids([await waiting]) == ["a"]
        with pytest.raises(InvalidRequest):
            await stream.next()
        assert stream.engine.cancelled.is_set()
        assert stream.budget.used == 0

    run(steps)


@pytest.mark.parametrize("value", ["false", "1", ""])
def test_failures_stay_in_the_stream_for_other_values_of_that_metadata(value: str) -> None:
    async def steps() -> None:
        stream = Stream(
            EngineDouble(refused), context=CallContext(metadata={"triton_grpc_error": value})
        )
        stream.client.send(message("bad"))
        stream.client.half_close()
        (failed,) = await stream.rest()
        assert failed.error_message

    run(steps)


def test_the_streams_deadline_and_declared_retry_are_those_of_every_request() -> None:
    async def steps() -> None:
        deadline = time.monotonic() + 100
        context = CallContext(deadline=deadline, is_retry=True)
        retried, plain = Stream(EngineDouble(), context=context), Stream(EngineDouble())
        for stream in (retried, plain):
            stream.client.send(message(), message())
            stream.client.half_close()
            await stream.rest()
        assert [(each.deadline, each.is_retry) for each in retried.engine.requests] == [
            (deadline, True)
        ] * 2
        assert [(each.deadline, each.is_retry) for each in plain.engine.requests] == [
            (math.inf, False)
        ] * 2

    run(steps)


def test_a_stream_without_a_request_ends_well() -> None:
    async def steps() -> None:
        stream = Stream()
        stream.client.half_close()
        assert await stream.rest() == []

    run(steps)


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
