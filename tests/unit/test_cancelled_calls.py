"""Calls of gRPC whose handlers are cancelled: what is noted of them, who frees their answers."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from stoker.errors import Cancelled, Draining
from stoker.telemetry.observation import Observation
from stoker.telemetry.observer import Observer
from stoker.transport.grpc.call import CallContext, MessageBytes, PiecedMessage, Reply, UnaryMethod
from stoker.transport.grpc.grpcio import GrpcioServer
from stoker.transport.grpc.observed import CallObserver, ObservedContext

PATH = "/inference.GRPCInferenceService/ModelInfer"


class Noted:
    """Implements `observer.AccessLog`: keeps what has ended."""

    def __init__(self) -> None:
        self.ended: list[Observation] = []

    def note(self, observation: Observation) -> None:
        self.ended.append(observation)


class FakeLease:
    """Implements `Lease`."""

    def __init__(self) -> None:
        self.releases = 0

    def release(self) -> None:
        self.releases += 1


class FakeServicerContext:
    """What grpc.aio gives with a call."""

    def time_remaining(self) -> float | None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:4711"


def cancelled(context: ObservedContext, end: Callable[[CallObserver], None]) -> Observation:
    """What is noted of a call whose handler is cancelled at 10 s, after `end`."""
    noted = Noted()
    replies: list[Reply] = []
    keep = UnaryMethod(lambda message, context, reply: replies.append(reply))
    observer = Observer(None, noted, clock=lambda: 10.0)
    calls = CallObserver(observer, {PATH: UnaryMethod(keep.handle)}, {PATH: keep})
    unary = calls.methods[PATH]
    assert isinstance(unary, UnaryMethod)
    unary.handle(b"", context, lambda answer: None)
    end(calls)
    (reply,) = replies
    reply(Cancelled("the client cancelled the request"))
    (observation,) = noted.ended
    return observation


@pytest.mark.parametrize(("deadline", "code"), [(9.5, "DEADLINE_EXCEEDED"), (11.0, "CANCELLED")])
def test_a_call_that_is_cancelled_behind_its_deadline_has_passed_it(
    deadline: float, code: str
) -> None:
    observation = cancelled(ObservedContext(deadline=deadline), lambda calls: None)
    assert (observation.code, observation.grpc_status) == (code, code)


def test_a_call_that_the_transport_ends_says_what_its_client_was_told() -> None:
    context = ObservedContext()
    end = Draining("the server is shutting down")
    observation = cancelled(context, lambda calls: calls.refused(end, context))
    assert (observation.code, observation.grpc_status) == ("DRAINING", "UNAVAILABLE")


def test_an_answer_that_comes_in_the_turn_in_which_its_call_is_cancelled_is_freed() -> None:
    replies: list[Reply] = []
    lease = FakeLease()

    def handle(message: MessageBytes, context: CallContext, reply: Reply) -> None:
        replies.append(reply)

    async def cancel_an_answered_call() -> bool:
        context: Any = FakeServicerContext()
        call = asyncio.create_task(GrpcioServer({}).answer_unary(PATH, handle, b"", context))
        await asyncio.sleep(0)
        replies[0](PiecedMessage((b"answer",), 6, lease))
        call.cancel()
        await asyncio.wait({call})
        return call.cancelled()

    assert asyncio.run(cancel_an_answered_call())
    assert lease.releases == 1
