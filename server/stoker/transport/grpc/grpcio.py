"""The gRPC transport on `grpc.aio`: serves the method table with grpcio's HTTP/2.

It moves bytes between grpcio and the table and turns a `ServingError` into a status; it knows no
message. Works on any asyncio loop, uvloop included. It is the reference that the native transport
is tested against, and the fallback.

Draining, as far as grpcio can do it (design, section "Operating it"):
  1. who drains turns the health board over and waits for the drain delay; this server goes on as
     before. grpcio has no way to send GOAWAY without refusing calls, so connections are not told
     to leave in this step; balancers that watch health or endpoints move on.
  2. `stop(grace)` closes the listener and sends GOAWAY on every connection; calls that are open
     finish, later ones never reach a handler and clients retry them elsewhere. Endless streams
     (health Watch, reflection) end at once with Draining. Inference streams are not endless: they
     hold accepted requests, and who drains stops them (`infer_stream.py`), so that each ends with
     its last answer. What is open after `grace` seconds gets Draining, then the connections close.

grpcio's limit: a call that arrives in the very moment of `stop`, or waits unread in gRPC core, is
ended with CANCELLED. A loop that keeps up loses one now and then (one of 15,000 calls in four
drains, benchmarks/results/0012-rollout.md); a saturated one loses about a call for each stream that
its clients keep busy, unless balancers took them away during the drain delay.
"""

import asyncio
import errno
import math
import socket
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn, TypeAlias
from urllib.parse import unquote

import grpc
import grpc.aio

from stoker.address import joined
from stoker.errors import Draining, ServingError
from stoker.inference import Cancel
from stoker.telemetry.server_statistics import ServerStatistics, UnroutedReason
from stoker.transport.grpc.call import (
    CallContext,
    Method,
    PiecedMessage,
    StreamMethod,
    UnaryAnswer,
    UnaryHandler,
    is_retry,
    unforeseen,
)
from stoker.transport.grpc.call_end import details, percent_encoded
from stoker.transport.grpc.observed import CallObserver, ObservedContext
from stoker.transport.grpc.status_details import FIELD, pushback_ms, status_details
from stoker.transport.status import STATUS
from stoker.transport.wire.limits import BufferBudget
from stoker.transport.wire.peer import Peer

_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
_MethodHandler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

_FINAL_GRACE_S: Final = 1.0
"""Time for the last statuses to leave after the grace period is over."""


@dataclass(frozen=True, slots=True)
class GrpcioOptions:
    """What an operator may set of this transport."""

    max_message_bytes: int = 1 << 30
    """Of a received message, after decompression. Larger ones get RESOURCE_EXHAUSTED by grpcio."""
    max_connection_age_s: float = 300.0
    """A connection gets GOAWAY at this age, +-10 %, so that clients spread over new replicas; its
    open calls finish without a limit. Infinite: never. Source: kubernetes rules, connection age."""
    max_concurrent_streams: int = 1024
    """Open calls of one connection; further ones wait in the client. Admission bounds the work,
    this bounds the memory that one connection can take before admission sees its calls."""

    def channel_arguments(self) -> list[tuple[str, int]]:
        """The same in the words of gRPC core, with the keep-alive of Triton's defaults."""
        arguments = [
            ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", self.max_concurrent_streams),
            ("grpc.keepalive_time_ms", 7_200_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.keepalive_permit_without_calls", 0),
            ("grpc.http2.max_pings_without_data", 2),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 300_000),
            ("grpc.http2.max_ping_strikes", 2),
        ]
        if math.isfinite(self.max_connection_age_s):
            age_ms = max(1, round(self.max_connection_age_s * 1000))
            arguments.append(("grpc.max_connection_age_ms", age_ms))
        return arguments


class GrpcioServer:
    """One listening gRPC server. Started once, stopped once, on one event loop."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        options: GrpcioOptions | None = None,
        *,
        budget: BufferBudget | None = None,
        statistics: ServerStatistics | None = None,
        observer: CallObserver | None = None,
    ) -> None:
        """`budget` holds what every open call's message takes; `statistics` counts the calls that
        it has no room for."""
        self._methods = methods
        self._options = options or GrpcioOptions()
        self._budget = budget or BufferBudget(sys.maxsize)
        self._statistics = statistics or ServerStatistics()
        self._observer = observer
        self._server: grpc.aio.Server | None = None
        self._open: set[_UnaryCall | _StreamCall] = set()
        self._is_stopping = False

    @property
    def open_calls(self) -> int:
        """Calls that a handler works on."""
        return len(self._open)

    async def start(self, host: str, port: int) -> int:
        """Listens and serves; gives the bound port (of 0, a free one). Raises OSError."""
        server = grpc.aio.server(options=self._options.channel_arguments())
        server.add_generic_rpc_handlers((_Table(self._methods, self),))
        address = joined(host, port)
        if _is_taken(host, port):
            raise OSError(f"gRPC cannot listen on {address}: the port is taken")
        try:
            bound = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}: taken, or no such address") from error
        await server.start()
        self._server = server
        return bound

    async def stop(self, grace: float) -> None:
        """Refuses new calls, lets open ones finish for `grace` seconds, ends the rest with
        Draining. Returns when everything is closed."""
        self._is_stopping = True
        if self._server is None:
            return
        for call in [each for each in self._open if each.is_endless]:
            call.end(_draining())
        closing = asyncio.create_task(
            self._server.stop(grace + _FINAL_GRACE_S), name="grpcio server stop"
        )
        try:
            await asyncio.wait({closing}, timeout=grace)
            for call in list(self._open):
                call.end(_draining())
            await closing
        except asyncio.CancelledError:  # whoever drains wants to be gone
            await self._server.stop(None)
            await asyncio.wait({closing})
            raise

    async def answer_unary(
        self, name: str, handle: UnaryHandler, message: bytes, context: _Context
    ) -> bytes:
        """One unary call of grpc.aio, from its message to its answer or status."""
        call = _UnaryCall(asyncio.get_running_loop().create_future(), self._context(name, context))
        size = len(message)
        try:
            # gRPC core has received it already: what is bounded is what is kept.
            self._budget.reserve(size)
        except ServingError as error:
            self._statistics.record_unrouted(UnroutedReason.TOO_LARGE)
            if self._observer is not None:
                self._observer.refused(error, call.context)
            await _abort(context, error.bare())
        self._open.add(call)
        try:
            call.cancel = handle(message, call.context, call.reply)
            del message  # grpcio keeps the frames of an aborted call until a collection
            answer = await call.answer
        except asyncio.CancelledError:  # the client went away, or its deadline passed
            if call.cancel is not None:
                call.cancel()
            call.drop()
            raise
        finally:
            self._open.discard(call)
            self._budget.release(size)
        if isinstance(answer, ServingError):
            await _abort(context, answer)
        return answer if isinstance(answer, bytes) else _joined(answer)

    async def answer_stream(
        self, name: str, method: StreamMethod, requests: AsyncIterator[bytes], context: _Context
    ) -> None:
        """One stream of grpc.aio, from its first message to its status."""
        task = asyncio.current_task()
        assert task is not None  # a coroutine of grpc.aio always runs in one
        call = _StreamCall(task, method.is_endless, self._context(name, context))
        if self._is_stopping:
            refusal = _draining()
            if self._observer is not None:
                self._observer.refused(refusal, call.context)
            await _abort(context, refusal)
        self._open.add(call)
        try:
            answers = method.handle(requests, call.context)
            error = await _write_answers(name, answers, context, call)
        except asyncio.CancelledError:
            if call.error is None:  # the client went away
                raise
            task.uncancel()
            error = call.error
        finally:
            self._open.discard(call)
        if error is not None:
            await _abort(context, error)

    def _context(self, name: str, context: _Context) -> CallContext:
        """Of a call that is here. gRPC core hands calls over once they are whole."""
        remaining = context.time_remaining()
        metadata = _metadata(context.invocation_metadata() or ())
        deadline = math.inf if remaining is None else time.monotonic() + remaining
        if self._observer is None:
            return CallContext(metadata, deadline, is_retry(metadata))
        peer = Peer(_peer_address(context.peer()))
        return self._observer.context(name, metadata, deadline, is_retry(metadata), peer)


class _UnaryCall:
    """An open unary call: where its answer goes, and how to end it early."""

    __slots__ = ("answer", "cancel", "context")
    is_endless: Final = False

    def __init__(self, answer: "asyncio.Future[UnaryAnswer]", context: CallContext) -> None:
        self.answer = answer
        self.context = context
        self.cancel: Cancel | None = None

    def reply(self, answer: UnaryAnswer) -> None:
        """Takes the answer, unless the call has ended."""
        if not self.answer.done():
            self.answer.set_result(answer)
        elif isinstance(answer, PiecedMessage) and answer.lease is not None:
            answer.lease.release()

    def end(self, error: ServingError) -> None:
        """Answers with this error and lets the work go."""
        _note_end(self.context, error)
        self.reply(error)
        if self.cancel is not None:
            self.cancel()

    def drop(self) -> None:
        """Nobody takes the answer: the call was cancelled. It may have come in the same turn of
        the loop."""
        if self.answer.done() and not self.answer.cancelled():
            answer = self.answer.result()
            if isinstance(answer, PiecedMessage) and answer.lease is not None:
                answer.lease.release()


class _StreamCall:
    """An open stream: the task that answers it, and the error that ended it from outside."""

    __slots__ = ("context", "error", "is_endless", "is_writing", "task")

    def __init__(
        self, task: "asyncio.Task[object]", is_endless: bool, context: CallContext
    ) -> None:
        self.task = task
        self.context = context
        self.is_endless = is_endless
        self.error: ServingError | None = None
        self.is_writing = False

    def end(self, error: ServingError) -> None:
        """Interrupts the stream's generator; the call's status becomes this error.

        A write under way is left to finish: gRPC core takes no status before it has, and the call
        would get none.
        """
        if self.error is None:
            self.error = error
            _note_end(self.context, error)
            if not self.is_writing:
                self.task.cancel()


def _note_end(context: CallContext, error: ServingError) -> None:
    """Where somebody looks at calls: what the client is told, when the handler is cancelled."""
    if isinstance(context, ObservedContext):
        context.ended_by = error


class _Table(grpc.GenericRpcHandler):
    """Looks methods up. Messages pass as bytes: no serializer is given."""

    def __init__(self, methods: Mapping[str, Method], server: GrpcioServer) -> None:
        self._handlers = {name: _handler(name, each, server) for name, each in methods.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "_MethodHandler | None":
        return self._handlers.get(handler_call_details.method)


def _handler(name: str, method: Method, server: GrpcioServer) -> _MethodHandler:
    if isinstance(method, StreamMethod):
        return grpc.stream_stream_rpc_method_handler(partial(server.answer_stream, name, method))
    return grpc.unary_unary_rpc_method_handler(partial(server.answer_unary, name, method.handle))


def _is_taken(host: str, port: int) -> bool:
    """Whether somebody listens there. gRPC core finds out as well, but tells of it on stderr in a
    form of its own."""
    try:
        for family, kind, number, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            with socket.socket(family, kind, number) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _peer_address(name: str) -> str:
    """`127.0.0.1:4711` of `ipv4:127.0.0.1:4711`, `[::1]:4711` of `ipv6:%5B::1%5D:4711`."""
    kind, _, address = name.partition(":")
    return unquote(address) if kind in ("ipv4", "ipv6") else ""


def _metadata(fields: Iterable[tuple[str, str | bytes]]) -> dict[str, str | bytes]:
    """As `CallContext` has it."""
    metadata: dict[str, str | bytes] = {}
    for key, value in fields:
        before = metadata.get(key)
        if isinstance(before, str) and isinstance(value, str):
            value = f"{before}, {value}"
        metadata[key] = value
    return metadata


async def _write_answers(
    name: str,
    answers: AsyncGenerator[bytes, None],
    context: _Context,
    call: _StreamCall,
) -> ServingError | None:
    """Writes what the generator yields. Gives the error that ended it, if one did."""
    try:
        async for answer in answers:
            call.is_writing = True
            await context.write(answer)
            del answer  # a stream may be quiet for hours after it
            call.is_writing = False
            if call.error is not None:
                return call.error
    except ServingError as error:
        return error.bare()
    except grpc.aio.BaseError:  # grpcio's own, as of a client that is gone: it knows what to do
        raise
    except Exception as error:
        return unforeseen(name, error)
    finally:
        await answers.aclose()
    return None


async def _abort(context: _Context, error: ServingError) -> NoReturn:
    """Ends the call with the error's status. grpcio keeps this frame until a collection, so it
    holds nothing but the error."""
    await context.abort(_CODES[STATUS[error.code].grpc], *_text_and_trailers(error))


def _text_and_trailers(error: ServingError) -> tuple[str, tuple[tuple[str, str | bytes], ...]]:
    """The status's text, and what programs read of it: why, and when a retry makes sense."""
    message = details(error.message)
    trailing: list[tuple[str, str | bytes]] = []
    status = status_details(error, message, percent_encoded(message))
    if status is not None:
        trailing.append((FIELD, status))
    retry_ms = pushback_ms(error)
    if retry_ms is not None:
        trailing.append(("grpc-retry-pushback-ms", str(retry_ms)))
    return message.decode(), tuple(trailing)


def _joined(answer: PiecedMessage) -> bytes:
    """The answer's bytes; its lease ends here."""
    joined = b"".join(answer.pieces)
    if answer.lease is not None:
        answer.lease.release()
    return joined


def _draining() -> Draining:
    return Draining(
        "the server is shutting down; another replica can take the call", retry_after=1.0
    )
