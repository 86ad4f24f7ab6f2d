"""The clients of a rollout: each sends one request at a time, and sends none of them again.

    tritonclient gRPC  one connection for several threads. Without a retry policy, which is the
                       default, gRPC repeats only what no server saw: REFUSED_STREAM, by contract
    tritonclient HTTP  geventhttpclient, one connection; it repeats no POST
    raw HTTP/1.1       http.client, one connection; repeats nothing
    ModelStreamInfer   one stream of grpcio with one request in it; a stream that its server ends is
                       opened anew, and the request that had no answer counts as such

All keep their connections. A call raises `CallFailed` for whatever is not the right answer.
`test_clients.py` holds them to it.  Source: gRFC A6, "Transparent Retries"; RFC 9110, 9.2.2.
"""

import http.client
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
import tritonclient.grpc as triton_grpc  # type: ignore[import-untyped]  # ships no types
import tritonclient.http as triton_http  # type: ignore[import-untyped]  # ships no types
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
from stoker.protocol import inference_pb2 as pb
from tritonclient.utils import (  # type: ignore[import-untyped]  # ships no types
    InferenceServerException,
)

from tests.calls import rest_answer, rest_request, rows
from tests.stream_client import Stream, value_of

CALL_TIMEOUT_S: Final = 30.0
"""A call that takes longer has failed."""

WIDTH: Final = 4
"""Of a model's rows, as `rows` makes them."""

STREAMS: Final = "ModelStreamInfer"

OWN_CONNECTION: Final = [("grpc.use_local_subchannel_pool", 1)]
"""Channels of one process with the same address would share their connections otherwise."""


class CallFailed(Exception):
    """A request without its right answer."""

    def __init__(self, text: str, *, is_retryable: bool) -> None:
        """`is_retryable`: the client is told, or can tell, that it may send the request again:
        UNAVAILABLE, 503, or a connection that ends before a byte of the answer."""
        super().__init__(text)
        self.is_retryable = is_retryable


class Client(Protocol):
    """One caller. Used by one thread."""

    def call(self, model: str, value: float) -> float:
        """The first number of the model's answer to a row of `value`. Raises CallFailed."""

    def close(self) -> None:
        """Ends its connection; the next call would open one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Clients of one kind behind one port of the balancer."""

    name: str
    port: str
    connections: int
    threads: int
    """Requests at once on each connection."""
    open: Callable[[str, int], Sequence[Client]]
    """Given an address and a number of threads, a connection's clients."""
    model: str = ""
    """All their requests are for it; empty: for those of the usual load."""

    @property
    def label(self) -> str:
        """For reports."""
        return f"{self.name} over {self.port[:2].upper()}"


class TritonGrpc:
    """tritonclient over gRPC; its threads share the client and so the connection."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def call(self, model: str, value: float) -> float:
        """See Client."""
        given = triton_grpc.InferInput("x", [1, WIDTH], "FP32")
        given.set_data_from_numpy(rows(value))
        try:
            result = self._client.infer(model, [given], client_timeout=CALL_TIMEOUT_S)
        except InferenceServerException as error:
            is_retryable = error.status() == "StatusCode.UNAVAILABLE"
            raise CallFailed(str(error), is_retryable=is_retryable) from error
        return float(result.as_numpy("y")[0, 0])

    def close(self) -> None:
        """See Client."""
        self._client.close()


class TritonHttp:
    """tritonclient over HTTP. The client lives in its thread, as gevent wants it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client: Any = None

    def call(self, model: str, value: float) -> float:
        """See Client."""
        if self._client is None:
            self._client = triton_http.InferenceServerClient(
                self._address, network_timeout=CALL_TIMEOUT_S, connection_timeout=CALL_TIMEOUT_S
            )
        given = triton_http.InferInput("x", [1, WIDTH], "FP32")
        given.set_data_from_numpy(rows(value))
        try:
            result = self._client.infer(model, [given])
        except InferenceServerException as error:
            is_retryable = error.status() in ("503", "502")
            raise CallFailed(str(error), is_retryable=is_retryable) from error
        except (OSError, HTTPParseError) as error:
            raise CallFailed(repr(error), is_retryable=has_no_answer(error)) from error
        return float(result.as_numpy("y")[0, 0])

    def close(self) -> None:
        """See Client."""
        if self._client is not None:
            self._client.close()


class RawHttp:
    """The standard library's HTTP/1.1: keeps its connection until it is told to close."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=CALL_TIMEOUT_S)

    def call(self, model: str, value: float) -> float:
        """See Client."""
        path, headers, body = rest_request(model, {"x": rows(value)})
        try:
            self._connection.request("POST", path, body, headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise CallFailed(repr(error), is_retryable=has_no_answer(error)) from error
        if response.status != 200:
            text = f"{response.status} {content[:200]!r}"
            raise CallFailed(text, is_retryable=response.status in (502, 503))
        return float(rest_answer(response, content).output()[0, 0])

    def close(self) -> None:
        """See Client."""
        self._connection.close()


class StreamInfer:
    """One stream, opened anew when it has ended."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, OWN_CONNECTION)
        self._stream: Stream | None = None

    def call(self, model: str, value: float) -> float:
        """See Client."""
        if self._stream is None:
            self._stream = Stream(self._channel)
        given = pb.ModelInferRequest(
            model_name=model,
            inputs=[
                pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, WIDTH])
            ],
            raw_input_contents=[rows(value).tobytes()],
        )
        self._stream.send(given.SerializeToString())
        try:
            answer = self._stream.read()
        except grpc.RpcError as error:
            self._forget()
            is_retryable = error.code() is grpc.StatusCode.UNAVAILABLE
            raise CallFailed(
                f"[{error.code()}] {error.details()}", is_retryable=is_retryable
            ) from error
        if answer.error_message:
            raise CallFailed(answer.error_message, is_retryable=False)
        return value_of(answer)

    def close(self) -> None:
        """See Client."""
        self._forget()
        self._channel.close()

    def _forget(self) -> None:
        if self._stream is not None:
            self._stream.half_close()  # ends grpcio's thread
            self._stream = None


def has_no_answer(error: Exception) -> bool:
    """Whether the connection was refused, reset or ended before a byte of the answer."""
    return isinstance(error, HTTPConnectionClosed | ConnectionError)


def open_triton_grpc(address: str, threads: int) -> Sequence[Client]:
    """One connection of tritonclient for so many threads."""
    client = triton_grpc.InferenceServerClient(address, channel_args=OWN_CONNECTION)
    return [TritonGrpc(client)] * threads


def kinds() -> tuple[Kind, ...]:
    """The usual mix: 62 requests at once, so that each of four replicas has 15 of them."""
    return (
        Kind("tritonclient gRPC", "l4_grpc", 6, 4, open_triton_grpc),
        Kind("tritonclient gRPC", "l7_grpc", 2, 4, open_triton_grpc),
        Kind("tritonclient HTTP", "l4_http", 8, 1, lambda at, _: [TritonHttp(at)]),
        Kind("tritonclient HTTP", "l7_http", 6, 1, lambda at, _: [TritonHttp(at)]),
        Kind("raw HTTP/1.1", "l4_http", 8, 1, lambda at, _: [RawHttp(at)]),
        Kind("raw HTTP/1.1", "l7_http", 6, 1, lambda at, _: [RawHttp(at)]),
        Kind(STREAMS, "l4_grpc", 2, 1, lambda at, _: [StreamInfer(at)]),
    )
