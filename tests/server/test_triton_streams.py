"""Streams of tritonclient, synchronous and asyncio, and of grpcio's asyncio client."""

import asyncio
import threading
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton  # type: ignore[import-untyped]  # ships no types
import tritonclient.grpc.aio as triton_aio  # type: ignore[import-untyped]  # ships no types
from stoker.app import DEMO
from stoker.protocol import inference_pb2 as pb
from stoker.tensor import Array

from tests.calls import ServeFake, rows, wait_for_in_flight
from tests.conftest import PATIENCE, Endpoints, Serving
from tests.fake_runtime import FakeRuntime
from tests.stream_client import PATH, is_final


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
                "simple", operands(number), request_id=str(number), enable_empty_final_response=asks
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
