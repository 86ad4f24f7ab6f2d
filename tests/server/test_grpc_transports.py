"""The gRPC transports over a real socket, with grpc.aio's and tritonclient's own clients: calls,
deadlines, messages, metadata."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton  # type: ignore[import-untyped]  # ships no types
import tritonclient.grpc.aio as triton_aio  # type: ignore[import-untyped]  # ships no types
import uvloop
from stoker.protocol import inference_pb2 as pb
from stoker.settings import GrpcTransport
from stoker.transport.grpc.call import CallContext, MessageBytes, Method, Reply, UnaryMethod
from stoker.transport.wire.limits import HttpLimits

from tests.engine_double import MODEL, EngineDouble, echo, values
from tests.grpc_server import SERVICE, GrpcServer, ServeCalls, failure, infer_message, run


def infer_input(data: np.ndarray[Any, Any]) -> Any:
    tensor = triton.InferInput("x", data.shape, "FP32")
    tensor.set_data_from_numpy(data)
    return tensor


def test_tritonclient_is_answered_by_every_method(serving: ServeCalls) -> None:
    def client_side(address: str) -> None:
        with triton.InferenceServerClient(address) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready(MODEL)
            assert not client.is_model_ready("nope")
            assert client.get_server_metadata().name == "stoker"
            assert client.get_model_metadata(MODEL).inputs[0].shape == [-1, 4]
            assert client.get_model_config(MODEL).config.max_batch_size == 8
            assert client.get_inference_statistics(MODEL).model_stats[0].inference_count == 3
            assert [each.name for each in client.get_model_repository_index().models] == [
                MODEL,
                "never",
            ]
            result = client.infer(MODEL, [infer_input(values(2))], request_id="9", priority=1)
            assert result.get_response().id == "9"
            assert np.array_equal(result.as_numpy("x"), values(2))

    async def steps() -> None:
        async with serving() as served:
            await asyncio.to_thread(client_side, served.address)

    run(steps())


def test_tritonclients_asyncio_client_infers(serving: ServeCalls) -> None:
    async def steps() -> None:
        async with serving() as served, triton_aio.InferenceServerClient(served.address) as client:
            result = await client.infer(MODEL, [infer_input(values())])
            assert np.array_equal(result.as_numpy("x"), values())

    run(steps())


def test_what_is_not_served_is_unimplemented_for_tritonclient(serving: ServeCalls) -> None:
    def client_side(address: str) -> None:
        with triton.InferenceServerClient(address) as client:
            for call in (
                client.get_system_shared_memory_status,
                client.get_log_settings,
                lambda: client.load_model(MODEL),
            ):
                with pytest.raises(triton.InferenceServerException) as caught:
                    call()
                assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
                assert "does not serve it" in caught.value.message()

    async def steps() -> None:
        async with serving() as served:
            await asyncio.to_thread(client_side, served.address)

    run(steps())


def test_an_inference_stream_is_answered_and_ends_with_its_client(serving: ServeCalls) -> None:
    async def steps() -> None:
        async with serving() as served:
            stream = served.stream(SERVICE + "ModelStreamInfer", infer_message(), infer_message(2))
            answers = [pb.ModelStreamInferResponse.FromString(each) async for each in stream]
            shapes = [list(each.infer_response.outputs[0].shape) for each in answers]
            assert shapes == [[1, 4], [2, 4]]
            assert await stream.code() is grpc.StatusCode.OK

    run(steps())


def test_the_deadline_reaches_the_request(serving: ServeCalls) -> None:
    async def steps() -> None:
        engine = EngineDouble()
        async with serving(engine) as served:
            earliest = time.monotonic() + 30
            await served.infer(timeout=30)
            latest = time.monotonic() + 30
            await served.infer()
            with_deadline, without = (each.deadline for each in engine.requests)
            # The wire rounds a deadline up, to no more than a hundredth.
            assert earliest - 0.1 <= with_deadline <= latest + 0.5
            assert without == math.inf

    run(steps())


def test_a_cancelled_call_cancels_its_request(serving: ServeCalls) -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served:
            call = asyncio.ensure_future(served.infer())
            await engine.submitted.wait()
            assert served.held_bytes == len(infer_message())
            call.cancel()
            await engine.cancelled.wait()
            await served.server.stop(3600)
            assert served.held_bytes == 0

    run(steps())


def test_a_passed_deadline_cancels_the_request(serving: ServeCalls) -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served:
            error = await failure(served.infer(timeout=0.05))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await engine.cancelled.wait()

    run(steps())


@pytest.mark.slow
def test_a_message_of_100_megabytes_goes_in_and_out(serving: ServeCalls) -> None:
    async def steps() -> None:
        async with serving() as served:
            raw = bytes(range(250)) * 400_000
            message = pb.ModelInferRequest(
                model_name=MODEL,
                inputs=[
                    pb.ModelInferRequest.InferInputTensor(
                        name="x", datatype="UINT8", shape=[len(raw)]
                    )
                ],
                raw_input_contents=[raw],
            ).SerializeToString()
            answer = await served.call(SERVICE + "ModelInfer", message)
            assert pb.ModelInferResponse.FromString(answer).raw_output_contents[0] == raw

    run(steps())


def test_a_message_over_the_limit_is_refused(serving: ServeCalls) -> None:
    async def steps() -> None:
        engine = EngineDouble()
        async with serving(engine, limits=HttpLimits(max_message_bytes=1000)) as served:
            error = await failure(served.call(SERVICE + "ModelInfer", infer_message(1000)))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert engine.requests == []

    run(steps())


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_compressed_message_is_understood(
    serving: ServeCalls, algorithm: grpc.Compression
) -> None:
    async def steps() -> None:
        async with serving() as served:
            answer = await served.call(
                SERVICE + "ModelInfer", infer_message(1000), compression=algorithm
            )
            (raw,) = pb.ModelInferResponse.FromString(answer).raw_output_contents
            assert raw == values(1000).tobytes()

    run(steps())


def keeps(contexts: list[CallContext]) -> dict[str, Method]:
    """A method that answers with its message and keeps the context of each call."""

    def handle(message: MessageBytes, context: CallContext, reply: Reply) -> None:
        contexts.append(context)
        reply(bytes(message))

    return {"/t.T/Unary": UnaryMethod(handle)}


def test_a_handler_sees_the_calls_metadata(serving: ServeCalls) -> None:
    contexts: list[CallContext] = []

    async def steps() -> None:
        async with serving(methods=keeps(contexts)) as served:
            metadata = (("traceparent", "00-1"), ("raw-bin", b"\x00\xff"))
            assert await served.call("/t.T/Unary", b"back", metadata=metadata) == b"back"
            assert contexts[0].metadata["traceparent"] == "00-1"
            assert contexts[0].metadata["raw-bin"] == b"\x00\xff"

    run(steps())


def test_metadata_that_comes_twice_is_joined_if_it_is_text(serving: ServeCalls) -> None:
    contexts: list[CallContext] = []

    async def steps() -> None:
        async with serving(methods=keeps(contexts)) as served:
            twice = (("a", "1"), ("b-bin", b"\0"), ("a", "2"), ("b-bin", b"\1"))
            await served.call("/t.T/Unary", b"", metadata=twice)
            assert (contexts[0].metadata["a"], contexts[0].metadata["b-bin"]) == ("1, 2", b"\1")

    run(steps())


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_one_client_is_served_on_either_loop(
    serving: ServeCalls, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def steps() -> None:
        async with serving() as served:
            for _ in range(3):
                await served.infer()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(steps())


def test_a_taken_port_is_an_os_error(serving: ServeCalls, grpc_transport: GrpcTransport) -> None:
    async def steps() -> None:
        async with serving() as served:
            port = int(served.address.rpartition(":")[2])
            other = GrpcServer(grpc_transport, {}, HttpLimits())
            with pytest.raises(OSError, match=r"taken|in use"):
                await other.start(port)
            await other.close()

    run(steps())


def test_an_open_call_outlives_the_age_of_its_connection(serving: ServeCalls) -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine, limits=HttpLimits(max_connection_age_s=0.05)) as served:
            call = asyncio.ensure_future(served.infer())
            state = grpc.ChannelConnectivity.READY
            await engine.submitted.wait()
            # GOAWAY takes the connection out of the channel, which falls idle.
            await served.channel.wait_for_state_change(state)
            engine.release()
            await call
            engine.answer = echo
            await served.infer()

    run(steps())
