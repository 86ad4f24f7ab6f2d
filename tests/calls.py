"""Calls that are sent at once and answered later, over gRPC and REST, for tests of what happens in
between: queues, batches, deadlines, cancellation.

A `Client` sends over real sockets without waiting; a `Call` is what it gives back. The gRPC client
is grpcio's with Triton's own messages, the REST client the standard library's.

    with connect(server.at) as client:                 # RestClient or GrpcClient
        call = client.send("m", {"x": rows})           # the request has left
        call.answer().outputs["y"]                     # waits for the answer

`wait_until` and its relatives wait for what the server says of itself.
"""

import http.client
import json
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import grpc
import numpy as np
import pytest
from stoker.app import Server
from stoker.settings import Settings
from stoker.telemetry.statistics import ModelStatistics
from stoker.tensor import Array, DataType
from tritonclient.grpc import (  # type: ignore[import-untyped]  # ships no types
    service_pb2,
    service_pb2_grpc,
)
from tritonclient.utils import (  # type: ignore[import-untyped]  # ships no types
    np_to_triton_dtype,
    serialize_byte_tensor,
)

from tests.conftest import FREE_PORTS, Endpoints, RunningServer
from tests.fake_runtime import FakeRuntime, Run
from tests.models import ModelEntry, write_repository

PATIENCE: Final = 30.0
"""Seconds after which a wait of a test fails instead of hanging."""

_BY_WIRE: Final = {each.wire: each for each in DataType}


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: str
    """`OK`, else the gRPC status's name or the HTTP status number."""
    outputs: Mapping[str, Array] = field(default_factory=dict)
    error: str = ""
    retry_after: float | None = None
    """Seconds: `Retry-After`, or `grpc-retry-pushback-ms`."""
    closes: bool = False
    """REST: the server said `Connection: close`."""

    def output(self, name: str = "y") -> Array:
        """One output of an answer that must be good."""
        assert self.status == "OK", f"{self.status}: {self.error}"
        return self.outputs[name]


class Call(Protocol):
    """A request that has left."""

    def answer(self) -> Answer:
        """Waits for the answer."""

    @property
    def is_answered(self) -> bool:
        """Whether the answer, or its beginning, is here."""

    def cancel(self) -> None:
        """Goes away: gRPC cancels the call, REST closes the connection."""


class Client(Protocol):
    """Sends requests of one protocol to one server. A context manager: closes what is open."""

    statuses: Mapping[str, str]
    """Names of ErrorCodes as this protocol says them."""

    def __init__(self, at: Endpoints) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def send(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] = (),
        priority: int = 0,
        timeout_us: int = 0,
        datatypes: Mapping[str, DataType] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call:
        """Sends and does not wait. `headers` are sent besides, by gRPC as metadata. `datatypes` are
        needed where numpy's does not tell (BF16)."""


class GrpcCall:
    """See `Call`."""

    def __init__(self, future: Any) -> None:
        self._future = future

    @property
    def is_answered(self) -> bool:
        return bool(self._future.done())

    def cancel(self) -> None:
        self._future.cancel()

    def answer(self) -> Answer:
        try:
            response = self._future.result(PATIENCE)
        except grpc.RpcError as error:
            return _grpc_failure(error)
        except grpc.FutureCancelledError:
            return Answer("CANCELLED")
        return Answer(
            "OK",
            {
                tensor.name: _array(tensor.datatype, tensor.shape, raw)
                for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
            },
        )


UNLIMITED: Final = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
]
"""Options of a channel with subchannels of its own, since a port may be that of an earlier test's
server, and with answers of any size."""


class GrpcClient:
    """See `Client`."""

    statuses: Mapping[str, str] = {
        "OVERLOADED": "RESOURCE_EXHAUSTED",
        "DEADLINE_EXCEEDED": "DEADLINE_EXCEEDED",
        "INVALID_REQUEST": "INVALID_ARGUMENT",
        "EXECUTION_FAILED": "INTERNAL",
        "OUT_OF_MEMORY": "RESOURCE_EXHAUSTED",
        "DEVICE_FAILED": "UNAVAILABLE",
        "MODEL_NOT_READY": "UNAVAILABLE",
        "DRAINING": "UNAVAILABLE",
        "INTERNAL": "INTERNAL",
    }

    def __init__(self, at: Endpoints) -> None:
        self._channel = grpc.insecure_channel(at.grpc, options=UNLIMITED)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._sent: list[object] = []  # grpcio cancels a call whose future nobody holds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def send(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] = (),
        priority: int = 0,
        timeout_us: int = 0,
        datatypes: Mapping[str, DataType] | None = None,
        headers: Mapping[str, str] | None = None,
        deadline_s: float | None = None,
    ) -> GrpcCall:
        """As `Client`; `deadline_s` is the call's own."""
        request = service_pb2.ModelInferRequest(model_name=model)
        for name, array in inputs.items():
            datatype = _wire_name(name, array, datatypes)
            request.inputs.add(name=name, datatype=datatype, shape=array.shape)
            request.raw_input_contents.append(_raw(array))
        for name in outputs:
            request.outputs.add(name=name)
        if priority:
            request.parameters["priority"].uint64_param = priority
        if timeout_us:
            request.parameters["timeout"].int64_param = timeout_us
        metadata = tuple((headers or {}).items())
        future = self._stub.ModelInfer.future(request, timeout=deadline_s, metadata=metadata)
        self._sent.append(future)
        return GrpcCall(future)


class RestCall:
    """See `Call`. `connection` goes back to the client when the answer was read."""

    def __init__(self, connection: http.client.HTTPConnection, home: "RestClient") -> None:
        self._connection = connection
        self._home = home
        self._answer: Answer | None = None

    @property
    def is_answered(self) -> bool:
        if self._answer is not None:
            return True
        readable, _, _ = select.select([self._connection.sock], [], [], 0)
        return bool(readable)

    def cancel(self) -> None:
        self._answer = Answer("CANCELLED")
        self._connection.close()

    def answer(self) -> Answer:
        if self._answer is None:
            response = self._connection.getresponse()
            self._answer = rest_answer(response, response.read())
            if self._answer.closes:
                self._connection.close()
            else:
                self._home.idle.append(self._connection)
        return self._answer


class RestClient:
    """See `Client`. Each call has a connection to itself; connections are used again."""

    statuses: Mapping[str, str] = {
        "OVERLOADED": "429",
        "DEADLINE_EXCEEDED": "504",
        "INVALID_REQUEST": "400",
        "EXECUTION_FAILED": "500",
        "OUT_OF_MEMORY": "503",
        "DEVICE_FAILED": "503",
        "MODEL_NOT_READY": "503",
        "DRAINING": "503",
        "INTERNAL": "500",
    }

    def __init__(self, at: Endpoints) -> None:
        self._at = at
        self._open: list[http.client.HTTPConnection] = []
        self.idle: list[http.client.HTTPConnection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self._open:
            connection.close()

    def send(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] = (),
        priority: int = 0,
        timeout_us: int = 0,
        datatypes: Mapping[str, DataType] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> RestCall:
        """As `Client`."""
        connection = self.idle.pop() if self.idle else self._connect()
        path, own, body = rest_request(
            model,
            inputs,
            outputs=outputs,
            priority=priority,
            timeout_us=timeout_us,
            datatypes=datatypes,
        )
        connection.request("POST", path, body, {**own, **(headers or {})})
        return RestCall(connection, self)

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self._at.http_port, timeout=PATIENCE)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.append(connection)
        return connection


Connect = type[GrpcClient] | type[RestClient]
on_both_protocols: Final = pytest.mark.parametrize(
    "connect", [RestClient, GrpcClient], ids=["REST", "gRPC"]
)


def rest_request(
    model: str,
    inputs: Mapping[str, Array],
    *,
    outputs: Sequence[str] = (),
    priority: int = 0,
    timeout_us: int = 0,
    datatypes: Mapping[str, DataType] | None = None,
) -> tuple[str, dict[str, str], bytes]:
    """Path, headers and body of a call with binary tensors both ways."""
    parameters: dict[str, bool | int] = {"binary_data_output": True}
    if priority:
        parameters["priority"] = priority
    if timeout_us:
        parameters["timeout"] = timeout_us
    raw = [_raw(array) for array in inputs.values()]
    call: dict[str, object] = {
        "inputs": [
            {
                "name": name,
                "datatype": _wire_name(name, array, datatypes),
                "shape": array.shape,
                "parameters": {"binary_data_size": len(data)},
            }
            for (name, array), data in zip(inputs.items(), raw, strict=True)
        ],
        "parameters": parameters,
    }
    if outputs:
        call["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    head = json.dumps(call).encode()
    headers = {
        "Inference-Header-Content-Length": str(len(head)),
        "Content-Type": "application/octet-stream",
    }
    return f"/v2/models/{model}/infer", headers, b"".join([head, *raw])


def rest_answer(response: http.client.HTTPResponse, body: bytes) -> Answer:
    """What an answer to `rest_request` says."""
    closes = response.headers.get("Connection", "").lower() == "close"
    if response.status != 200:
        retry_after = response.headers.get("Retry-After")
        return Answer(
            str(response.status),
            error=json.loads(body)["error"],
            retry_after=None if retry_after is None else float(retry_after),
            closes=closes,
        )
    size = int(response.headers["Inference-Header-Content-Length"])
    outputs = {}
    at = size
    for entry in json.loads(body[:size])["outputs"]:
        end = at + entry["parameters"]["binary_data_size"]
        outputs[entry["name"]] = _array(entry["datatype"], entry["shape"], body[at:end])
        at = end
    assert at == len(body), "the answer has more bytes than its outputs"
    return Answer("OK", outputs, closes=closes)


def rows(*first: float, width: int = 4) -> Array:
    """FP32 [len(first), width]: row i is full of `first[i]`."""
    return np.repeat(np.array(first, np.float32)[:, None], width, axis=1)


BATCHING: Final = "max_batch_size: 8\ndynamic_batching { }\n"
"""A config.pbtxt: batches of up to 8 rows, without a delay."""


class ServeFake(Protocol):
    """Serves the model `m` of the test's fake runtime. The fixture `serve_fake`."""

    def __call__(
        self,
        config: str = BATCHING,
        *,
        settings: Settings = FREE_PORTS,
        profile_seconds: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> RunningServer: ...


def fake_repository(folder: Path, config: str, name: str = "m") -> Path:
    """A repository with one model for the fake runtime, which never reads its file."""
    return write_repository(folder / "repository", {name: ModelEntry(b"fake", config)})


def occupy(client: Client, runtime: FakeRuntime, value: float = 0) -> Call:
    """Sends a request to `m` and returns when the model is held inside its run."""
    runtime.forget()
    runtime.hold()
    call = client.send("m", {"x": rows(value)})
    runtime.wait_for_run()
    return call


def values_of(run: Run) -> list[float]:
    """The first element of each row that a run was fed."""
    return [float(row[0]) for row in run.feeds["x"]]


def send_each(client: Client, values: Sequence[float], server: RunningServer) -> list[Call]:
    """One request of one row to `m` for each value, queued in that order."""
    queued = statistics(server).pending
    calls = []
    for number, value in enumerate(values, start=1):
        calls.append(client.send("m", {"x": rows(value)}))
        wait_for_queued(server, queued + number)
    return calls


def wait_until(reached: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
    """Asks again and again. Each question goes through the server, so this spins on nothing."""
    end = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < end, f"expected {what} within {timeout} s"


def statistics(server: RunningServer, model: str = "m") -> ModelStatistics:
    """The numbers of a model, after all that the loop had to do before."""

    def read(running: Server) -> ModelStatistics:
        served = running.engine.served(model)
        served.note_started()
        return served.statistics

    return server.on_loop(read)


def wait_for_queued(server: RunningServer, count: int, model: str = "m") -> None:
    """Waits until exactly so many requests wait for a batch."""
    wait_until(
        lambda: statistics(server, model).pending == count,
        f"{count} requests in the queue of '{model}'",
    )


def wait_for_in_flight(server: RunningServer, count: int, model: str = "m") -> None:
    """Waits until exactly so many requests are accepted and unanswered."""
    wait_until(
        lambda: statistics(server, model).in_flight == count,
        f"{count} requests of '{model}' in flight",
    )


def _wire_name(name: str, array: Array, datatypes: Mapping[str, DataType] | None) -> str:
    if datatypes is not None and name in datatypes:
        return datatypes[name].wire
    return str(np_to_triton_dtype(array.dtype))


def _raw(array: Array) -> bytes:
    if array.dtype.hasobject:
        return bytes(serialize_byte_tensor(array).item()) if array.size else b""
    return array.tobytes()


def _array(wire: str, shape: Sequence[int], raw: bytes) -> Array:
    datatype = _BY_WIRE[wire]
    if datatype is not DataType.BYTES:
        return np.frombuffer(raw, datatype.numpy).reshape(tuple(shape))
    texts, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        texts.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    return np.array(texts, object).reshape(tuple(shape))


def _grpc_failure(error: Any) -> Answer:
    trailing = dict(error.trailing_metadata() or ())
    pushback = trailing.get("grpc-retry-pushback-ms")
    return Answer(
        error.code().name,
        error=error.details(),
        retry_after=None if pushback is None else float(pushback) / 1000,
    )
