"""Calls of gRPC where somebody looks at them: each has an observation from its arrival to its end.

Stands between a transport and the method table while tracing or the access log is on: the methods
are wrapped, and transports give them an `ObservedContext`, which says when a call came and from
whom. Without an observer neither exists. Questions about health and reflection are not observed.

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
from stoker.telemetry.observation import Caller, Observation, current
from stoker.telemetry.observer import Observer
from stoker.transport.answer_end import AnswerEnd
from stoker.transport.grpc.call import (
    CallContext,
    MessageBytes,
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
    """A call's context, and how it came. One is made for each call while somebody looks."""

    arrived: float = 0.0
    """time.monotonic() seconds."""
    peer: Peer = _NOBODY
    is_begun: bool = False
    """Its handler is at work, or its refusal was told: an observation of it was asked for."""
    ended_by: ServingError | None = None
    """What the transport told the client while the handler was at work, which sees a cancellation
    only."""


class CallObserver:
    """Observes the calls of a gRPC transport."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.clock = observer.clock
        self._served: frozenset[str] = frozenset()
        """Paths of the methods that there are."""
        self._plain: frozenset[str] = frozenset()
        """Of those that are not observed."""

    def methods(self, table: Mapping[str, Method]) -> dict[str, Method]:
        """The table with the methods wrapped that are observed."""
        methods = {name: self._method(name, method) for name, method in table.items()}
        self._served = frozenset(methods)
        self._plain = frozenset(name for name, each in methods.items() if each is table[name])
        return methods

    def refused(self, path: str, error: ServingError, context: CallContext) -> None:
        """The transport ends a call by itself, mostly before its handler saw it. Harmless when it
        is told again."""
        if path in self._plain:
            return
        if isinstance(context, ObservedContext) and context.is_begun:
            context.ended_by = error
            return
        observation = self.begin(path, context, 0)
        if observation is not None:
            note_error(observation, error)
            self.observer.end(observation)

    def begin(self, path: str, context: CallContext, bytes_in: int) -> Observation | None:
        """A call came. None: nobody wants to know of it."""
        peer, arrived = _NOBODY, self.clock()
        if isinstance(context, ObservedContext):
            peer, arrived = context.peer, context.arrived
            context.is_begun = True
        metadata = context.metadata
        caller = Caller(
            is_grpc=True,
            method="POST",
            path=path,
            route=path if path in self._served else "",
            peer=peer.address,
            scheme=peer.scheme,
            protocol_version="2",
            request_id=_text(metadata.get("x-request-id")),
            traceparent=_text(metadata.get("traceparent")),
        )
        tracestate = _text(metadata.get("tracestate"))
        return self.observer.begin(caller, tracestate, arrived, bytes_in)

    def _method(self, name: str, method: Method) -> Method:
        if not name.startswith(_SERVICE) or name in _OF_PROBES:
            return method
        if isinstance(method, UnaryMethod):
            return UnaryMethod(partial(self._unary, name, method.handle))
        return StreamMethod(partial(self._stream, name, method.handle), method.is_endless)

    def _unary(
        self,
        name: str,
        handle: UnaryHandler,
        message: MessageBytes,
        context: CallContext,
        reply: Reply,
    ) -> Cancel | None:
        observation = self.begin(name, context, len(message))
        if observation is not None:
            reply = partial(self._answered, observation, context, reply)
        # None as well: this may run in a turn of the loop that a call before it has asked for, and
        # such turns have that call's context.
        token = current.set(observation)
        try:
            return handle(message, context, reply)
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
        name: str,
        handle: StreamHandler,
        requests: AsyncIterator[MessageBytes],
        context: CallContext,
    ) -> AsyncGenerator[bytes, None]:
        stream = self.begin(name, context, 0)
        if stream is None:
            current.set(None)  # of this stream's own task
            return handle(requests, context)
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
