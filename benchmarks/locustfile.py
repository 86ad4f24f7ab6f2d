"""How does a server hold under many users who each wait for their answer? Any model and protocol.

Each user reads the models' metadata once, builds inputs that fit, and then calls in a closed loop.
Works with every server of the Open Inference Protocol. Against `make serve`, from the repository:

    .venv/bin/locust -f benchmarks/locustfile.py --headless --users 50 --spawn-rate 50 \\
        --run-time 20s --host http://localhost:8000 --grpc-host localhost:8001 \\
        --model digits=3,simple=1 --protocols json=1,binary=2,grpc=2,stream=1 --shape spike

`--model` and `--protocols` are weighted mixes; without `--protocols` half of the users call REST
with binary tensors and half gRPC. A class named at the end (RestUser, JsonUser, GrpcUser,
StreamUser) runs only that one. `--shape` is ramp, spike or soak, stretched over `--run-time`.
`--rows` and `--size` shape the inputs. Failures are told by HTTP or gRPC status, and make the exit
code 1. A stream's users are left out, with a message, where ModelStreamInfer is not served.

Where Locust is the limit: it runs on one core, and a call costs it more than it costs the server.
With 50 users and a model that computes next to nothing, one core of an AMD EPYC is full at some
3,000 calls a second over REST (binary or JSON) and 2,000 over gRPC, in streams or not: rates near
those are Locust's, not the server's, and latencies there are the wait for Locust. Start
workers (`--processes 4`) on other cores than the server's, or ask `benchmarks.side_by_side`, whose
load costs little. A closed loop also slows down with its server: read throughput from it, not
latency under a given load.

Always a process of its own: Locust patches the standard library for gevent when it is imported, and
gRPC has to be told so before its first channel.
"""

import json
import logging
import queue
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol, TypeVar

# Locust first: its import patches sockets and threads, and everything below must see that.
from locust import FastHttpUser, LoadTestShape, User, constant, events, task  # isort: skip

import gevent  # type: ignore[import-untyped]  # its stubs are not in the package
import grpc
import grpc.experimental.gevent as grpc_gevent
from google.protobuf.message import Message
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import Runner
from stoker.protocol.inference_pb2 import (
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelStreamInferResponse,
)

from benchmarks.blocking_grpc import SERVICE, connected, stream, why_no_stream
from benchmarks.fitting_requests import (
    Input,
    binary_body,
    fitting,
    grpc_message,
    json_body,
    weights,
    without_json,
)
from benchmarks.load_shapes import SHAPES

grpc_gevent.init_gevent()

DEADLINE_S: Final = 60.0
"""After this a call counts as failed: a server that never answers is told, not waited for."""
SHAPED_S: Final = 60.0
"""How long a shape takes without --run-time."""

_log: Final = logging.getLogger("benchmarks.locustfile")


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # Locust's
def add_options(parser: LocustArgumentParser) -> None:
    """Our options beside Locust's own."""
    parser.add_argument("--model", default="digits", help="models to call: NAME[=WEIGHT],...")
    parser.add_argument("--rows", type=int, default=1, help="size of a variable first dimension")
    parser.add_argument("--size", type=int, default=1, help="size of other variable dimensions")
    parser.add_argument("--grpc-host", default="localhost:8001", help="address for gRPC")
    parser.add_argument(
        "--protocols", default="", help="json, binary, grpc, stream: NAME[=WEIGHT],..."
    )
    parser.add_argument("--shape", choices=["", *SHAPES], default="", help="users over time")


class Options(Protocol):
    """The parsed options that are read here."""

    model: str
    rows: int
    size: int
    grpc_host: str
    protocols: str
    shape: str
    user_classes: list[str]
    num_users: int | None
    run_time: float | None


def options(environment: Environment) -> Options:
    """The options of this run."""
    parsed: Options | None = environment.parsed_options
    if parsed is None:
        raise RuntimeError("expected a run by Locust's command line, which parses --model")
    return parsed


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request to one model, sent again and again."""

    model: str
    content: bytes
    headers: dict[str, str]


class Mix:
    """Requests to several models, drawn by weight."""

    def __init__(self, chosen: Options, prepare: Callable[[str], Prepared]) -> None:
        parts = weights(chosen.model)
        self._prepared = [prepare(model) for model in parts]
        self._weights = list(parts.values())

    def draw(self) -> Prepared:
        """The request of the next call."""
        return random.choices(self._prepared, self._weights)[0]


class _HttpUser(FastHttpUser):
    """Of Locust's two HTTP users the fast one: the other spends several times the CPU on a request,
    so that a small machine would measure Locust."""

    abstract = True
    wait_time = constant(0)
    network_timeout = connection_timeout = DEADLINE_S
    form = ""

    def on_start(self) -> None:
        """Reads the metadata and builds the requests."""
        self.mix = Mix(options(self.environment), self.prepare)

    def prepare(self, model: str) -> Prepared:
        """Reads a model's metadata and builds its request."""
        chosen = options(self.environment)
        response = self.client.get(f"/v2/models/{model}", name="ModelMetadata")
        if response.status_code != HTTPStatus.OK:  # counted as a failure
            raise StopUser
        described = json.loads(response.content)["inputs"]
        return self.built(
            model,
            [
                fitting(
                    each["name"],
                    each["datatype"],
                    list(map(int, each["shape"])),
                    rows=chosen.rows,
                    size=chosen.size,
                )
                for each in described
            ],
        )

    def built(self, model: str, inputs: list[Input]) -> Prepared:
        """The request in this user's form."""
        raise NotImplementedError

    @task
    def infer(self) -> None:
        """One call."""
        call = self.mix.draw()
        self.client.post(
            f"/v2/models/{call.model}/infer",
            name=f"{call.model}, {self.form}",
            data=call.content,  # type: ignore[arg-type]  # bytes are sent as they are
            headers=call.headers,
        )


class RestUser(_HttpUser):
    """Calls over HTTP/1.1 with binary tensors both ways."""

    form = "binary"

    def built(self, model: str, inputs: list[Input]) -> Prepared:
        """The request with binary tensors."""
        body, length = binary_body(inputs)
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(length),
            "Accept-Encoding": "identity",
        }
        return Prepared(model, body, headers)


class JsonUser(_HttpUser):
    """Calls over HTTP/1.1 with JSON both ways."""

    form = "JSON"

    def built(self, model: str, inputs: list[Input]) -> Prepared:
        """The request in JSON."""
        if (datatype := without_json(inputs)) is not None:
            _log.error("model %s: the protocol has no JSON for %s", model, datatype)
            raise StopUser
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        return Prepared(model, json_body(inputs), headers)


Answer = TypeVar("Answer", bound=Message)


class CallFailed(Exception):
    """A gRPC call that failed. Its text is the status alone, so that Locust counts by status."""


class _GrpcUser(User):
    """Calls with raw tensors."""

    abstract = True
    wait_time = constant(0)

    def on_start(self) -> None:
        """Connects, reads the metadata and builds the messages."""
        chosen = options(self.environment)
        self.channel = connected(chosen.grpc_host)
        self.metadata: Callable[..., ModelMetadataResponse] = self.channel.unary_unary(
            f"{SERVICE}ModelMetadata",
            request_serializer=ModelMetadataRequest.SerializeToString,
            response_deserializer=ModelMetadataResponse.FromString,
        )
        self.mix = Mix(chosen, self.prepare)

    def prepare(self, model: str) -> Prepared:
        """Reads a model's metadata and builds its message."""
        chosen = options(self.environment)
        request = ModelMetadataRequest(name=model)
        described = self.recorded(
            "grpc", "ModelMetadata", lambda: self.metadata(request, timeout=DEADLINE_S)
        )
        if described is None:
            raise StopUser
        inputs = [
            fitting(each.name, each.datatype, list(each.shape), rows=chosen.rows, size=chosen.size)
            for each in described.inputs
        ]
        return Prepared(model, grpc_message(model, inputs), {})

    def on_stop(self) -> None:
        """Closes the connection."""
        self.channel.close()

    def recorded(self, kind: str, name: str, call: Callable[[], Answer]) -> Answer | None:
        """The answer; None if there is none. Told to Locust as it tells itself of HTTP requests."""
        answer: Answer | None = None
        failure: CallFailed | None = None
        start = time.perf_counter()
        try:
            answer = call()
        except grpc.RpcError as error:
            failure = CallFailed(error.code().name)
        except CallFailed as error:
            failure = error
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=(time.perf_counter() - start) * 1000,
            response_length=answer.ByteSize() if answer is not None else 0,
            exception=failure,
            context={},
        )
        return answer


class GrpcUser(_GrpcUser):
    """Unary calls."""

    def on_start(self) -> None:
        """Connects and prepares."""
        super().on_start()
        # Bytes out: the messages are the same each time, so they are encoded once.
        self.call: Callable[..., ModelInferResponse] = self.channel.unary_unary(
            f"{SERVICE}ModelInfer", response_deserializer=ModelInferResponse.FromString
        )

    @task
    def infer(self) -> None:
        """One call."""
        call = self.mix.draw()
        self.recorded("grpc", call.model, lambda: self.call(call.content, timeout=DEADLINE_S))


class StreamUser(_GrpcUser):
    """One stream for each user; the next message follows the answer to the last."""

    def on_start(self) -> None:
        """Connects, prepares and opens the stream."""
        super().on_start()
        self.open()

    def open(self) -> None:
        """A new stream: the first one, or one after a stream that failed."""
        self.outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.answers: Iterator[ModelStreamInferResponse] = stream(self.channel, self.outgoing)

    def on_stop(self) -> None:
        """Ends the stream and closes the connection."""
        self.outgoing.put(None)
        super().on_stop()

    @task
    def infer(self) -> None:
        """One message and its answer."""
        call = self.mix.draw()
        if self.recorded("stream", call.model, lambda: self.answer(call.content)) is None:
            self.outgoing.put(None)
            self.open()

    def answer(self, message: bytes) -> ModelInferResponse:
        """Sends a message; its answer. Raises CallFailed, or the stream's error."""
        self.outgoing.put(message)
        with gevent.Timeout(DEADLINE_S, CallFailed("DEADLINE_EXCEEDED")):
            answer = next(self.answers, None)
        if answer is None:
            raise CallFailed("the stream ended")
        if answer.error_message:
            raise CallFailed(answer.error_message)
        return answer.infer_response


class ShapedLoad(LoadTestShape):
    """A shape stretched over the run. Locust must not take it by itself: hence `abstract`."""

    abstract = True

    def __init__(self, shape: Callable[[float], float], users: int, seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Locust's
        self._shape = shape
        self._users = users
        self._seconds = seconds

    def tick(self) -> tuple[int, float] | None:
        """Users and how many of them may come or go in a second; None at the end."""
        gone: float = self.get_run_time()  # type: ignore[no-untyped-call]  # Locust's
        over = gone / self._seconds
        if over >= 1:
            return None
        return max(1, round(self._shape(over) * self._users)), float(self._users)


PROTOCOLS: Final[dict[str, type[User]]] = {
    "json": JsonUser,
    "binary": RestUser,
    "grpc": GrpcUser,
    "stream": StreamUser,
}
DEFAULT_PROTOCOLS: Final = "binary=1,grpc=1"


@events.init.add_listener  # type: ignore[untyped-decorator]  # Locust's
def choose(environment: Environment, runner: Runner, **_: object) -> None:
    """Takes the users and the shape that the options ask for."""
    chosen = options(environment)
    if chosen.protocols or not chosen.user_classes:
        try:
            mix = weights(chosen.protocols or DEFAULT_PROTOCOLS)
            classes = {PROTOCOLS[name]: weight for name, weight in mix.items()}
        except (ValueError, KeyError) as error:
            sys.exit(f"--protocols: expected some of {', '.join(PROTOCOLS)}: {error}")
        for each, weight in classes.items():
            each.weight = weight
        environment.user_classes = [each for each, weight in classes.items() if weight]
    if StreamUser in environment.user_classes:
        reason = why_no_stream(chosen.grpc_host)
        if reason is not None:
            _log.warning("stream users are left out, ModelStreamInfer is not served: %s", reason)
            environment.user_classes.remove(StreamUser)
    if not environment.user_classes:
        sys.exit("no users are left")
    if chosen.shape:
        seconds = chosen.run_time or SHAPED_S
        environment.shape_class = ShapedLoad(SHAPES[chosen.shape], chosen.num_users or 1, seconds)
        environment.shape_class.runner = runner
