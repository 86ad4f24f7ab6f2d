"""Calls of gRPC where somebody looks at them: each has an observation from its arrival to its end.

Stands between a transport and the method table while tracing or the access log is on. A transport
asks of each call that comes, before it makes anything (`sample`, or `context` where no microsecond
matters): one that nobody wants to know of has a plain context and the plain handler, as without an
observer; the others have an `ObservedContext`, which says when they came and from whom, and the
handler over `ObservedEngine`. Questions about health and reflection are not observed.

A stream is observed as a whole, and so is each request on it: answers come in the order of the
requests (`infer_stream.py`, invariant 1), so that the oldest open observation is the answer's.
Source: W3C Trace Context, by the metadata `traceparent` and `tracestate`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from stoker.errors import Cancelled, DeadlineExceeded, ErrorCode, Internal, ServingError
from stoker.inference import Cancel
from stoker.telemetry.observation import Caller, Observation, SpanIdentity, current
from stoker.telemetry.observer import Observer
from stoker.transport.answer_end import AnswerEnd
from stoker.transport.grpc.call import (
    CallContext,
    MessageBytes,
    Metadata,
    Method,
    PiecedMessage,
    Reply,
    StreamHandler,
    StreamMethod,
    UnaryAnswer,
    UnaryHandler,
    UnaryMethod,
)
from stoker.transport.status import STATUS
from stoker.transport.wire.peer import Peer

_SERVICE: Final = "/inference.GRPCInferenceService/"
_OF_PROBES: Final = frozenset(
    _SERVICE + name for name in ("ServerLive", "ServerReady", "ModelReady")
)
_CANCELLED: Final = Cancelled("the client cancelled the call")
_DEADLINE: Final = DeadlineExceeded("the call passed its deadline")
_INTERNAL: Final = Internal("internal error")
"""Of these three only the code is told."""
_NOBODY: Final = Peer()


@dataclass(slots=True)
class ObservedContext(CallContext):
    """The context of a call that somebody wants to know of, and how it came. Implements
    `Arrival`."""

    path: str = ""
    arrived: float = 0.0
    """time.monotonic() seconds."""
    peer: Peer = _NOBODY
    span: SpanIdentity | None = None
    """None: it is not traced."""
    is_served: bool = True
    """There is a method of that path."""
    is_begun: bool = False
    """Its handler is at work, or its refusal was told: it has an observation."""
    ended_by: ServingError | None = None
    """What the transport told the client while the handler was at work, which sees a cancellation
    only."""

    def describe(self) -> Caller:
        """Implements `Arrival`."""
        metadata, path = self.metadata, self.path
        return Caller(
            is_grpc=True,
            method="POST",
            path=path,
            route=path if self.is_served else "",
            peer=self.peer.address,
            scheme=self.peer.scheme,
            protocol_version="2",
            request_id=_text(metadata.get("x-request-id")),
            traceparent=_text(metadata.get("traceparent")),
        )


class CallObserver:
    """Observes the calls of a gRPC transport."""

    def __init__(
        self, observer: Observer, plain: Mapping[str, Method], observed: Mapping[str, Method]
    ) -> None:
        """`plain` is the method table, `observed` the same over an `ObservedEngine`."""
        self.observer = observer
        self.clock = observer.clock
        self.sample = observer.sample
        self.looks_at_all = observer.looks_at_all
        """See `Observer`."""
        self.plain = plain
        self.methods = {
            name: self._method(method, observed[name]) if _is_observed(name) else method
            for name, method in plain.items()
        }
        """The table that a transport serves."""

    def observes(self, path: str) -> bool:
        """Whether calls of this path are looked at."""
        return path not in self.plain or _is_observed(path)

    def context(
        self, path: str, metadata: Metadata, deadline: float, is_retry: bool, peer: Peer
    ) -> CallContext:
        """What the handler of a call sees that comes at this moment."""
        if self.observes(path):
            parent = _text(metadata.get("traceparent"))
            span = self.sample(parent, _text(metadata.get("tracestate")) if parent else "")
            if span is not None or self.looks_at_all:
                now, is_served = self.clock(), path in self.plain
                return ObservedContext(
                    metadata, deadline, is_retry, path, now, peer, span, is_served
                )
        return CallContext(metadata, deadline, is_retry)

    def refused(self, error: ServingError, context: CallContext) -> None:
        """The transport ends a call by itself, mostly before its handler saw it. Harmless when it
        is told again, or of a call that nobody wants to know of."""
        if not isinstance(context, ObservedContext):
            return
        if context.is_begun:
            context.ended_by = error
            return
        observation = _begun(context, 0)
        note_error(observation, error)
        self.observer.end(observation)

    def _method(self, plain: Method, observed: Method) -> Method:
        if isinstance(observed, StreamMethod):
            return StreamMethod(partial(self._stream, observed.handle), observed.is_endless)
        assert isinstance(plain, UnaryMethod)  # the tables are of the same methods
        return UnaryMethod(partial(self._unary, plain.handle, observed.handle))

    def _unary(
        self,
        plain: UnaryHandler,
        handle: UnaryHandler,
        message: MessageBytes,
        context: CallContext,
        reply: Reply,
    ) -> Cancel | None:
        if not isinstance(context, ObservedContext):
            return plain(message, context, reply)
        observation = _begun(context, len(message))
        token = current.set(observation)
        try:
            return handle(message, context, partial(self._answered, observation, context, reply))
        finally:
            current.reset(token)

    def _answered(
        self, observation: Observation, context: CallContext, reply: Reply, answer: UnaryAnswer
    ) -> None:
        """The call's answer is ready. A span ends when its bytes have left, which the lease of an
        answer says; the access log does not wait for that."""
        if isinstance(answer, ServingError):
            is_cancelled = answer.code is ErrorCode.CANCELLED
            note_error(observation, self._why_ended(context) if is_cancelled else answer)
            reply(answer)
            self.observer.end(observation)
            return
        size = observation.bytes_out = len(answer) if isinstance(answer, bytes) else answer.size
        if observation.span is None:
            reply(answer)
            self.observer.end(observation)
            return
        pieces: tuple[MessageBytes, ...] = (answer,) if isinstance(answer, bytes) else answer.pieces
        lease = None if isinstance(answer, bytes) else answer.lease
        reply(PiecedMessage(pieces, size, AnswerEnd(lease, self.observer, observation)))

    def _stream(
        self,
        handle: StreamHandler,
        requests: AsyncIterator[MessageBytes],
        context: CallContext,
    ) -> AsyncGenerator[bytes, None]:
        if not isinstance(context, ObservedContext):
            # This runs in the stream's own task, which may have been made in a turn of the loop
            # that a call before it has asked for: such turns have that call's context.
            current.set(None)
            return handle(requests, context)
        stream = _begun(context, 0)
        stream.is_stream = True
        return self._observed(handle, requests, context, stream)

    async def _observed(
        self,
        handle: StreamHandler,
        requests: AsyncIterator[MessageBytes],
        context: CallContext,
        stream: Observation,
    ) -> AsyncGenerator[bytes, None]:
        observer = self.observer
        noted = _Noted(requests, observer, stream)
        answers = handle(noted, context)
        error: ServingError | None = None
        try:
            async for answer in answers:
                size = len(answer)
                yield answer
                del answer
                if noted.open:
                    oldest = noted.open.popleft()
                    oldest.bytes_out = size
                    stream.bytes_out += size
                    if oldest.code:
                        note_status(oldest, ErrorCode(oldest.code))
                    observer.end(oldest)
        except ServingError as failure:
            error = failure
            raise
        except (asyncio.CancelledError, GeneratorExit):
            error = self._why_ended(context)
            raise
        except Exception:
            error = _INTERNAL  # the transport logs it and says so
            raise
        finally:
            await answers.aclose()
            if error is not None:
                note_error(stream, error)
            for request in noted.open:  # they got no answer: the stream's error is the first one's
                note_error(request, error or _CANCELLED)
                observer.end(request)
                error = _CANCELLED
            observer.end(stream)

    def _why_ended(self, context: CallContext) -> ServingError:
        """Of a call whose handler was cancelled."""
        if isinstance(context, ObservedContext) and context.ended_by is not None:
            return context.ended_by
        return _DEADLINE if self.clock() >= context.deadline else _CANCELLED


class _Noted(AsyncIterator[MessageBytes]):
    """The messages of a stream, each with an observation, which is the reader's `current` one."""

    def __init__(
        self, requests: AsyncIterator[MessageBytes], observer: Observer, stream: Observation
    ) -> None:
        self._requests = requests
        self._observer = observer
        self._stream = stream
        self.open: deque[Observation] = deque()
        """Of messages whose answers have not left, in their order."""

    async def __anext__(self) -> MessageBytes:
        message = await anext(self._requests)
        observation = self._observer.begin_in(self._stream, len(message))
        self.open.append(observation)
        current.set(observation)
        return message


def _is_observed(path: str) -> bool:
    return path.startswith(_SERVICE) and path not in _OF_PROBES


def _begun(context: ObservedContext, bytes_in: int) -> Observation:
    context.is_begun = True
    return Observation(context, context.arrived, bytes_in, context.span)


def note_error(observation: Observation, error: ServingError) -> None:
    """What a client is told of a failure."""
    note_status(observation, error.code)


def note_status(observation: Observation, code: ErrorCode) -> None:
    """The same by the error's code."""
    status = STATUS[code]
    observation.code = code.value
    observation.status, observation.grpc_status = status.grpc, status.grpc_name


def _text(value: str | bytes | None) -> str:
    return value if isinstance(value, str) else ""
