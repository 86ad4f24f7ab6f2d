"""The gRPC transports over a real socket, with grpc.aio's and tritonclient's own clients."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton  # type: ignore[import-untyped]  # ships no types
import tritonclient.grpc.aio as triton_aio  # type: ignore[import-untyped]  # ships no types
import uvloop
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc.error_details_pb2 import (  # type: ignore[import-untyped]  # no py.typed
    ErrorInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # no py.typed
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status
from stoker import errors
from stoker.errors import Draining, ErrorCode, Overloaded, ServingError
from stoker.protocol import inference_pb2 as pb
from stoker.protocol import reflection_pb2
from stoker.request import InferRequest, InferResponse
from stoker.settings import GrpcTransport
from stoker.transport.grpc.call import (
    CallContext,
    MessageBytes,
    Reply,
    StreamMethod,
    UnaryMethod,
)
from stoker.transport.grpc.call_end import MAX_DETAILS_BYTES
from stoker.transport.grpc.health import HealthBoard
from stoker.transport.status import STATUS
from stoker.transport.wire.limits import HttpLimits

from tests.engine_double import MODEL, EngineDouble, echo, values
from tests.grpc_server import (
    SERVICE,
    GrpcServer,
    ServeCalls,
    Served,
    infer_message,
    run,
    serving_by,
)

LEAVES = [each for each in vars(errors).values() if isinstance(each, type)
          and issubclass(each, ServingError) and each is not ServingError]  # fmt: skip


@pytest.fixture
def serving(grpc_transport: GrpcTransport) -> ServeCalls:
    """Starts servers with the transport of the test."""
    return serving_by(grpc_transport)


async def failure(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


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


def test_an_inference_stream_that_outlives_the_grace_is_told_of_the_drain(
    serving: ServeCalls,
) -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served:
            stream = served.stream(SERVICE + "ModelStreamInfer", infer_message())
            await engine.submitted.wait()
            await served.server.stop(0)
            error = await failure(stream.read())
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert engine.cancelled.is_set()
            assert served.held_bytes == 0

    run(steps())


def test_an_unknown_method_is_unimplemented(serving: ServeCalls) -> None:
    async def steps() -> None:
        async with serving() as served:
            error = await failure(served.call("/inference.GRPCInferenceService/Nope", b""))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED

    run(steps())


@pytest.mark.parametrize("leaf", LEAVES)
def test_an_error_becomes_its_status(serving: ServeCalls, leaf: type[ServingError]) -> None:
    def refuse(request: InferRequest) -> InferResponse | ServingError:
        return leaf(f"é: {leaf.code.value}\nsecond line")

    async def steps() -> None:
        async with serving(EngineDouble(refuse)) as served:
            error = await failure(served.infer())
            assert error.code().name == STATUS[leaf.code].grpc_name
            assert error.details() == f"é: {leaf.code.value}\nsecond line"

    run(steps())


def test_a_long_message_is_cut_so_that_the_status_arrives(serving: ServeCalls) -> None:
    async def steps() -> None:
        engine = EngineDouble(lambda request: Overloaded("é" * 100_000))
        async with serving(engine) as served:
            error = await failure(served.infer())
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(error.details()) == "é" * (MAX_DETAILS_BYTES // 2) + "..."

    run(steps())


def test_an_overloaded_server_says_when_to_retry(serving: ServeCalls) -> None:
    async def steps() -> None:
        engine = EngineDouble(lambda request: Overloaded("full", retry_after=0.0301))
        async with serving(engine) as served:
            error = await failure(served.infer())
            assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "31"

    run(steps())


def test_no_time_to_retry_is_said_where_none_is_known(serving: ServeCalls) -> None:
    async def steps() -> None:
        async with serving(EngineDouble(lambda request: Overloaded("full"))) as served:
            trailing = dict((await failure(served.infer())).trailing_metadata())
            assert "grpc-retry-pushback-ms" not in trailing

    run(steps())


def sync_failure(address: str) -> Any:
    """How inference fails for the synchronous client: a grpc.Call, which grpcio-status reads."""
    with grpc.insecure_channel(address) as channel:
        infer: Any = channel.unary_unary(SERVICE + "ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            infer(infer_message(), timeout=30)
        return caught.value


@pytest.mark.parametrize("leaf", LEAVES)
def test_an_error_names_its_reason_in_the_details(
    serving: ServeCalls, leaf: type[ServingError]
) -> None:
    async def steps() -> None:
        async with serving(EngineDouble(lambda request: leaf("what 100 % é"))) as served:
            status = rpc_status.from_call(await asyncio.to_thread(sync_failure, served.address))
            assert status is not None
            assert (status.code, status.message) == (STATUS[leaf.code].grpc, "what 100 % é")
            (detail,) = status.details
            info = ErrorInfo()
            assert detail.Unpack(info)
            assert (info.reason, info.domain) == (leaf.code.name, "stoker")

    run(steps())


def test_the_details_of_an_overload_say_when_to_retry(serving: ServeCalls) -> None:
    async def steps() -> None:
        engine = EngineDouble(lambda request: Overloaded("full", retry_after=2.0301))
        async with serving(engine) as served:
            status = rpc_status.from_call(await asyncio.to_thread(sync_failure, served.address))
            assert status is not None
            retry = RetryInfo()
            assert status.details[1].Unpack(retry)
            assert retry.retry_delay.ToMilliseconds() == 2031

    run(steps())


@pytest.mark.parametrize("text", ["x", "é", "€"])
def test_a_long_message_arrives_and_its_details_never_say_another(
    serving: ServeCalls, text: str
) -> None:
    async def steps() -> None:
        engine = EngineDouble(lambda request: Overloaded(text * 10_000, retry_after=1))
        async with serving(engine) as served:
            error = await asyncio.to_thread(sync_failure, served.address)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            status = rpc_status.from_call(error)  # raises where they differ
            assert (status is None) == (text != "x")

    run(steps())


def test_a_stream_that_fails_names_its_reason_in_the_details(serving: ServeCalls) -> None:
    async def fail(
        requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        async for message in requests:
            yield bytes(message)
            raise Draining("going", retry_after=1)

    async def steps() -> None:
        async with serving(methods={"/t.T/Stream": StreamMethod(fail)}) as served:
            stream = served.stream("/t.T/Stream", b"first")
            assert await stream.read() == b"first"
            error = await failure(stream.read())
            status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
            info = ErrorInfo()
            assert status.details[0].Unpack(info)
            assert info.reason == "DRAINING"

    run(steps())


RETRIES = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 2,
    "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""


def test_a_clients_second_attempt_is_known_as_a_retry(serving: ServeCalls) -> None:
    def once(request: InferRequest) -> InferResponse | ServingError:
        return echo(request) if request.is_retry else Draining("going", retry_after=0.001)

    async def steps() -> None:
        engine = EngineDouble(once)
        async with serving(engine, client=(("grpc.service_config", RETRIES),)) as served:
            await served.infer()
            assert [each.is_retry for each in engine.requests] == [False, True]

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


def test_a_handler_sees_the_calls_metadata(serving: ServeCalls) -> None:
    contexts: list[CallContext] = []

    def handle(message: MessageBytes, context: CallContext, reply: Reply) -> None:
        contexts.append(context)
        reply(bytes(message))

    async def steps() -> None:
        async with serving(methods={"/t.T/Unary": UnaryMethod(handle)}) as served:
            metadata = (("traceparent", "00-1"), ("raw-bin", b"\x00\xff"))
            assert await served.call("/t.T/Unary", b"back", metadata=metadata) == b"back"
            assert contexts[0].metadata["traceparent"] == "00-1"
            assert contexts[0].metadata["raw-bin"] == b"\x00\xff"

    run(steps())


def test_metadata_that_comes_twice_is_joined_if_it_is_text(serving: ServeCalls) -> None:
    contexts: list[CallContext] = []

    def handle(message: MessageBytes, context: CallContext, reply: Reply) -> None:
        contexts.append(context)
        reply(bytes(message))

    async def steps() -> None:
        async with serving(methods={"/t.T/Unary": UnaryMethod(handle)}) as served:
            twice = (("a", "1"), ("b-bin", b"\0"), ("a", "2"), ("b-bin", b"\1"))
            await served.call("/t.T/Unary", b"", metadata=twice)
            assert (contexts[0].metadata["a"], contexts[0].metadata["b-bin"]) == ("1, 2", b"\1")

    run(steps())


def test_a_bug_in_a_stream_is_an_internal_error_and_logged(
    serving: ServeCalls,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(
        requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        yield bytes(await anext(requests))
        raise ZeroDivisionError("secret")

    async def steps() -> None:
        async with serving(methods={"/t.T/Stream": StreamMethod(broken)}) as served:
            stream = served.stream("/t.T/Stream", b"first")
            assert await stream.read() == b"first"
            error = await failure(stream.read())
            assert error.code() is grpc.StatusCode.INTERNAL
            assert "secret" not in str(error.details())

    run(steps())
    assert [record.exc_info is not None for record in caplog.records] == [True]


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_one_client_is_served_on_either_loop(
    serving: ServeCalls,
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
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


SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_a_health_check_answers_for_server_service_and_model(serving: ServeCalls) -> None:
    async def steps() -> None:
        board = HealthBoard()
        board.set("", True)
        board.set("bad", False)
        async with serving(board=board) as served:
            answers = [
                (await served.health.Check(health_pb2.HealthCheckRequest(service=name))).status
                for name in ("", "inference.GRPCInferenceService", "bad")
            ]
            assert answers == [SERVING, SERVING, NOT_SERVING]

    run(steps())


def test_a_health_check_of_an_unknown_name_is_not_found(serving: ServeCalls) -> None:
    async def steps() -> None:
        async with serving() as served:
            error = await failure(served.health.Check(health_pb2.HealthCheckRequest(service="x")))
            assert error.code() is grpc.StatusCode.NOT_FOUND

    run(steps())


def test_a_health_watch_streams_every_change(serving: ServeCalls) -> None:
    async def steps() -> None:
        board = HealthBoard()
        async with serving(board=board) as served:
            watch = served.health.Watch(health_pb2.HealthCheckRequest(service="m"))
            seen = [(await watch.read()).status]
            for serves in (True, False):
                board.set("m", serves)
                seen.append((await watch.read()).status)
            board.set("m", True)
            seen.append((await watch.read()).status)
            board.drain()
            seen.append((await watch.read()).status)
            assert seen == [SERVICE_UNKNOWN, SERVING, NOT_SERVING, SERVING, NOT_SERVING]
            watch.cancel()

    run(steps())


def test_reflection_lets_a_client_build_the_messages(serving: ServeCalls) -> None:
    def client_side(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            assert "inference.GRPCInferenceService" in database.get_services()
            pool = DescriptorPool(database)
            service: Any = pool.FindServiceByName("inference.GRPCInferenceService")  # type: ignore[no-untyped-call]  # the stub's
            method = service.FindMethodByName("ModelInfer")
            assert method.input_type.full_name == "inference.ModelInferRequest"
            with pytest.raises(KeyError):
                pool.FindMessageTypeByName("inference.Nope")  # type: ignore[no-untyped-call]  # the stub's

    async def steps() -> None:
        async with serving() as served:
            await asyncio.to_thread(client_side, served.address)

    run(steps())


def test_reflection_v1_answers_on_a_stream(serving: ServeCalls) -> None:
    async def steps() -> None:
        async with serving() as served:
            stream = served.stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
            for name in ("nope.proto", "health.proto"):
                question = reflection_pb2.ServerReflectionRequest(file_by_filename=name)
                await stream.write(question.SerializeToString())
                answer = reflection_pb2.ServerReflectionResponse.FromString(await stream.read())
                assert answer.original_request == question
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF

    run(steps())


def test_an_open_call_finishes_while_the_server_stops(serving: ServeCalls) -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served:
            call = asyncio.ensure_future(served.infer())
            await engine.submitted.wait()
            stopping = asyncio.ensure_future(served.server.stop(30))
            async with grpc.aio.insecure_channel(served.address) as late:
                refused = Served(served.server, served.address, late)

                async def call_until_refused() -> None:
                    while True:  # gRPC core closes its listener in a thread, a moment later
                        await refused.call(SERVICE + "ServerLive", b"")

                error = await failure(call_until_refused())
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert not stopping.done()
            engine.release()
            await call
            await stopping

    run(steps())


def test_a_call_that_outlives_the_grace_is_told_of_the_drain(serving: ServeCalls) -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served:
            call = asyncio.ensure_future(served.infer())
            await engine.submitted.wait()
            await served.server.stop(0)
            error = await failure(call)
            assert error.code().name == STATUS[ErrorCode.DRAINING].grpc_name
            assert "shutting down" in str(error.details())
            assert engine.cancelled.is_set()
            assert served.held_bytes == 0

    run(steps())


def test_a_watch_does_not_delay_the_stop(serving: ServeCalls) -> None:
    async def steps() -> None:
        async with serving() as served:
            watch = served.health.Watch(health_pb2.HealthCheckRequest())
            await watch.read()
            await served.server.stop(3600)
            error = await failure(watch.read())
            assert error.code() is grpc.StatusCode.UNAVAILABLE

    run(steps())


def test_a_cancelled_stop_closes_at_once(serving: ServeCalls) -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served:
            call = asyncio.ensure_future(served.infer())
            await engine.submitted.wait()
            stopping = asyncio.ensure_future(served.server.stop(3600))
            await asyncio.sleep(0)  # lets it begin
            stopping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopping
            await failure(call)

    run(steps())


def test_a_stream_that_is_stopped_while_it_writes_gets_its_status(serving: ServeCalls) -> None:
    large = b"x" * (16 << 20)
    begun = asyncio.Event()

    async def write(
        requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        begun.set()
        yield large  # more than flow control lets through before the client reads
        await asyncio.Event().wait()

    async def steps() -> None:
        async with serving(methods={"/t.T/Stream": StreamMethod(write, is_endless=True)}) as served:
            stream = served.stream("/t.T/Stream", b"first")
            await begun.wait()
            stopping = asyncio.ensure_future(served.server.stop(3600))
            await asyncio.sleep(0)  # lets it begin
            assert await stream.read() == large
            error = await failure(stream.read())
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            await stopping

    run(steps())
