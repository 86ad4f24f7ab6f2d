"""The native gRPC transport: calls as streams of our own HTTP/2, for the same method table.

What a header block asks for (method, deadline, coding) is worked out once and remembered with it;
`native_unary.py` and `native_stream.py` are the calls. What is no gRPC is left to another, so that
REST shares the port.  Hot path.
Source: gRPC over HTTP2 (grpc/grpc, doc/PROTOCOL-HTTP2.md).
"""

import asyncio
from collections.abc import Mapping

from stoker.errors import ServingError, Unsupported
from stoker.telemetry.server_statistics import ServerStatistics, UnroutedReason
from stoker.transport.grpc.call import CallContext, Method, UnaryMethod, is_retry
from stoker.transport.grpc.call_end import ACCEPTED_CODINGS, failed_at_once
from stoker.transport.grpc.native_call import CallHead, CallHost
from stoker.transport.grpc.native_head import (
    UnsupportedCoding,
    answer_coding,
    check_format,
    is_grpc,
    message_coding,
    metadata,
    timeout,
)
from stoker.transport.grpc.native_stream import StreamOpening
from stoker.transport.grpc.native_unary import UnaryOpening
from stoker.transport.steps import StepThread
from stoker.transport.wire.http2.frames import ErrorCode
from stoker.transport.wire.http2.request_fields import Http2Head
from stoker.transport.wire.http2.session import Session
from stoker.transport.wire.http2.stream import Opening, Requests, Stream
from stoker.transport.wire.limits import BODY_GRACE_S, BufferBudget
from stoker.transport.wire.problems import HttpError, Problem


class GrpcRequests(CallHost):
    """Calls by the method table; requests that are no gRPC by others. Implements `Requests`."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        others: Requests,
        budget: BufferBudget,
        statistics: ServerStatistics,
        *,
        max_message_bytes: int,
    ) -> None:
        """`statistics` counts the calls that never reach a handler."""
        self._methods = methods
        self._others = others
        self.budget = budget
        self.statistics = statistics
        self.max_message_bytes = max_message_bytes
        self.thread = StepThread("grpc-codec")
        self.tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ends the streams that are left. Their connections are gone."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.thread.close()

    def opening(self, head: Http2Head) -> Opening:
        """Implements `Requests`."""
        request = head.request
        headers = request.headers
        content_type = headers.get("content-type", "")
        method = self._methods.get(request.path)
        if not is_grpc(content_type):
            if method is None:
                return self._others.opening(head)
            return self._others.refusal(
                HttpError(
                    Problem.UNSUPPORTED_MEDIA,
                    "expected content-type application/grpc for a method of gRPC, "
                    f"got '{content_type[:64]}'",
                )
            )
        if request.method != "POST":
            return self._others.refusal(
                HttpError(
                    Problem.METHOD_NOT_ALLOWED,
                    f"expected POST for a method of gRPC, got {request.method}",
                    (("Allow", "POST"),),
                )
            )
        if method is None:
            return _Refused(Unsupported(f"expected a method that is served, got {request.path}"))
        try:
            return self._opening(method, head)
        except UnsupportedCoding as error:
            return _Refused(error, (("grpc-accept-encoding", ACCEPTED_CODINGS),))
        except ServingError as error:
            self.statistics.record_unrouted(UnroutedReason.MALFORMED)
            return _Refused(error)

    def refusal(self, error: HttpError) -> Opening:
        """Implements `Requests`."""
        return self._others.refusal(error)

    def malformed(self, message: str) -> None:
        """Implements `Requests`."""
        self._others.malformed(message)

    def _opening(self, method: Method, head: Http2Head) -> Opening:
        headers = head.request.headers
        check_format(headers["content-type"])
        coding = message_coding(headers)
        asked = CallHead(
            head.request.path,
            CallContext(metadata(headers), is_retry=is_retry(headers)),
            timeout(headers),
            coding,
            answer_coding(headers, coding),
            -1 if head.content_length is None else head.content_length,
        )
        if isinstance(method, UnaryMethod):
            return UnaryOpening(self, asked, method.handle)
        return StreamOpening(self, asked, method)


class _Refused:
    """A call that is answered with an error by its head alone."""

    __slots__ = ("_answer",)

    def __init__(self, error: ServingError, more: tuple[tuple[str, str], ...] = ()) -> None:
        self._answer = failed_at_once(error.bare(), more=more)

    def open(self, session: Session, number: int) -> Stream:
        return _RefusedCall(session, number, self._answer)


class _RefusedCall(Stream):
    """Answers as soon as it may."""

    def __init__(self, session: Session, number: int, answer: bytes) -> None:
        super().__init__(session, number)
        self._answer = answer

    def data(self, payload: memoryview) -> None:
        """Nobody wants the message."""
        self._end()

    def ended(self) -> None:
        """There was no message."""
        self._end()

    def lost(self, code: ErrorCode) -> None:
        """Nobody waits for the error."""

    def refuse(self, error: ServingError | HttpError) -> None:
        """Implements `Stream`: its own error says more."""
        self._end()

    def is_slow(self, seconds: int) -> bool:
        """Implements `Stream`: it has waited for a message."""
        return seconds > BODY_GRACE_S

    def _end(self) -> None:
        self.session.answer(self, self._answer, (), 0)
