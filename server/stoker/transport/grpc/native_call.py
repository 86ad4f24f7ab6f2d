"""What the calls of the native transport share: what their head asked for, and what they need of
the transport.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from stoker.errors import DeadlineExceeded, Overloaded, ServingError, TooLarge
from stoker.telemetry.server_statistics import ServerStatistics, UnroutedReason
from stoker.transport.grpc.call import CallContext
from stoker.transport.steps import StepThread
from stoker.transport.wire.limits import BufferBudget
from stoker.transport.wire.problems import HttpError


@dataclass(frozen=True, slots=True)
class CallHead:
    """What is known of a call by its head alone."""

    path: str
    context: CallContext
    """Of every such call without a deadline."""
    timeout: float
    """Seconds from the call's arrival; infinite without a grpc-timeout."""
    coding: str | None
    """Of messages that are compressed."""
    answer_coding: str | None
    """What the answer's messages are compressed with."""
    content_length: int
    """Bytes of all messages, where the client says them; else -1."""


class CallHost(Protocol):
    """`native.GrpcRequests`, as calls see it."""

    budget: BufferBudget
    statistics: ServerStatistics
    max_message_bytes: int
    thread: StepThread
    """Inflates and compresses large messages."""
    tasks: set[asyncio.Task[None]]
    """Of the streams under way."""


def check_size(host: CallHost, size: int) -> None:
    """Raises TooLarge."""
    if size > host.max_message_bytes:
        raise TooLarge(f"expected a message of at most {host.max_message_bytes} bytes, got {size}")


def count_refusal(host: CallHost, error: ServingError) -> None:
    """Counts a call that is refused before its handler sees its message."""
    is_large = isinstance(error, TooLarge | Overloaded)
    host.statistics.record_unrouted(
        UnroutedReason.TOO_LARGE if is_large else UnroutedReason.MALFORMED
    )


def as_serving_error(error: ServingError | HttpError) -> ServingError:
    """What gRPC calls an error of HTTP. The wire has one for streams: a body that is too slow."""
    return error if isinstance(error, ServingError) else DeadlineExceeded(error.message)
