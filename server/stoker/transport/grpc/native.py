"""The native gRPC transport: calls as streams of our own HTTP/2, for the same method table.

What a header block asks for (method, deadline, coding) is worked out once and remembered with it;
`native_unary.py` and `native_stream.py` are the calls. What is no gRPC is left to another, so that
REST shares the port.  Hot path.
Source: gRPC over HTTP2 (grpc/grpc, doc/PROTOCOL-HTTP2.md).
"""

import asyncio
from collections.abc import Mapping

from stoker.errors import ServingError, Unsupported
from stoker.telemetry.server_statistics import ServerStatistics
from stoker.transport.grpc.call import Method, UnaryMethod, is_retry
from stoker.transport.grpc.call_end import ACCEPTED_CODINGS
from stoker.transport.grpc.native_call import CallHead, CallHost
from stoker.transport.grpc.native_head import (
    CallMetadata,
    UnsupportedCoding,
    answer_coding,
    check_format,
    is_grpc,
    message_coding,
    timeout,
)
from stoker.transport.grpc.native_observed import ObservedUnaryOpening
from stoker.transport.grpc.native_refused import RefusedOpening
from stoker.transport.grpc.native_stream import ObservedStreamOpening, StreamOpening
from stoker.transport.grpc.native_unary import UnaryOpening
from stoker.transport.grpc.observed import CallObserver
from stoker.transport.steps import StepThread
from stoker.transport.wire.http2.request_fields import Http2Head
from stoker.transport.wire.http2.stream import Opening, Requests
from stoker.transport.wire.limits import BufferBudget
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
        observer: CallObserver | None = None,
    ) -> None:
        """`statistics` counts the calls that never reach a handler. With an `observer`, whose
        methods these are, it is asked of each call whether somebody wants to know of it."""
        self._methods = methods
        self._others = others
        self.budget = budget
        self.statistics = statistics
        self.observer = observer
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
            unknown = Unsupported(f"expected a method that is served, got {request.path}")
            return RefusedOpening(
                unknown, self, request.path, CallMetadata(headers), is_counted=False
            )
        try:
            return self._opening(method, head)
        except UnsupportedCoding as error:
            ours = ("grpc-accept-encoding", ACCEPTED_CODINGS)
            metadata = CallMetadata(headers)
            return RefusedOpening(error, self, request.path, metadata, more=(ours,))
        except ServingError as error:
            return RefusedOpening(error, self, request.path, CallMetadata(headers))

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
            CallMetadata(headers),
            timeout(headers),
            coding,
            answer_coding(headers, coding),
            -1 if head.content_length is None else head.content_length,
            is_retry(headers),
        )
        observer, plain = self.observer, method
        if observer is not None:
            plain = observer.plain[asked.path]
        is_observed = plain is not method
        if isinstance(method, UnaryMethod):
            if observer is None or not is_observed or not isinstance(plain, UnaryMethod):
                return UnaryOpening(self, asked, method.handle)
            return ObservedUnaryOpening(self, asked, method.handle, plain.handle, observer)
        if observer is None or not is_observed:
            return StreamOpening(self, asked, method)
        return ObservedStreamOpening(self, asked, method, observer)
