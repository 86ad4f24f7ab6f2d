"""How does a server hold under many users who each wait for their answer? REST and gRPC, any model.

Each user reads the model's metadata once, builds inputs that fit, and then calls in a closed loop.
Works with every server of the Open Inference Protocol. Against `make serve`:

    .venv/bin/locust -f benchmarks/locustfile.py --headless --users 50 --spawn-rate 50 \\
        --run-time 20s --host http://localhost:8000 --grpc-host localhost:8001 --model digits

Name a class, RestUser or GrpcUser, at the end to run only that one; `--rows` and `--size` shape the
inputs. Failures are told by HTTP or gRPC status, and make the exit code 1. A closed loop slows down
with its server, so read throughput from it, not latency under a given load.

Always a process of its own: Locust patches the standard library for gevent when it is imported, and
gRPC has to be told so before its first channel.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol, TypeVar

# Locust first: its import patches sockets and threads, and everything below must see that.
from locust import FastHttpUser, User, constant, events, task  # isort: skip

import grpc
import grpc.experimental.gevent as grpc_gevent
import numpy as np
from google.protobuf.message import Message
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from stoker.protocol.inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
)
from stoker.tensor import BY_WIRE, DataType, encode_bytes

grpc_gevent.init_gevent()

SERVICE: Final = "/inference.GRPCInferenceService/"
DEADLINE_S: Final = 60.0
"""After this a call counts as failed: a server that never answers is told, not waited for."""


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # Locust's
def add_options(parser: LocustArgumentParser) -> None:
    """Our options beside Locust's own."""
    parser.add_argument("--model", default="digits", help="model to call")
    parser.add_argument("--rows", type=int, default=1, help="size of a variable first dimension")
    parser.add_argument("--size", type=int, default=1, help="size of other variable dimensions")
    parser.add_argument("--grpc-host", default="localhost:8001", help="address of GrpcUser")


class Options(Protocol):
    """The parsed options that are ours."""

    model: str
    rows: int
    size: int
    grpc_host: str


def options(environment: Environment) -> Options:
    """The options of this run."""
    parsed: Options | None = environment.parsed_options
    if parsed is None:
        raise RuntimeError("expected a run by Locust's command line, which parses --model")
    return parsed


@dataclass(frozen=True, slots=True)
class Input:
    """One input tensor, ready to send: `raw` is the protocol's raw layout."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


def fitting(name: str, datatype: str, shape: list[int], chosen: Options) -> Input:
    """Values for an input as the metadata describe it."""
    sizes = tuple(
        size if size >= 0 else (chosen.size if axis else chosen.rows)
        for axis, size in enumerate(shape)
    )
    return Input(name, datatype, sizes, values(BY_WIRE[datatype], sizes))


def values(datatype: DataType, shape: tuple[int, ...]) -> bytes:
    """Numbers in 0 to 1: valid as pixels, as token numbers, as indices and as masks."""
    noise = np.random.default_rng(0).random(shape, np.float32)
    if datatype is DataType.BYTES:
        return encode_bytes(np.full(shape, "stoker", object))
    if datatype is DataType.BF16:  # the upper half of an FP32
        return (noise.view("<u4") >> 16).astype("<u2").tobytes()
    if datatype in (DataType.FP16, DataType.FP32, DataType.FP64):
        return noise.astype(datatype.numpy).tobytes()
    return (noise < 0.5).astype(datatype.numpy).tobytes()


class RestUser(FastHttpUser):
    """Calls over HTTP/1.1 with binary tensors both ways.

    Of Locust's two HTTP users the fast one: the other spends several times the CPU on a request,
    so that a small machine would measure Locust.
    """

    wait_time = constant(0)
    network_timeout = connection_timeout = DEADLINE_S

    def on_start(self) -> None:
        """Reads the metadata and builds the one request that is sent again and again."""
        chosen = options(self.environment)
        self.path = f"/v2/models/{chosen.model}"
        response = self.client.get(self.path, name="ModelMetadata")
        if response.status_code != HTTPStatus.OK:  # counted as a failure
            raise StopUser
        inputs = [
            fitting(each["name"], each["datatype"], list(map(int, each["shape"])), chosen)
            for each in json.loads(response.content)["inputs"]
        ]
        head = {
            "inputs": [
                {
                    "name": each.name,
                    "datatype": each.datatype,
                    "shape": each.shape,
                    "parameters": {"binary_data_size": len(each.raw)},
                }
                for each in inputs
            ],
            "parameters": {"binary_data_output": True},
        }
        text = json.dumps(head).encode()
        self.body = b"".join([text, *(each.raw for each in inputs)])
        self.headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(text)),
            "Accept-Encoding": "identity",
        }

    @task
    def infer(self) -> None:
        """One call."""
        self.client.post(
            f"{self.path}/infer",
            name="ModelInfer",
            data=self.body,  # type: ignore[arg-type]  # bytes are sent as they are
            headers=self.headers,
        )


Answer = TypeVar("Answer", bound=Message)


class CallFailed(Exception):
    """A gRPC call that failed. Its text is the status alone, so that Locust counts by status."""


class GrpcUser(User):
    """Calls over gRPC with raw tensors, on a connection of its own as a separate client has."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Connects, reads the metadata and builds the one message that is sent again and again."""
        chosen = options(self.environment)
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        own_connection = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(chosen.grpc_host, [*unlimited, *own_connection])
        self.metadata: Callable[..., ModelMetadataResponse] = self.channel.unary_unary(
            f"{SERVICE}ModelMetadata",
            request_serializer=ModelMetadataRequest.SerializeToString,
            response_deserializer=ModelMetadataResponse.FromString,
        )
        # Bytes out: the message is the same each time, so it is encoded once.
        self.call: Callable[..., ModelInferResponse] = self.channel.unary_unary(
            f"{SERVICE}ModelInfer", response_deserializer=ModelInferResponse.FromString
        )
        request = ModelMetadataRequest(name=chosen.model)
        described = self.recorded("ModelMetadata", self.metadata, request)
        if described is None:
            raise StopUser
        inputs = [
            fitting(each.name, each.datatype, list(each.shape), chosen) for each in described.inputs
        ]
        self.message = ModelInferRequest(
            model_name=chosen.model,
            inputs=[
                ModelInferRequest.InferInputTensor(
                    name=each.name, datatype=each.datatype, shape=each.shape
                )
                for each in inputs
            ],
            raw_input_contents=[each.raw for each in inputs],
        ).SerializeToString()

    def on_stop(self) -> None:
        """Closes the connection."""
        self.channel.close()

    @task
    def infer(self) -> None:
        """One call."""
        self.recorded("ModelInfer", self.call, self.message)

    def recorded(
        self, name: str, call: Callable[..., Answer], message: Message | bytes
    ) -> Answer | None:
        """The answer; None if there is none. Told to Locust as it tells itself of HTTP requests."""
        answer: Answer | None = None
        failure: CallFailed | None = None
        start = time.perf_counter()
        try:
            answer = call(message, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            failure = CallFailed(error.code().name)
        self.environment.events.request.fire(
            request_type="grpc",
            name=name,
            response_time=(time.perf_counter() - start) * 1000,
            response_length=answer.ByteSize() if answer is not None else 0,
            exception=failure,
            context={},
        )
        return answer
