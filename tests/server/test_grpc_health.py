"""Health checks and server reflection over both gRPC transports."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from stoker.protocol import reflection_pb2
from stoker.transport.grpc.health import HealthBoard

from tests.grpc_server import ServeCalls, failure, run

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
