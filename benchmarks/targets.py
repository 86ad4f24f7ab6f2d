"""What is loaded, in one form for all: peak rate, one client, and an open loop at a given rate.

Not a benchmark itself. A target is one protocol of one server with one request. Peaks and single
clients are driven by `h2load` and `wrk`, open loops by `benchmarks.generator`.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol, TypeVar

from stoker.tensor import Array

from benchmarks import call_headers, load_tools
from benchmarks.accounts import Account, audited
from benchmarks.bodies import (
    GRPC_HEADERS,
    INFER,
    binary_headers,
    framed,
    json_request,
    rest_request,
)
from benchmarks.generator import Outcome, arrivals, open_loop
from benchmarks.load_tools import Load
from benchmarks.raw_http1 import Http1Client, request
from benchmarks.raw_http2 import Http2Client, ServerGone
from benchmarks.serving import Endpoint

ClientT = TypeVar("ClientT", Http1Client, Http2Client)


@dataclass(frozen=True)
class Measured:
    """A loaded run: what the load tool saw, and the server's CPU in microseconds a request."""

    load: Load
    cpu_us: float


class Target(Protocol):
    """One protocol of one server."""

    @property
    def name(self) -> str: ...
    @property
    def at(self) -> Endpoint: ...

    def load(
        self, connections: int, streams: int, seconds: float, *, with_latency: bool = False
    ) -> Load:
        """A closed loop."""

    def at_rate(self, rate: float, connections: int, streams: int, seconds: float) -> Outcome:
        """An open loop."""


@dataclass(frozen=True)
class OverHttp2:
    """gRPC, or REST over HTTP/2."""

    name: str
    at: Endpoint
    port: int
    path: str
    body: bytes
    headers: dict[str, str]

    def load(
        self, connections: int, streams: int, seconds: float, *, with_latency: bool = False
    ) -> Load:
        """A closed loop by h2load."""
        return load_tools.h2load(
            self.port, self.path, self.body, self.headers, connections=connections,
            streams=streams, seconds=seconds, with_latency=with_latency,
            scheme="http" if self.at.trusted is None else "https",
        )  # fmt: skip

    def at_rate(self, rate: float, connections: int, streams: int, seconds: float) -> Outcome:
        """An open loop, not over TLS, which the generator does not speak."""
        fields = call_headers.rest_fields(self.port, self.path, self.headers)
        with connected(lambda: Http2Client(self.port, streams), connections) as clients:
            scripts = [call_headers.repeated(client, fields, self.body) for client in clients]
            return open_loop(clients, scripts, arrivals(rate, seconds))


@dataclass(frozen=True)
class OverHttp1:
    """REST over HTTP/1.1: a connection has one request under way."""

    name: str
    at: Endpoint
    path: str
    body: bytes
    headers: dict[str, str]

    def load(
        self, connections: int, streams: int, seconds: float, *, with_latency: bool = False
    ) -> Load:
        """A closed loop by wrk, with as many connections as there would be streams."""
        return load_tools.wrk(
            self.at.http, self.path, self.body, self.headers, connections=connections * streams,
            seconds=seconds,
        )  # fmt: skip

    def at_rate(self, rate: float, connections: int, streams: int, seconds: float) -> Outcome:
        """An open loop."""
        built = request(self.path, self.body, self.headers)
        with connected(lambda: Http1Client(self.at.http), connections * streams) as clients:
            return open_loop(clients, [repeat(built)] * len(clients), arrivals(rate, seconds))


def grpc(name: str, at: Endpoint, message: bytes) -> OverHttp2:
    """Unary ModelInfer calls."""
    return OverHttp2(name, at, at.grpc, INFER, framed(message), GRPC_HEADERS)


def rest_path(model: str) -> str:
    """Where a model is called over REST."""
    return f"/v2/models/{model}/infer"


def rest_binary(name: str, at: Endpoint, model: str, x: Array) -> OverHttp1:
    """REST with binary tensors both ways."""
    body, length = rest_request(x=x)
    return OverHttp1(name, at, rest_path(model), body, binary_headers(length))


def rest_json(name: str, at: Endpoint, model: str, x: Array) -> OverHttp1:
    """REST with its numbers as JSON both ways."""
    return OverHttp1(name, at, rest_path(model), json_request(x=x), {})


def rest_http2(name: str, at: Endpoint, model: str, x: Array) -> OverHttp2:
    """REST over HTTP/2 with binary tensors both ways."""
    body, length = rest_request(x=x)
    return OverHttp2(name, at, at.http, rest_path(model), body, binary_headers(length))


def measured(
    target: Target, connections: int, streams: int, seconds: float, *, with_latency: bool = False
) -> Measured:
    """A closed loop, held against the server's own count."""
    with audited(target.at) as account:
        load = target.load(connections, streams, seconds, with_latency=with_latency)
        account.counted, account.in_flight = load.requests, load.in_flight
    return Measured(load, account.cpu_us)


def measured_at_rate(
    target: Target, rate: float, connections: int, streams: int, seconds: float
) -> tuple[Outcome, Account]:
    """An open loop in which every call has to be answered well, held against the server's count."""
    with audited(target.at) as account:
        try:
            outcome = target.at_rate(rate, connections, streams, seconds).all_good()
        except ServerGone as error:
            sys.exit(f"{target.name}, {rate:.0f} requests/s: {error}")
        account.counted = outcome.good
    return outcome, account


@contextlib.contextmanager
def connected(connect: Callable[[], ClientT], count: int) -> Iterator[list[ClientT]]:
    """So many connections, for as long as a loop runs."""
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(contextlib.closing(connect())) for _ in range(count)]
