"""What the calls of the native transport share: what their head asked for, and what they need of
the transport.
"""

import asyncio
from typing import Protocol

from stoker.errors import DeadlineExceeded, Overloaded, ServingError, TooLarge
from stoker.telemetry.server_statistics import ServerStatistics, UnroutedReason
from stoker.transport.grpc.call import CallContext, Metadata
from stoker.transport.grpc.native_head import CallMetadata, timeout_seconds
from stoker.transport.grpc.observed import CallObserver
from stoker.transport.steps import StepThread
from stoker.transport.wire.http2.hpack import Field
from stoker.transport.wire.limits import BufferBudget
from stoker.transport.wire.peer import Peer
from stoker.transport.wire.problems import HttpError


class CallHead:
    """What is known of a call by its head alone. Nobody changes it; plain because one is made for
    each call of a client whose heads differ."""

    __slots__ = ("answer_coding", "coding", "content_length", "is_retry", "metadata", "path",
                 "timeout")  # fmt: skip

    def __init__(
        self,
        path: str,
        metadata: Metadata,
        timeout: float,
        coding: str | None,
        answer_coding: str | None,
        content_length: int,
        is_retry: bool,
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.timeout = timeout
        """Seconds from the call's arrival; infinite without a grpc-timeout."""
        self.coding = coding
        """Of messages that are compressed."""
        self.answer_coding = answer_coding
        """What the answer's messages are compressed with."""
        self.content_length = content_length
        """Bytes of all messages, where the client says them; else -1."""
        self.is_retry = is_retry

    def varied(self, fresh: list[Field]) -> "CallHead":
        """The same with these fields besides, which are sound. Raises InvalidRequest for a deadline
        that is none."""
        timeout, is_retry = self.terms(fresh)
        return CallHead(
            self.path,
            CallMetadata(self.metadata, fresh),
            timeout,
            self.coding,
            self.answer_coding,
            self.content_length,
            is_retry,
        )

    def terms(self, fresh: list[Field]) -> tuple[float, bool]:
        """Timeout, and whether it is a retry, with these fields besides. Raises as `varied`."""
        timeout, is_retry = self.timeout, self.is_retry
        for name, value in fresh:
            if name == "grpc-timeout":
                timeout = timeout_seconds(value)
            elif name == "grpc-previous-rpc-attempts":
                is_retry = value != "0"
        return timeout, is_retry

    def context(self, deadline: float) -> CallContext:
        """What the handler sees."""
        return CallContext(self.metadata, deadline, self.is_retry)


class ArrivedCallHead(CallHead):
    """The head of one call that comes at this moment, where somebody looks at calls."""

    __slots__ = ("_observer", "_peer")

    def __init__(self, head: CallHead, observer: CallObserver, peer: Peer) -> None:
        super().__init__(
            head.path,
            head.metadata,
            head.timeout,
            head.coding,
            head.answer_coding,
            head.content_length,
            head.is_retry,
        )
        self._observer = observer
        self._peer = peer

    def context(self, deadline: float) -> CallContext:
        """What the handler sees."""
        return self._observer.context(self.path, self.metadata, deadline, self.is_retry, self._peer)


class CallHost(Protocol):
    """`native.GrpcRequests`, as calls see it."""

    budget: BufferBudget
    statistics: ServerStatistics
    max_message_bytes: int
    thread: StepThread
    """Inflates and compresses large messages."""
    tasks: set[asyncio.Task[None]]
    """Of the streams under way."""
    observer: CallObserver | None
    """Looks at calls; it is asked when a head is first seen, and of each call by its opening."""


def check_size(host: CallHost, size: int) -> None:
    """Raises TooLarge."""
    if size > host.max_message_bytes:
        raise TooLarge(f"expected a message of at most {host.max_message_bytes} bytes, got {size}")


def count_refusal(host: CallHost, error: ServingError, context: CallContext | None) -> None:
    """Counts a call that is refused for what its client sent. `context`: its own, which a call that
    somebody looks at has."""
    is_large = isinstance(error, TooLarge | Overloaded)
    host.statistics.record_unrouted(
        UnroutedReason.TOO_LARGE if is_large else UnroutedReason.MALFORMED
    )
    if host.observer is not None and context is not None:
        host.observer.refused(error, context)


def as_serving_error(error: ServingError | HttpError) -> ServingError:
    """What gRPC calls an error of HTTP. The wire has one for streams: a body that is too slow."""
    return error if isinstance(error, ServingError) else DeadlineExceeded(error.message)
