"""ModelStreamInfer over real sockets: order, batches, failures, going away, draining.

Clients are grpcio's, synchronous and asyncio, and tritonclient's; the model is the fake runtime's
where a run has to be held, else the demo models of ONNX Runtime.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton  # type: ignore[import-untyped]  # ships no types
import tritonclient.grpc.aio as triton_aio  # type: ignore[import-untyped]  # ships no types
from stoker.app import DEMO
from stoker.errors import ExecutionFailed
from stoker.protocol import inference_pb2 as pb
from stoker.tensor import Array, DataType, TensorSpec
from stoker.transport.grpc.infer_stream import MAX_IN_FLIGHT

from tests.calls import (
    ServeFake,
    rows,
    statistics,
    values_of,
    wait_for_in_flight,
    wait_for_queued,
    wait_until,
)
from tests.conftest import FREE_PORTS, PATIENCE, Endpoints, RunningServer, Serving
from tests.fake_runtime import FakeModel, FakeRuntime
from tests.grpc_call import SERVICE

LIVE: Final = SERVICE + "ServerLive"
PATH: Final = SERVICE + "ModelStreamInfer"
LEVELS: Final = """
max_batch_size: 1
dynamic_batching { priority_levels: 2 default_priority_level: 2 }
"""
UNLIMITED: Final = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
]


class Stream:
    """One open stream of grpcio's synchronous client; sends from a thread of grpcio's."""

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        self.sent = 0
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(PATH)
        self.call: Any = method(self._outgoing(), timeout=timeout, metadata=tuple(metadata))

    def send(self, *messages: bytes) -> None:
        for message in messages:
            self._requests.put(message)

    def half_close(self) -> None:
        self._requests.put(None)

    def read(self) -> pb.ModelStreamInferResponse:
        return pb.ModelStreamInferResponse.FromString(next(self.call))

    def values(self, count: int) -> list[float]:
        """The first element of each of the next `count` answers, which must be good."""
        return [value_of(self.read()) for _ in range(count)]

    def end(self) -> grpc.StatusCode:
        """The stream's status, when no answer comes before it."""
        with contextlib.suppress(grpc.RpcError, StopIteration):
            raise AssertionError(f"expected the end of the stream, got {self.read()}")
        code: grpc.StatusCode = self.call.code()
        return code

    def _outgoing(self) -> Iterator[bytes]:
        for message in iter(self._requests.get, None):
            self.sent += 1
            yield message


@contextlib.contextmanager
def open_stream(at: Endpoints, **options: Any) -> Iterator[Stream]:
    with grpc.insecure_channel(at.grpc, options=UNLIMITED) as channel:
        stream = Stream(channel, **options)
        try:
            yield stream
        finally:
            stream.half_close()  # ends grpcio's thread


def request(value: float, *, id: str = "", width: int = 4, priority: int = 0) -> bytes:
    data = rows(value, width=width)
    message = pb.ModelInferRequest(
        model_name="m",
        id=id,
        inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=data.shape)],
        raw_input_contents=[data.tobytes()],
    )
    if priority:
        message.parameters["priority"].int64_param = priority
    return message.SerializeToString()


WRONG: Final = pb.ModelInferRequest(model_name="nope", id="wrong").SerializeToString()


def value_of(answer: pb.ModelStreamInferResponse) -> float:
    assert answer.error_message == ""
    (raw,) = answer.infer_response.raw_output_contents
    return float(np.frombuffer(raw, np.float32)[0])


def occupy(stream: Stream, runtime: FakeRuntime, value: float = 0) -> None:
    """Sends a request and returns when the model is held inside its run."""
    runtime.forget()
    runtime.hold()
    stream.send(request(value))
    runtime.wait_for_run()


def is_final(response: Any) -> bool:
    return bool(response.parameters["triton_final_response"].bool_param)


def test_requests_of_one_stream_form_a_batch(serve_fake: ServeFake, runtime: FakeRuntime) -> None:
    server = serve_fake()
    with open_stream(server.at) as stream:
        occupy(stream, runtime)
        stream.send(*map(request, (1, 2, 3, 4, 5)))
        wait_for_queued(server, 5)
        runtime.release()
        stream.half_close()
        assert stream.values(6) == [0, 2, 4, 6, 8, 10]
        assert stream.end() is grpc.StatusCode.OK
    assert [values_of(run) for run in runtime.runs] == [[0], [1, 2, 3, 4, 5]]


def test_answers_come_in_the_order_of_the_requests_when_later_ones_run_first(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake(LEVELS)
    with open_stream(server.at) as stream:
        occupy(stream, runtime)
        stream.send(request(1, priority=2), request(2, priority=1), request(3, priority=1))
        wait_for_queued(server, 3)
        runtime.release()
        assert stream.values(4) == [0, 2, 4, 6]
    assert [values_of(run) for run in runtime.runs] == [[0], [2], [3], [1]]


def test_two_streams_do_not_wait_for_each_other(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with open_stream(server.at) as held, open_stream(server.at) as other:
        occupy(held, runtime)
        other.send(WRONG)
        assert other.read().error_message.startswith("Request for unknown model")
        runtime.release()
        assert held.values(1) == [0]


def test_a_failure_that_is_known_at_once_waits_for_the_answers_before_it(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with open_stream(server.at) as stream:
        occupy(stream, runtime)
        stream.send(WRONG, b"\xff\xff\xff", request(1))
        wait_for_queued(server, 1)
        runtime.release()
        assert stream.values(1) == [0]
        unknown, malformed = stream.read(), stream.read()
        assert unknown.error_message.startswith("Request for unknown model")
        assert unknown.infer_response.id == "wrong"
        assert unknown.infer_response.model_name == "nope"
        assert "do not parse" in malformed.error_message
        assert all(is_final(each.infer_response) for each in (unknown, malformed))
        assert stream.values(1) == [2]
    assert server.at.metric("stoker_requests_unrouted_total", reason="malformed") == 1


def test_a_request_whose_run_fails_ends_no_stream(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    runtime.model.fail = lambda feeds: ExecutionFailed("no") if 13 in feeds["x"] else None
    server = serve_fake()
    with open_stream(server.at) as stream:
        stream.send(request(1), request(13, id="guilty"), request(2))
        assert stream.values(1) == [2]
        failed = stream.read()
        assert "no" in failed.error_message
        assert failed.infer_response.id == "guilty"
        assert stream.values(1) == [4]


def test_a_stream_that_is_cancelled_takes_its_requests_out_of_the_queue(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with open_stream(server.at) as gone, open_stream(server.at) as stays:
        occupy(stays, runtime)
        gone.send(request(1), request(2), request(3))
        wait_for_queued(server, 3)
        gone.call.cancel()
        wait_for_in_flight(server, 1)
        admission = server.on_loop(lambda each: each.engine.served("m").admission)
        assert (admission.rows, admission.bytes) == (0, 0)
        stays.send(request(4))
        wait_for_queued(server, 1)
        runtime.release()
        assert stays.values(2) == [0, 8]
    assert [values_of(run) for run in runtime.runs] == [[0], [4]]
    assert server.at.metric("nv_inference_request_failure", model="m", reason="CANCELED") == 3


def test_a_client_whose_connection_ends_takes_its_requests_out_of_the_queue(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with open_stream(server.at) as gone:
        occupy(gone, runtime)
        gone.send(request(1), request(2))
        wait_for_queued(server, 2)
    wait_for_in_flight(server, 0)
    runtime.release()
    with open_stream(server.at) as next_one:
        next_one.send(request(5))
        assert next_one.values(1) == [10]


def test_the_deadline_of_a_stream_ends_its_requests(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with open_stream(server.at) as holds, open_stream(server.at, timeout=1.0) as stream:
        occupy(holds, runtime)
        stream.send(request(1), request(2))
        wait_for_queued(server, 2)
        with contextlib.suppress(grpc.RpcError):
            while True:  # the server may tell of each request before the client ends the call
                assert "deadline" in stream.read().error_message.lower()
        assert stream.call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_for_in_flight(server, 1)
        runtime.release()
        assert holds.values(1) == [0]
    assert [values_of(run) for run in runtime.runs] == [[0]]


def test_a_client_that_does_not_read_is_held_back_and_loses_nothing(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    width, count = 1 << 16, 600  # 256 KiB each way: more than grpcio's windows take at once
    runtime.model = FakeModel(
        (TensorSpec("x", DataType.FP32, (-1, width)),),
        (TensorSpec("y", DataType.FP32, (-1, width)),),
    )
    server = serve_fake()
    with open_stream(server.at) as stream:
        stream.send(*(request(number, width=width) for number in range(count)))
        stream.half_close()
        wait_until(is_still(server), "a stream that is read no further")
        answered = statistics(server).success_count
        assert 0 < answered < MAX_IN_FLIGHT + 64  # what windows and gRPC core's buffers take
        assert stream.sent < count
        assert stream.values(count) == [2 * number for number in range(count)]
        assert stream.end() is grpc.StatusCode.OK


def is_still(server: RunningServer) -> Callable[[], bool]:
    """Whether the model answered something, and nothing more for 200 questions in a row."""
    seen = [0]

    def ask() -> bool:
        answered = statistics(server).success_count
        if answered != seen[-1]:
            seen.clear()
        seen.append(answered)
        return answered > 0 and len(seen) > 200

    return ask


def test_a_drain_answers_what_a_stream_has_sent_and_then_tells_its_client_to_leave(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    patient = replace(FREE_PORTS, drain_timeout_s=3600.0)
    server = serve_fake(settings=patient)
    with open_stream(server.at) as stream, ThreadPoolExecutor(1) as pool:
        occupy(stream, runtime)
        stream.send(request(1), request(2))
        wait_for_queued(server, 2)
        draining = pool.submit(server.drain)
        wait_until(lambda: server.at.probe("/readyz")[0] == 503, "a server that drains")
        runtime.release()
        assert stream.values(3) == [0, 2, 4]
        assert stream.end() is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in stream.call.details()
        assert draining.result(PATIENCE) == 0


def test_an_idle_stream_does_not_hold_up_a_drain(serve_fake: ServeFake) -> None:
    patient = replace(FREE_PORTS, drain_timeout_s=3600.0)
    server = serve_fake(settings=patient)
    with open_stream(server.at) as stream:
        stream.send(request(1))
        assert stream.values(1) == [2]
        assert server.drain() == 0
        assert stream.end() is grpc.StatusCode.UNAVAILABLE


def test_a_stream_that_has_sent_nothing_does_not_hold_up_a_drain(serve_fake: ServeFake) -> None:
    patient = replace(FREE_PORTS, drain_timeout_s=3600.0)
    server = serve_fake(settings=patient)
    with grpc.insecure_channel(server.at.grpc) as channel:
        stream = Stream(channel)
        is_live: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(LIVE)
        is_live(b"")  # the stream's head came before it
        assert server.drain() == 0
        assert stream.end() is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in stream.call.details()
        stream.half_close()


def test_a_stream_that_outlives_the_drain_is_told_of_each_request_it_loses(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    hurried = replace(FREE_PORTS, drain_timeout_s=0.1)
    server = serve_fake(settings=hurried)
    with open_stream(server.at) as stream:
        occupy(stream, runtime)
        stream.send(request(1))
        wait_for_queued(server, 1)
        assert server.drain() == 2
        assert ["shutting down" in stream.read().error_message for _ in range(2)] == [True, True]
        assert stream.end() is grpc.StatusCode.UNAVAILABLE


def test_a_client_that_asks_for_it_gets_the_first_failure_as_the_streams_status(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with (
        open_stream(server.at) as holds,
        open_stream(server.at, metadata=[("triton_grpc_error", "true")]) as stream,
    ):
        stream.send(request(1))
        assert stream.values(1) == [2]
        occupy(holds, runtime)
        stream.send(WRONG, request(2))
        assert stream.end() is grpc.StatusCode.NOT_FOUND
        assert stream.call.details().startswith("Request for unknown model")
        wait_for_in_flight(server, 1)
        runtime.release()
        assert holds.values(1) == [0]


# ---- tritonclient ----


@pytest.fixture(scope="module")
def at(serve_module: Serving) -> Endpoints:
    return serve_module(DEMO).at


def sixteen(first: int = 0) -> Array:
    return (np.arange(16, dtype=np.int32) + first).reshape(1, 16)


def operands(first: int) -> list[Any]:
    """INPUT0 and INPUT1 of `simple`."""
    inputs = []
    for name, data in (("INPUT0", sixteen(first)), ("INPUT1", sixteen(1))):
        tensor = triton.InferInput(name, list(data.shape), "INT32")
        inputs.append(tensor.set_data_from_numpy(data))
    return inputs


class Callback:
    """Collects what tritonclient calls back with."""

    def __init__(self) -> None:
        self.got: list[tuple[Any, Any]] = []
        self._came = threading.Condition()

    def __call__(self, result: Any, error: Any) -> None:
        with self._came:
            self.got.append((result, error))
            self._came.notify_all()

    def wait(self, count: int) -> list[tuple[Any, Any]]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.got) >= count, PATIENCE)
            return self.got


def test_a_thousand_requests_of_tritonclient_are_answered_in_order_with_a_failure_between(
    at: Endpoints,
) -> None:
    callback = Callback()
    with triton.InferenceServerClient(at.grpc) as client:
        client.start_stream(callback)
        for number in range(1000):
            model = "nope" if number == 500 else "simple"
            client.async_stream_infer(model, operands(number), request_id=str(number))
        client.stop_stream()  # waits for all answers
    assert len(callback.got) == 1000
    for number, (result, error) in enumerate(callback.got):
        if number == 500:
            assert result is None
            assert error.message().startswith("Request for unknown model")
            continue
        assert error is None
        response = result.get_response()
        assert response.id == str(number)
        assert is_final(response)
        assert np.array_equal(result.as_numpy("OUTPUT0"), sixteen(number) + sixteen(1))


@pytest.mark.parametrize("asks", [False, True])
def test_an_empty_final_response_is_none_of_an_ordinary_model(at: Endpoints, asks: bool) -> None:
    callback = Callback()
    with triton.InferenceServerClient(at.grpc) as client:
        client.start_stream(callback)
        for number in range(3):
            client.async_stream_infer(
                "simple",
                operands(number),
                request_id=str(number),
                enable_empty_final_response=asks,
            )
        client.stop_stream()
    responses = [result.get_response() for result, _ in callback.got]
    assert [each.id for each in responses] == ["0", "1", "2"]
    assert all(map(is_final, responses))
    assert all(len(each.outputs) == 2 for each in responses)


def test_tritonclient_can_leave_without_waiting(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    runtime.hold()
    callback = Callback()
    tensor = triton.InferInput("x", [1, 4], "FP32").set_data_from_numpy(rows(1))
    with triton.InferenceServerClient(server.at.grpc) as client:
        client.start_stream(callback)
        for _ in range(3):
            client.async_stream_infer("m", [tensor])
        wait_for_in_flight(server, 3)
        client.stop_stream(cancel_requests=True)
        wait_for_in_flight(server, 0)
    ((result, error),) = callback.wait(1)
    assert result is None
    assert error.status() == "StatusCode.CANCELLED"


def test_tritonclient_gets_a_status_for_the_first_failure_where_it_asks_for_one(
    at: Endpoints,
) -> None:
    callback = Callback()
    with triton.InferenceServerClient(at.grpc) as client:
        client.start_stream(callback, headers={"triton_grpc_error": "true"})
        client.async_stream_infer("nope", operands(0))
        ((_, error),) = callback.wait(1)
        assert error.status() == "StatusCode.NOT_FOUND"
        client.stop_stream()
        client.start_stream(callback)
        client.async_stream_infer("simple", operands(0))
        client.stop_stream()
    result, error = callback.got[1]
    assert error is None
    assert np.array_equal(result.as_numpy("OUTPUT0"), sixteen() + sixteen(1))


def test_tritonclients_asyncio_stream_goes_on_after_a_failure(at: Endpoints) -> None:
    async def requests() -> Any:
        for number in range(50):
            yield {
                "model_name": "nope" if number == 20 else "simple",
                "inputs": operands(number),
                "request_id": str(number),
                "enable_empty_final_response": True,
            }

    async def ask() -> None:
        async with triton_aio.InferenceServerClient(at.grpc) as client:
            answers = [each async for each in client.stream_infer(requests())]
        assert len(answers) == 50
        for number, (result, error) in enumerate(answers):
            assert (error is not None) == (number == 20)
            if error is None:
                assert result.get_response().id == str(number)
                assert is_final(result.get_response())

    asyncio.run(asyncio.wait_for(ask(), PATIENCE))


def test_an_asyncio_client_may_send_and_read_in_turns(at: Endpoints) -> None:
    def message(first: int) -> bytes:
        return pb.ModelInferRequest(
            model_name="simple",
            id=str(first),
            inputs=[
                pb.ModelInferRequest.InferInputTensor(name=name, datatype="INT32", shape=[1, 16])
                for name in ("INPUT0", "INPUT1")
            ],
            raw_input_contents=[sixteen(first).tobytes(), sixteen(1).tobytes()],
        ).SerializeToString()

    async def ask() -> None:
        async with grpc.aio.insecure_channel(at.grpc) as channel:
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(PATH)
            call: Any = method()
            for number in range(5):
                await call.write(message(number))
                answer = pb.ModelStreamInferResponse.FromString(await call.read())
                assert answer.infer_response.id == str(number)
                raw = answer.infer_response.raw_output_contents[0]
                assert raw == (sixteen(number) + sixteen(1)).tobytes()
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    asyncio.run(asyncio.wait_for(ask(), PATIENCE))
