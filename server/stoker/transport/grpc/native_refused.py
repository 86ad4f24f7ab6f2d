"""A call of the native gRPC transport that is refused by its head alone."""

import math

from stoker.errors import ServingError
from stoker.telemetry.server_statistics import UnroutedReason
from stoker.transport.grpc.call import Metadata
from stoker.transport.grpc.call_end import failed_at_once
from stoker.transport.grpc.native_call import CallHost
from stoker.transport.wire.http2.frames import ErrorCode
from stoker.transport.wire.http2.hpack import Field
from stoker.transport.wire.http2.session import Session
from stoker.transport.wire.http2.stream import Opening, Stream
from stoker.transport.wire.limits import BODY_GRACE_S
from stoker.transport.wire.problems import HttpError


class RefusedOpening:
    """Implements `Opening`."""

    __slots__ = ("_answer", "_error", "_host", "_is_counted", "_metadata", "_path")

    def __init__(
        self,
        error: ServingError,
        host: CallHost,
        path: str,
        metadata: Metadata,
        *,
        more: tuple[tuple[str, str], ...] = (),
        is_counted: bool = True,
    ) -> None:
        """`is_counted`: each call counts as malformed; one opening stands for all calls whose heads
        are alike. `more` are trailers besides the error's."""
        self._error = error.bare()
        self._answer = failed_at_once(error, more=more)
        self._host = host
        self._path = path
        self._metadata = metadata
        self._is_counted = is_counted

    def open(self, session: Session, number: int) -> Stream:
        """Implements `Opening`."""
        host = self._host
        if self._is_counted:
            host.statistics.record_unrouted(UnroutedReason.MALFORMED)
        if host.observer is not None:
            observer, metadata = host.observer, self._metadata
            context = observer.context(self._path, metadata, math.inf, False, session.peer)
            observer.refused(self._error, context)
        return _RefusedCall(session, number, self._answer)

    def varied(self, fresh: list[Field]) -> Opening:
        """Implements `Opening`: it is refused all the same."""
        return self


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
