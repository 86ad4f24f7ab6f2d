"""benchmarks/locustfile.py as users run it: many in flight, fitting inputs, failures by status.

Locust is a process of its own. It meets our server, and a model of all datatypes on a server that
speaks just enough of the protocol to hold every request until more than 20 are there at once. In
both cases only real concurrency lets the run go on.
"""

import asyncio
import json
import math
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import grpc
import pytest
from aiohttp import web
from google.protobuf.message import Message
from stoker.protocol.inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelStreamInferResponse,
)
from stoker.tensor import BY_WIRE, DataType, from_raw

from tests.conftest import RunningServer, Serving
from tests.fake_runtime import FakeRuntime
from tests.models import double, write_repository

LOCUSTFILE: Final = Path(__file__).resolve().parents[2] / "benchmarks" / "locustfile.py"
LOCUST: Final = (
    *(sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE)),
    *("--headless", "--users=50", "--spawn-rate=50"),
)
IN_FLIGHT: Final = 20
ENOUGH: Final = 200
"""Requests after which a run has shown what it should."""
ROWS, SIZE = 3, 5
INPUTS: Final = {each.wire.lower(): each for each in DataType}
"""One input of each datatype, all of shape [-1,2,-1]."""


@dataclass
class Crowd:
    """Counts who is inside, and lets nobody out before more than IN_FLIGHT are."""

    refuse: bool = False
    inside: int = 0
    served: int = 0
    gathered: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def hold(self) -> None:
        self.inside += 1
        if self.inside > IN_FLIGHT:
            self.gathered.set()
        await self.gathered.wait()
        self.inside -= 1
        self.served += 1
        if self.served == ENOUGH:
            self.done.set()


def fits(tensors: Iterable[tuple[str, str, Iterable[int], bytes]]) -> bool:
    """Whether these (name, datatype, shape, raw) are what the model asks for."""
    seen = {}
    for name, datatype, shape, raw in tensors:
        tensor = from_raw(name, BY_WIRE[datatype], tuple(shape), raw)
        seen[name] = tensor.datatype
        assert tensor.shape == (ROWS, 2, SIZE)
        assert tensor.array().size == math.prod(tensor.shape)
    return seen == INPUTS


@asynccontextmanager
async def rest_server(crowd: Crowd) -> AsyncIterator[str]:
    async def metadata(_: web.Request) -> web.Response:
        described = [
            {"name": name, "datatype": datatype.wire, "shape": [-1, 2, -1]}
            for name, datatype in INPUTS.items()
        ]
        return web.json_response({"name": "any", "inputs": described})

    async def infer(request: web.Request) -> web.Response:
        body = await request.read()
        at = int(request.headers["Inference-Header-Content-Length"])
        tensors = []
        for each in json.loads(body[:at])["inputs"]:
            end = at + each["parameters"]["binary_data_size"]
            tensors.append((each["name"], each["datatype"], each["shape"], body[at:end]))
            at = end
        await crowd.hold()
        if crowd.refuse:
            return web.json_response({"error": "full"}, status=429)
        return web.json_response({}, status=200 if at == len(body) and fits(tensors) else 400)

    app = web.Application(client_max_size=1 << 24)
    app.router.add_get("/v2/models/any", metadata)
    app.router.add_post("/v2/models/any/infer", infer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"--host=http://{host}:{port}"
    finally:
        await runner.cleanup()


Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"
Asked = TypeVar("Asked", bound=Message)
Answered = TypeVar("Answered", bound=Message)


def method(
    serve: Callable[[Asked, Context], Awaitable[Answered]], asked: type[Asked]
) -> "grpc.RpcMethodHandler[Asked, Answered]":
    return grpc.unary_unary_rpc_method_handler(
        serve, asked.FromString, lambda answer: answer.SerializeToString()
    )


@asynccontextmanager
async def grpc_server(crowd: Crowd) -> AsyncIterator[str]:
    async def metadata(_: ModelMetadataRequest, __: Context) -> ModelMetadataResponse:
        described = [
            ModelMetadataResponse.TensorMetadata(
                name=name, datatype=datatype.wire, shape=[-1, 2, -1]
            )
            for name, datatype in INPUTS.items()
        ]
        return ModelMetadataResponse(name="any", inputs=described)

    async def infer(request: ModelInferRequest, context: Context) -> ModelInferResponse:
        tensors = [
            (each.name, each.datatype, each.shape, raw)
            for each, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        ]
        await crowd.hold()
        if crowd.refuse:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        if not fits(tensors):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "does not fit")
        return ModelInferResponse(model_name="any")

    async def infer_in_stream(
        requests: AsyncIterator[ModelInferRequest], context: Context
    ) -> AsyncIterator[ModelStreamInferResponse]:
        async for request in requests:
            if crowd.refuse:
                await crowd.hold()
                yield ModelStreamInferResponse(error_message="full")
            else:
                yield ModelStreamInferResponse(infer_response=await infer(request, context))

    server = grpc.aio.server()
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "ModelMetadata": method(metadata, ModelMetadataRequest),
        "ModelInfer": method(infer, ModelInferRequest),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
            infer_in_stream,
            ModelInferRequest.FromString,
            lambda answer: answer.SerializeToString(),
        ),
    }
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"--grpc-host=127.0.0.1:{port}"
    finally:
        await server.stop(None)


SERVERS: Final = {"RestUser": rest_server, "GrpcUser": grpc_server, "StreamUser": grpc_server}


async def run_locust(user: str, crowd: Crowd) -> tuple[int, str]:
    """Exit status and output of a run of 50 users that ends once ENOUGH requests were served."""
    async with SERVERS[user](crowd) as address:
        process = await asyncio.create_subprocess_exec(
            *(*LOCUST, "--model=any", f"--rows={ROWS}", f"--size={SIZE}", address, user),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = asyncio.create_task(process.communicate(), name="output of locust")
        done = asyncio.create_task(crowd.done.wait(), name="enough requests")
        await asyncio.wait({output, done}, return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
        if not output.done():
            process.terminate()  # Locust stops its users and prints what it counted
        text = (await output)[0].decode()
        assert process.returncode is not None
        return process.returncode, text


@pytest.mark.parametrize("user", SERVERS)
def test_fifty_users_have_more_than_twenty_fitting_requests_in_flight(user: str) -> None:
    async def run() -> tuple[int, str, int]:
        crowd = Crowd()
        return *await run_locust(user, crowd), crowd.served

    status, output, served = asyncio.run(run())
    assert served >= ENOUGH, output
    assert status == 0, output


@pytest.mark.parametrize(
    ("user", "counted_as"),
    [("RestUser", "429"), ("GrpcUser", "RESOURCE_EXHAUSTED"), ("StreamUser", "full")],
)
def test_refused_calls_are_failures_counted_by_status(user: str, counted_as: str) -> None:
    async def run() -> tuple[int, str]:
        return await run_locust(user, Crowd(refuse=True))

    status, output = asyncio.run(run())
    assert status == 1, output
    assert counted_as in output


@pytest.mark.parametrize("user", ["RestUser", "GrpcUser"])
def test_our_server_holds_more_than_twenty_of_fifty_users_at_once(
    user: str, serve: Serving, tmp_path: Path
) -> None:
    runtime = FakeRuntime()
    server = serve(write_repository(tmp_path, {"any": double()}), runtime=runtime)
    runtime.hold()
    address = f"--host={server.at.url}" if user == "RestUser" else f"--grpc-host={server.at.grpc}"
    with subprocess.Popen(
        [*LOCUST, "--model=any", address, user],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            while server.at.metric("stoker_requests_in_flight") <= IN_FLIGHT:
                assert process.poll() is None, process.communicate()[0]
            runtime.forget()
            runtime.release()
            runtime.wait_for_finish(ENOUGH // IN_FLIGHT)
            process.terminate()
            output = process.communicate()[0]
        finally:
            process.kill()
            runtime.release()
    assert process.returncode == 0, output


def arguments(server: RunningServer, *more: str) -> list[str]:
    return [*LOCUST, f"--host={server.at.url}", f"--grpc-host={server.at.grpc}", *more]


def test_a_mix_calls_its_models_by_its_protocols(serve: Serving, tmp_path: Path) -> None:
    server = serve(write_repository(tmp_path, {"a": double(), "b": double()}))
    mix = ("--model=a=3,b", "--protocols=json=1,binary=1,grpc=1")
    with subprocess.Popen(
        arguments(server, *mix), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            while server.at.metric("nv_inference_request_success", model="b") < ENOUGH:
                assert process.poll() is None, process.communicate()[0]
            process.terminate()
            output = process.communicate()[0]
        finally:
            process.kill()
    assert process.returncode == 0, output
    for row in ("a, JSON", "b, JSON", "a, binary", "b, binary", "grpc     a", "grpc     b"):
        assert row in output
    asked = [server.at.metric("nv_inference_request_success", model=model) for model in "ab"]
    assert asked[0] > asked[1]


def test_stream_users_are_left_out_with_a_message_where_streams_are_not_served() -> None:
    async def run() -> tuple[int, str]:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        process = await asyncio.create_subprocess_exec(
            *(*LOCUST, f"--grpc-host=127.0.0.1:{port}", "--host=http://127.0.0.1", "StreamUser"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        text = (await process.communicate())[0].decode()
        await server.stop(None)
        assert process.returncode is not None
        return process.returncode, text

    status, output = asyncio.run(run())
    assert status == 1, output
    assert "stream users are left out" in output
    assert "no users are left" in output


@pytest.mark.slow  # Locust looks at a shape once a second
def test_a_shape_changes_the_number_of_users_and_ends_the_run(
    serve: Serving, tmp_path: Path
) -> None:
    server = serve(write_repository(tmp_path, {"a": double()}))
    shape = ("--model=a", "--shape=ramp", "--run-time=3s", "RestUser")
    done = subprocess.run(
        arguments(server, *shape), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    users = [int(each) for each in re.findall(r"updating to (\d+) users", done.stderr)]
    assert users == sorted(users)
    assert users[0] < users[-1] <= 50
