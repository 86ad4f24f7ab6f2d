"""A unary call of the native gRPC transport: one message in, one answer or status out.

States: RECEIVING -> (INFLATING) -> HANDLED -> (COMPRESSING) -> ANSWERED, or LOST from any of them.

  1. A message is admitted whole, by the limit and the server's budget, before it is received.
  2. What is reserved for it is given back once, with the answer or when the client is gone.
  3. The first answer counts; what comes later gives its lease back.
  4. An answer is charged until it is compressed, and not compressed for a client that is gone.
Hot path.
"""

import math
import time
from struct import Struct
from typing import Final

from stoker.errors import Cancelled, InvalidRequest, ServingError
from stoker.inference import Cancel
from stoker.transport.coding import deflate_in_steps, inflate_in_steps, inflate_small
from stoker.transport.grpc.call import (
    CallContext,
    MessageBytes,
    PiecedMessage,
    UnaryAnswer,
    UnaryHandler,
    unforeseen,
)
from stoker.transport.grpc.call_end import HEAD, OK, PLAIN, coded_head, failed_at_once
from stoker.transport.grpc.message_reader import PREFIX_BYTES, MessageReader
from stoker.transport.grpc.native_call import (
    CallHead,
    CallHost,
    as_serving_error,
    check_size,
    count_refusal,
)
from stoker.transport.grpc.native_head import CallMetadata
from stoker.transport.grpc.native_refused import RefusedOpening
from stoker.transport.steps import run_through
from stoker.transport.wire.http2.frames import ErrorCode
from stoker.transport.wire.http2.hpack import Field
from stoker.transport.wire.http2.session import Session
from stoker.transport.wire.http2.stream import Opening, Stream
from stoker.transport.wire.limits import BODY_GRACE_S, STREAM_WINDOW, WHOLE_BODY_BYTES, body_rate
from stoker.transport.wire.message import Piece
from stoker.transport.wire.problems import HttpError

COMPRESS_FROM_BYTES: Final = 1024
"""A smaller answer is sent plain, which every client must take: zlib costs more than it saves."""

_prefix: Final = Struct(">BI").unpack_from

_INLINE_BYTES: Final = 64 << 10
"""A larger answer is compressed in the thread: some 1 ms."""


class UnaryOpening:
    """A unary call by its head. Implements `Opening`."""

    __slots__ = ("answer_coding", "context", "handle", "head", "host", "is_special", "small_bytes")

    def __init__(self, host: CallHost, head: CallHead, handle: UnaryHandler) -> None:
        self.host = host
        self.head = head
        self.handle = handle
        self.answer_coding = head.answer_coding
        self.is_special = head.timeout != math.inf or head.content_length >= 0
        self.small_bytes = min(WHOLE_BODY_BYTES, host.max_message_bytes)
        """A message up to here needs no admission but the budget's."""
        self.context: CallContext | None = None
        """Of every such call without a deadline, made with the first."""

    def open(self, session: Session, number: int) -> Stream:
        """Implements `Opening`."""
        return UnaryCall(session, number, self)

    def common_context(self) -> CallContext:
        """Makes `context`."""
        self.context = context = self.head.context(math.inf)
        return context

    def varied(self, fresh: list[Field]) -> Opening:
        """Implements `Opening`."""
        try:
            timeout, is_retry = self.head.terms(fresh)
        except InvalidRequest as error:
            metadata = CallMetadata(self.head.metadata, fresh)
            return RefusedOpening(error, self.host, self.head.path, metadata)
        return VariedOpening(self, fresh, timeout, is_retry)


class VariedOpening:
    """A unary call that differs from others in fresh fields only. Implements `Opening`. One is
    made for each such call, so it holds nothing but what differs."""

    __slots__ = ("common", "fresh", "is_retry", "timeout")

    def __init__(
        self, common: UnaryOpening, fresh: list[Field], timeout: float, is_retry: bool
    ) -> None:
        self.common = common
        self.fresh = fresh
        self.timeout = timeout
        self.is_retry = is_retry

    def open(self, session: Session, number: int) -> Stream:
        """Implements `Opening`."""
        common = self.common
        metadata = CallMetadata(common.head.metadata, self.fresh)
        context = CallContext(metadata, time.monotonic() + self.timeout, self.is_retry)
        return UnaryCall(session, number, common, context)

    def varied(self, fresh: list[Field]) -> Opening:
        """Implements `Opening`."""
        return self.common.varied(self.fresh + fresh)


class UnaryCall(Stream):
    """See the module's docstring."""

    _context: CallContext | None = None
    """The call's own, if it has one."""
    _reader: MessageReader | None = None
    """Of a message that did not come in one frame."""
    _message: Piece | None = None
    _is_compressed: bool = False
    _reserved: int = 0
    _is_answered: bool = False
    _cancel: Cancel | None = None

    def __init__(
        self,
        session: Session,
        number: int,
        opening: UnaryOpening,
        context: CallContext | None = None,
    ) -> None:
        # As `Stream` does; a call to it takes as long as all of this.
        self.session = session
        self.number = number
        self.opened_at = session.seconds
        self.send_window = session.sending.peer_window
        self._opening = opening
        if context is not None:
            self._context = context
        if opening.is_special:
            head = opening.head
            self.body_left = head.content_length
            if context is None and head.timeout != math.inf:
                self._context = head.context(time.monotonic() + head.timeout)

    def whole(self, view: memoryview, begin: int, end: int) -> None:
        """A message in one frame: the usual case."""
        size = end - begin - PREFIX_BYTES
        opening = self._opening
        if (
            self._reader is None
            and self._message is None
            and 0 <= size <= opening.small_bytes
            and _prefix(view, begin) == (0, size)
        ):
            budget = opening.host.budget
            if budget.used + size <= budget.limit:
                budget.used += size
                self._reserved = size
                self._handle(bytes(view[begin + PREFIX_BYTES : end]))
                return
        super().whole(view, begin, end)

    def data(self, payload: memoryview) -> None:
        """A part of the message, prefix first."""
        reader = self._reader
        if reader is None:
            reader = self._reader = MessageReader()
        elif reader.fills(payload):
            return
        try:
            for is_compressed, message in reader.feed(payload, self._admit):
                if self._message is not None:
                    raise _more_than_one()
                self._message, self._is_compressed = message, is_compressed
        except ServingError as error:
            self._count_refusal(error)
            self._reply(error.bare())

    def ended(self) -> None:
        """The call is whole."""
        message, reader = self._message, self._reader
        try:
            if message is None or (reader is not None and reader.is_amid):
                raise InvalidRequest("expected one whole message, got none or a part of one")
            if self._is_compressed:
                self._inflate(message)
                return
        except ServingError as error:
            self._count_refusal(error)
            self._reply(error.bare())
            return
        self._message = None
        self._handle(message)

    def lost(self, code: ErrorCode) -> None:
        """The client cancelled, or is gone."""
        self._is_answered = True
        self._message = None
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel()
        self._release()

    def refuse(self, error: ServingError | HttpError) -> None:
        """Implements `Stream`."""
        cancel, self._cancel = self._cancel, None
        self._message = None
        failure = as_serving_error(error)
        opening, context = self._opening, self._context
        if opening.host.observer is not None and context is not None:
            opening.host.observer.refused(failure, context)
        if self._is_answered:  # what is being compressed comes too late
            self.session.answer(self, failed_at_once(failure), (), 0)
        else:
            self._reply(failure)
        if cancel is not None:
            cancel()

    def is_slow(self, seconds: int) -> bool:
        """Implements `Stream`."""
        reader = self._reader
        filled = 0 if reader is None else reader.filled
        return filled < (seconds - BODY_GRACE_S) * body_rate(self._reserved)

    def _admit(self, size: int) -> None:
        """A message that takes more than a frame, whole or not at all."""
        if self._message is not None:
            raise _more_than_one()
        check_size(self._opening.host, size)
        self._opening.host.budget.reserve(size)
        self._reserved += size
        self.session.widen(self, size + PREFIX_BYTES - STREAM_WINDOW)

    def _handle(self, message: MessageBytes) -> None:
        opening = self._opening
        context = self._context or opening.context or opening.common_context()
        cancel = opening.handle(message, context, self._reply)
        if not self._is_answered:
            self._cancel = cancel

    def _inflate(self, message: Piece) -> None:
        """Hands on a compressed message, in time. Raises ServingError."""
        host, coding = self._opening.host, self._opening.head.coding
        self._message = None
        if coding is None:
            raise InvalidRequest("expected a plain message without grpc-encoding, got a flag of 1")
        limit = host.max_message_bytes
        plain = inflate_small(message, coding, limit)
        if plain is not None:
            self._inflated(plain)
            return
        try:
            job = host.thread.run(
                inflate_in_steps(message, coding, limit), self._inflated, self._reserve
            )
        except RuntimeError as error:
            raise Cancelled("the server is closed") from error
        self._cancel = job.cancel

    def _inflated(self, outcome: Piece | Exception) -> None:
        if self._is_answered:
            return
        self._cancel = None
        if isinstance(outcome, ServingError):
            self._count_refusal(outcome)
            self._reply(outcome.bare())
        elif isinstance(outcome, Exception):
            self._reply(unforeseen(self._opening.head.path, outcome))
        else:
            self._handle(outcome)

    def _reserve(self, size: int) -> None:
        """The message grows while it is inflated."""
        if self._is_answered:
            raise Cancelled("the client went away")
        self._opening.host.budget.reserve(size)
        self._reserved += size

    def _reply(self, answer: UnaryAnswer) -> None:
        """The call's one answer."""
        if self._is_answered:
            if not isinstance(answer, bytes | ServingError) and answer.lease is not None:
                answer.lease.release()
            return
        self._is_answered = True
        self._cancel = None
        if self._reserved:
            self._release()
        if self._opening.answer_coding is not None and self._compresses(answer):
            return
        if isinstance(answer, bytes):
            self.session.message(self, PLAIN, answer)
        elif isinstance(answer, ServingError):
            self.session.answer(self, failed_at_once(answer), (), 0)
        else:
            size = answer.size
            pieces = (b"\0" + size.to_bytes(4, "big"), *answer.pieces)
            self.session.answer(self, HEAD, pieces, size + PREFIX_BYTES, OK, answer.lease)

    def _compresses(self, answer: UnaryAnswer) -> bool:
        """Whether the answer is sent compressed, perhaps later."""
        coding = self._opening.answer_coding
        if coding is None or isinstance(answer, ServingError):
            return False
        if isinstance(answer, bytes):
            answer = PiecedMessage((answer,), len(answer), None)
        if answer.size < COMPRESS_FROM_BYTES:
            return False
        self._compress(answer, coding)
        return True

    def _compress(self, answer: PiecedMessage, coding: str) -> None:
        """Sends an answer, which the budget holds until it is compressed."""
        budget, size, lease = self._opening.host.budget, answer.size, answer.lease
        budget.charge(size)

        def done(outcome: tuple[bytes, ...] | Exception) -> None:
            self._cancel = None
            budget.release(size)
            if lease is not None:
                lease.release()
            if isinstance(outcome, ServingError):
                self.session.answer(self, failed_at_once(outcome.bare()), (), 0)
            elif isinstance(outcome, Exception):
                error = unforeseen(self._opening.head.path, outcome)
                self.session.answer(self, failed_at_once(error), (), 0)
            else:
                compressed = sum(map(len, outcome))
                prefix = b"\1" + compressed.to_bytes(4, "big")
                head = coded_head(coding)
                self.session.answer(self, head, (prefix, *outcome), compressed + PREFIX_BYTES, OK)

        steps = deflate_in_steps(answer.pieces, coding)
        if size <= _INLINE_BYTES:
            done(run_through(steps))
            return
        try:
            self._cancel = self._opening.host.thread.run(steps, done, _reserve_nothing).cancel
        except RuntimeError:
            done(Cancelled("the server is closed"))

    def _count_refusal(self, error: ServingError) -> None:
        count_refusal(self._opening.host, error, self._context)

    def _release(self) -> None:
        self._opening.host.budget.release(self._reserved)
        self._reserved = 0


def _more_than_one() -> InvalidRequest:
    return InvalidRequest("expected one message in a unary call, got more")


def _reserve_nothing(size: int) -> None:
    """Answers exist already when they are compressed, and are charged."""
