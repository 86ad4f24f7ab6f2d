"""What a gRPC call is to the methods that answer it: bytes in, bytes out.

A transport finds the path in the method table (`methods.py`), gives the handler the message's bytes
and takes bytes or a `ServingError` back. Nothing here or in the table knows grpcio, HTTP/2 or a
socket, so that every transport serves the same table.

Unary handlers call `reply` once, on the loop, perhaps before they return: no Task, no Future.
Stream handlers are asynchronous generators: the transport's Task runs one for each stream, and a
slow reader slows its own. A handler that reads ahead of its answers owns the task that reads.
"""

import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from stoker.errors import Internal, InvalidRequest, ServingError
from stoker.inference import Cancel
from stoker.request import Lease

log = logging.getLogger(__name__)

Metadata: TypeAlias = Mapping[str, str | bytes]
NO_METADATA: Final[Metadata] = MappingProxyType({})

_PREVIOUS_ATTEMPTS: Final = "grpc-previous-rpc-attempts"


@dataclass(slots=True)
class CallContext:
    """What a handler may know of its call besides the message. Nobody changes it; not frozen
    because one is made for each call with a deadline."""

    metadata: Metadata = field(default_factory=lambda: NO_METADATA)
    """Keys are lower case. Of a key that came twice, the last value where that is bytes, else all,
    joined with `, ` as proxies may have done before."""
    deadline: float = math.inf
    """time.monotonic() seconds; infinite when the client set none."""
    is_retry: bool = False
    """The client says that it tried before (`grpc-previous-rpc-attempts`, gRFC A6)."""


def is_retry(metadata: Metadata) -> bool:
    """What `CallContext.is_retry` says."""
    return metadata.get(_PREVIOUS_ATTEMPTS, "0") != "0"


MessageBytes: TypeAlias = bytes | memoryview
"""A message's own bytes: nobody writes to them."""


@dataclass(slots=True)
class PiecedMessage:
    """An answer in pieces that were not put together, some of them views of leased memory. Whoever
    takes it releases the lease once the bytes have left, or at once when it is dropped."""

    pieces: tuple[MessageBytes, ...]
    size: int
    """Bytes of all pieces."""
    lease: Lease | None


UnaryAnswer: TypeAlias = bytes | PiecedMessage | ServingError

Reply: TypeAlias = Callable[[UnaryAnswer], None]
"""Called on the loop, exactly once a call, perhaps before the handler returns."""

UnaryHandler: TypeAlias = Callable[[MessageBytes, CallContext, Reply], Cancel | None]
"""Never raises: refusals go to `reply`. The returned Cancel ends the call early."""

StreamHandler: TypeAlias = Callable[
    [AsyncIterator[MessageBytes], CallContext], AsyncGenerator[bytes, None]
]
"""Yields the answers' bytes. A ServingError that it raises becomes the call's status."""


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """One message in, one out."""

    handle: UnaryHandler


@dataclass(frozen=True, slots=True)
class StreamMethod:
    """Any number of messages in and out. Also serves methods that take exactly one message."""

    handle: StreamHandler
    is_endless: bool = False
    """A subscription that its client ends: a stopping transport does not wait for it."""


Method: TypeAlias = UnaryMethod | StreamMethod

_RequestT = TypeVar("_RequestT", bound=Message)


class _Serializable(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802 (protobuf's name)


def parse(request_type: type[_RequestT], message: MessageBytes) -> _RequestT:
    """The message. Raises InvalidRequest for bytes that are none."""
    try:
        return request_type.FromString(message)  # type: ignore[arg-type]  # any buffer will do
    except DecodeError as error:
        raise InvalidRequest(
            f"expected a protobuf message {request_type.DESCRIPTOR.full_name}, "
            f"got {len(message)} bytes that do not parse as one"
        ) from error


def answering(
    request_type: type[_RequestT], answer: Callable[[_RequestT], _Serializable | bytes]
) -> UnaryMethod:
    """A unary method from a function of messages that answers at once or raises ServingError."""
    name = request_type.DESCRIPTOR.full_name

    def handle(message: MessageBytes, context: CallContext, reply: Reply) -> None:
        outcome: bytes | ServingError
        try:
            response = answer(parse(request_type, message))
            outcome = response if isinstance(response, bytes) else response.SerializeToString()
        except ServingError as error:
            outcome = error.bare()
        except Exception as error:
            outcome = unforeseen(name, error)
        reply(outcome)

    return UnaryMethod(handle)


def unforeseen(doing: str, error: Exception) -> Internal:
    """A bug of ours as the client sees it: logged once with its traceback, told without it."""
    log.error("unforeseen %s while answering %s", type(error).__name__, doing, exc_info=error)
    return Internal("the server failed to answer; its log has the reason")
