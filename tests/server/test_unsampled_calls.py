"""Which way a call goes that nobody wants to know of: that of a server that observes nothing.

The ports serve two sets of handlers over real sockets, one for what is observed and one for the
rest; an answer says which set gave it.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import grpc.aio
import httpx
import pytest
from stoker.inference import Cancel
from stoker.telemetry.observation import BatchRecord, Observation, SpanIdentity
from stoker.telemetry.observer import Observer
from stoker.telemetry.sampler import Sampler
from stoker.telemetry.server_statistics import ServerStatistics
from stoker.transport.data_ports import DataPorts, Observed
from stoker.transport.grpc.call import CallContext, MessageBytes, Method, Reply, UnaryMethod
from stoker.transport.wire.limits import BufferBudget, HttpLimits
from stoker.transport.wire.message import Answer, HttpRequest, HttpResponse, RequestHead

from tests.grpc_server import SERVICE, run

Way = Literal["native", "grpcio", "http1", "http2"]

METHOD, PATH = SERVICE + "ModelInfer", "/v2/models/m/infer"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
INVALID = {"traceparent": f"00-{TRACE}-{SPAN}"}
MOST_BYTES = 1000
PLAIN, OBSERVED = b"plain", b"observed"

on_all_transports = pytest.mark.parametrize("way", ["native", "grpcio", "http1", "http2"])


@dataclass
class Says:
    """Handlers of REST and of gRPC that say who they are."""

    who: bytes

    def body_limit(self, head: RequestHead) -> int:
        return MOST_BYTES

    def handle(self, request: HttpRequest, answer: Answer) -> Cancel | None:
        answer(HttpResponse(200, (), (self.who,)))
        return None

    @property
    def methods(self) -> dict[str, Method]:
        def handle(message: MessageBytes, context: CallContext, reply: Reply) -> None:
            reply(self.who)

        return {METHOD: UnaryMethod(handle)}


class Tracing:
    """Implements `observer.Tracing`: keeps the records, and counts how often it is asked."""

    def __init__(self, share: float) -> None:
        self._sampler = Sampler(share, follows_parent=True)
        self.asked = 0
        self.records: list[Observation | BatchRecord] = []

    def sample(self, traceparent: str, tracestate: str) -> SpanIdentity | None:
        self.asked += 1
        return self._sampler.sample(traceparent, tracestate)

    def child(self, parent: SpanIdentity) -> SpanIdentity:
        raise AssertionError("there are no streams here")

    def root(self) -> SpanIdentity:
        raise AssertionError("there are no batches here")

    def record(self, record: Observation | BatchRecord) -> None:
        self.records.append(record)


class Lines:
    """Implements `observer.AccessLog`: writes no line."""

    def note(self, observation: Observation) -> None:
        """Of none."""


class Caller:
    """A client of the ports."""

    def __init__(self, way: Way, http_port: int, grpc_port: int) -> None:
        self._way = way
        self._url = f"http://127.0.0.1:{http_port}{PATH}"
        self._grpc = f"127.0.0.1:{grpc_port}"

    async def answer(self, headers: Mapping[str, str], *, body: bytes = b"call") -> bytes:
        """Who answered a call with these headers, which comes twice: heads are remembered."""
        answers = set()
        if self._way in ("native", "grpcio"):
            async with grpc.aio.insecure_channel(self._grpc) as channel:
                method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
                for _ in range(2):
                    try:
                        answers.add(await method(body, metadata=tuple(headers.items())))
                    except grpc.aio.AioRpcError as error:
                        answers.add((error.details() or "").encode())
        else:
            is_http2 = self._way == "http2"
            async with httpx.AsyncClient(http1=not is_http2, http2=is_http2) as client:
                for _ in range(2):
                    answers.add(
                        (await client.post(self._url, content=body, headers=headers)).content
                    )
        (answer,) = answers
        return answer


@asynccontextmanager
async def serving(
    way: Way, tracing: Tracing | None, lines: Lines | None = None
) -> AsyncIterator[Caller]:
    """The ports, with these who look."""
    limits = HttpLimits(max_message_bytes=MOST_BYTES)
    observed = Says(OBSERVED)
    ports = DataPorts(
        Says(PLAIN), Says(PLAIN).methods, limits, BufferBudget(1 << 20), ServerStatistics(),
        grpcio=way == "grpcio",
        observed=Observed(Observer(tracing, lines), observed, observed.methods),
    )  # fmt: skip
    try:
        yield Caller(way, *await ports.start("127.0.0.1", 0, 0))
    finally:
        await ports.close()


@on_all_transports
@pytest.mark.parametrize(
    ("share", "headers", "who"),
    [
        (0.0, {}, PLAIN),
        (0.0, UNSAMPLED, PLAIN),
        (0.0, SAMPLED, OBSERVED),
        (0.0, INVALID, PLAIN),
        (1.0, {}, OBSERVED),
        (1.0, UNSAMPLED, PLAIN),
        (1.0, SAMPLED, OBSERVED),
        (1.0, INVALID, OBSERVED),
    ],
)
def test_a_call_that_is_not_sampled_goes_the_way_of_a_server_that_observes_nothing(
    way: Way, share: float, headers: Mapping[str, str], who: bytes
) -> None:
    async def scenario() -> None:
        tracing = Tracing(share)
        async with serving(way, tracing) as caller:
            assert await caller.answer(headers) == who
        assert tracing.asked == 2
        assert len(tracing.records) == (2 if who == OBSERVED else 0)

    run(scenario())


@on_all_transports
@pytest.mark.parametrize("headers", [{}, UNSAMPLED])
def test_with_the_access_log_every_call_is_observed(way: Way, headers: Mapping[str, str]) -> None:
    async def scenario() -> None:
        async with serving(way, None, Lines()) as caller:
            assert await caller.answer(headers) == OBSERVED

    run(scenario())


@pytest.mark.parametrize("way", ["native", "http1"])
@pytest.mark.parametrize(("share", "records"), [(0.0, 0), (1.0, 2)])
def test_a_call_that_the_transport_refuses_is_asked_about_once(
    way: Way, share: float, records: int
) -> None:
    async def scenario() -> None:
        tracing = Tracing(share)
        async with serving(way, tracing) as caller:
            assert b"at most 1000 bytes" in await caller.answer({}, body=bytes(1 << 17))
        assert tracing.asked == 2
        assert len(tracing.records) == records

    run(scenario())
