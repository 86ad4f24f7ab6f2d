"""A gRPC transport over a method table, for tests: each of the two, on a free port, with a client.

async with serving_by("native")(engine) as served:
    await served.infer()
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
import pytest
import uvloop
from grpc_health.v1 import health_pb2_grpc
from stoker.protocol import inference_pb2 as pb
from stoker.settings import GrpcTransport
from stoker.telemetry.server_statistics import ServerStatistics
from stoker.transport.data_ports import DataPorts
from stoker.transport.grpc.call import Method
from stoker.transport.grpc.health import HealthBoard
from stoker.transport.grpc.methods import method_table
from stoker.transport.wire.limits import BufferBudget, HttpLimits

from tests.engine_double import MODEL, ControlDouble, EngineDouble, values
from tests.wire_server import Held

SERVICE = "/inference.GRPCInferenceService/"


def run(steps: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(steps)


async def failure(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    """How the call fails; that it does is asserted."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


class GrpcServer:
    """The gRPC port of the data ports, alone."""

    def __init__(
        self, transport: GrpcTransport, methods: Mapping[str, Method], limits: HttpLimits
    ) -> None:
        self.budget = BufferBudget(1 << 30)
        self.statistics = ServerStatistics()
        self._ports = DataPorts(
            Held(), methods, limits, self.budget, self.statistics, grpcio=transport == "grpcio"
        )

    async def start(self, port: int = 0) -> int:
        _, grpc_port = await self._ports.start("127.0.0.1", 0, port)
        return grpc_port

    async def stop(self, grace: float) -> None:
        """What a drain does once its delay is over."""
        async with asyncio.TaskGroup() as tasks:
            for port in self._ports.draining():
                tasks.create_task(port.finish(grace))

    async def close(self) -> None:
        await self._ports.close()


@dataclass
class Served:
    """A running server and an open channel to it."""

    server: GrpcServer
    address: str
    channel: grpc.aio.Channel

    async def call(self, path: str, message: bytes, **options: Any) -> bytes:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(path)
        return await method(message, **options)

    def stream(self, path: str, *messages: bytes) -> Any:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self.channel.stream_stream(path)
        return method(iter(messages)) if messages else method()

    @property
    def health(self) -> Any:
        return health_pb2_grpc.HealthStub(self.channel)

    async def infer(self, **options: Any) -> bytes:
        return await self.call(SERVICE + "ModelInfer", infer_message(), **options)

    @property
    def held_bytes(self) -> int:
        """What the messages of open calls hold of the server's budget."""
        return self.server.budget.used


class ServeCalls(Protocol):
    """What `serving_by` gives."""

    def __call__(
        self,
        engine: EngineDouble | None = None,
        *,
        board: HealthBoard | None = None,
        methods: dict[str, Method] | None = None,
        limits: HttpLimits | None = None,
        client: tuple[tuple[str, Any], ...] = (),
    ) -> AbstractAsyncContextManager[Served]: ...


def serving_by(transport: GrpcTransport) -> ServeCalls:
    """Starts servers with this transport."""

    @asynccontextmanager
    async def serving(
        engine: EngineDouble | None = None,
        *,
        board: HealthBoard | None = None,
        methods: dict[str, Method] | None = None,
        limits: HttpLimits | None = None,
        client: tuple[tuple[str, Any], ...] = (),
    ) -> AsyncGenerator[Served, None]:
        table = methods or method_table(
            engine or EngineDouble(), ControlDouble(), board or HealthBoard()
        )
        server = GrpcServer(transport, table, limits or HttpLimits())
        address = f"127.0.0.1:{await server.start()}"
        unlimited = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
        try:
            async with grpc.aio.insecure_channel(address, options=unlimited + client) as channel:
                yield Served(server, address, channel)
        finally:
            await server.close()
        assert server.budget.used == 0

    return serving


def infer_message(rows: int = 1) -> bytes:
    return pb.ModelInferRequest(
        model_name=MODEL,
        inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[rows, 4])],
        raw_input_contents=[values(rows).tobytes()],
    ).SerializeToString()
