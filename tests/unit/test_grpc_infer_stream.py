"""ModelStreamInfer without a transport: order, final answers, failures, deadlines."""

import asyncio
import logging
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stoker.errors import InvalidRequest, ModelNotFound, ServingError
from stoker.protocol import inference_pb2 as pb
from stoker.request import InferRequest, InferResponse
from stoker.telemetry.server_statistics import UnroutedReason
from stoker.transport.grpc.call import CallContext

from tests.engine_double import MODEL, EngineDouble, echo, values
from tests.infer_streams import Stream, ids, is_final, message, run

ENDS_ON_ERROR = CallContext(metadata={"triton_grpc_error": "true"})


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
