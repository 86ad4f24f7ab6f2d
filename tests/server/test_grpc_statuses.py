"""How calls fail, over both gRPC transports: status, message, details, and the time to retry."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]  # no py.typed
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # no py.typed
from grpc_status import rpc_status
from stoker import errors
from stoker.errors import Draining, Overloaded, ServingError
from stoker.request import InferRequest, InferResponse
from stoker.transport.grpc.call import CallContext, MessageBytes, StreamMethod
from stoker.transport.grpc.call_end import MAX_DETAILS_BYTES
from stoker.transport.status import STATUS

from tests.engine_double import EngineDouble, echo
from tests.grpc_server import SERVICE, ServeCalls, failure, infer_message, run

LEAVES = [each for each in vars(errors).values() if isinstance(each, type)
          and issubclass(each, ServingError) and each is not ServingError]  # fmt: skip


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


def test_a_bug_in_a_stream_is_an_internal_error_and_logged(
    serving: ServeCalls, caplog: pytest.LogCaptureFixture
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
