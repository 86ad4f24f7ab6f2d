"""A streaming call of the native gRPC transport: any number of messages in and out, one Task.

The handler is an asynchronous generator; what it has not taken waits here, what the peer has not
taken waits in the stream, and each holds back its own side only.

  1. The peer may send STREAM_WINDOW bytes that the handler has not taken. Small messages are
     credited when they are taken, in portions of half a window.
  2. A message over half a window is admitted by its length and widens the window by it, at once if
     nothing waits before it, else when all of that is taken: one at a time lies here.
  3. What messages hold of the server's budget is given back when the handler asks for the next one.
  4. The handler pauses while more than WRITE_AHEAD bytes of its answers wait for the peer.
  5. The status is sent once: by the handler's end, its error, the deadline, or whoever refuses.
Hot path.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

from stoker.errors import Cancelled, DeadlineExceeded, InvalidRequest, ServingError
from stoker.transport.coding import inflate_in_steps, inflate_small
from stoker.transport.grpc.call import MessageBytes, StreamMethod, unforeseen
from stoker.transport.grpc.call_end import HEAD, OK, failed, failed_at_once
from stoker.transport.grpc.message_reader import PREFIX_BYTES, MessageReader
from stoker.transport.grpc.native_call import (
    ArrivedCallHead,
    CallHead,
    CallHost,
    as_serving_error,
    check_size,
    count_refusal,
)
from stoker.transport.grpc.native_head import CallMetadata
from stoker.transport.grpc.native_refused import RefusedOpening
from stoker.transport.grpc.observed import CallObserver
from stoker.transport.wire.http2.frames import ErrorCode
from stoker.transport.wire.http2.hpack import Field
from stoker.transport.wire.http2.session import Session
from stoker.transport.wire.http2.stream import Opening, Stream
from stoker.transport.wire.limits import BODY_GRACE_S, STREAM_WINDOW, body_rate
from stoker.transport.wire.message import Piece
from stoker.transport.wire.problems import HttpError

WRITE_AHEAD: Final = 64 << 10
"""Bytes of answers that wait before the handler pauses: a turn's share of the connection."""

MESSAGE_COST: Final = 64
"""Bytes that a waiting message takes besides its own: a window of empty ones is 200,000."""


class StreamOpening:
    """A streaming call by its head. Implements `Opening`."""

    __slots__ = ("head", "host", "method")

    def __init__(self, host: CallHost, head: CallHead, method: StreamMethod) -> None:
        self.host = host
        self.head = head
        self.method = method

    def open(self, session: Session, number: int) -> Stream:
        """Implements `Opening`."""
        return StreamCall(session, number, self)

    def varied(self, fresh: list[Field]) -> Opening:
        """Implements `Opening`."""
        try:
            return StreamOpening(self.host, self.head.varied(fresh), self.method)
        except InvalidRequest as error:
            metadata = CallMetadata(self.head.metadata, fresh)
            return RefusedOpening(error, self.host, self.head.path, metadata)


class ObservedStreamOpening(StreamOpening):
    """The same where somebody looks at calls: each is asked about when it comes."""

    __slots__ = ("observer",)

    def __init__(
        self, host: CallHost, head: CallHead, method: StreamMethod, observer: CallObserver
    ) -> None:
        super().__init__(host, head, method)
        self.observer = observer

    def open(self, session: Session, number: int) -> Stream:
        """Implements `Opening`."""
        head = ArrivedCallHead(self.head, self.observer, session.peer)
        return StreamCall(session, number, StreamOpening(self.host, head, self.method))

    def varied(self, fresh: list[Field]) -> Opening:
        """Implements `Opening`."""
        opening = super().varied(fresh)
        if isinstance(opening, StreamOpening):
            return ObservedStreamOpening(opening.host, opening.head, opening.method, self.observer)
        return opening


class StreamCall(Stream):
    """See the module's docstring."""

    def __init__(self, session: Session, number: int, opening: StreamOpening) -> None:
        super().__init__(session, number)
        self._opening = opening
        self.is_endless = True  # until it has a message, only its client would end it
        self.body_left = opening.head.content_length
        self._reader = MessageReader()
        self._messages: deque[tuple[bool, Piece]] = deque()
        self._reserved = 0
        """Of the budget, for all messages that wait and the one that the handler has."""
        self._held = 0
        """Of that, for the one that the handler has."""
        self._credit = 0
        """Bytes that were taken and that the peer does not know of."""
        self._large = 0
        """Of a large message that waits for its turn to widen the window."""
        self._message_began = 0
        """The stream's second when the message began that is not whole, or the client could go on
        with it."""
        self._is_whole = False
        self._is_over = False
        """The status is sent, or nobody waits for it."""
        self._has_head = False
        self._changed: asyncio.Future[None] | None = None
        """The handler waits for a message or for the end."""
        self._sent: asyncio.Future[None] | None = None
        """The handler waits for the peer to take its answers."""
        self._task: asyncio.Task[None] | None = None
        seconds = opening.head.timeout
        self._context = opening.head.context(time.monotonic() + seconds)
        self._expiry: asyncio.TimerHandle | None = None
        if seconds != math.inf:
            self._expiry = asyncio.get_running_loop().call_later(seconds, self._expire)

    # --- what the session calls -----------------------------------------------------------------

    def data(self, payload: memoryview) -> None:
        """Bytes of messages."""
        if self._is_over:
            return
        self.is_endless = self._opening.method.is_endless
        was_amid = self._reader.is_amid
        try:
            self._messages += self._reader.feed(payload, self._admit)
        except ServingError as error:
            count_refusal(self._opening.host, error, self._context)
            self.refuse(error.bare())
            return
        if not was_amid:
            self._begin_again()
        if self._messages:
            self._go_on()

    def ended(self) -> None:
        """No more messages come."""
        if self._is_over:
            return
        if self._reader.is_amid:
            error = InvalidRequest("expected whole messages, got a part of one at the end")
            count_refusal(self._opening.host, error, self._context)
            self.refuse(error)
            return
        self._is_whole = True
        self._go_on()

    def lost(self, code: ErrorCode) -> None:
        """The client cancelled, or is gone."""
        self._end()
        self._cancel()

    def refuse(self, error: ServingError | HttpError) -> None:
        """Implements `Stream`."""
        failure = as_serving_error(error)
        host = self._opening.host
        if host.observer is not None:
            host.observer.refused(failure, self._context)
        self._finish(failure)
        self._cancel()

    def is_slow(self, seconds: int) -> bool:
        """Implements `Stream`: a stream may rest between messages, and what waits for the handler
        may hold the client back."""
        if not self._reader.is_amid or self._messages or self._large:
            return False
        grace = seconds - self._message_began - BODY_GRACE_S
        return self._reader.filled < grace * body_rate(self._reserved)

    def sent(self) -> None:
        """Implements `Stream`."""
        _wake(self._sent)

    # --- the handler's task ---------------------------------------------------------------------

    async def _run(self) -> None:
        requests = self._taken()
        answers = self._opening.method.handle(requests, self._context)
        error: ServingError | None = None
        try:
            async for answer in answers:
                self._write(answer)
                del answer  # a stream may be quiet for hours after it
                while self.outgoing is not None and self.outgoing.size > WRITE_AHEAD:
                    self._sent = asyncio.get_running_loop().create_future()
                    await self._sent
        except ServingError as failure:
            error = failure.bare()
        except Exception as failure:
            error = unforeseen(self._opening.head.path, failure)
        finally:
            await answers.aclose()
            self._release_all()
            await requests.aclose()  # or the loop would, by a task of its own
        self._finish(error)

    async def _taken(self) -> AsyncGenerator[MessageBytes, None]:
        """The messages, as the handler asks for them."""
        while True:
            self._release(self._held)
            self._held = 0
            while not self._messages:
                if self._large:
                    self.session.widen(self, self._large)
                    self._large = 0
                    self._begin_again()
                if self._is_whole:
                    return
                self._changed = asyncio.get_running_loop().create_future()
                await self._changed
            is_compressed, message = self._messages.popleft()
            if not self._messages:
                self._begin_again()
            size = len(message)
            self._held = size + MESSAGE_COST
            if size + PREFIX_BYTES <= STREAM_WINDOW // 2:
                self._credit += size + PREFIX_BYTES
                if self._credit >= STREAM_WINDOW // 2:
                    self.session.widen(self, self._credit)
                    self._credit = 0
            yield await self._inflated(message) if is_compressed else message
            del message  # it would live until the next one comes

    async def _inflated(self, message: Piece) -> Piece:
        """A compressed message's own bytes. Raises ServingError."""
        host, coding = self._opening.host, self._opening.head.coding
        if coding is None:
            raise InvalidRequest("expected plain messages without grpc-encoding, got a flag of 1")
        limit = host.max_message_bytes
        plain = inflate_small(message, coding, limit)
        if plain is not None:
            return plain
        future: asyncio.Future[Piece] = asyncio.get_running_loop().create_future()

        def done(outcome: Piece | Exception) -> None:
            if future.done():
                return
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        def reserve(size: int) -> None:
            if future.done():
                raise Cancelled("the client went away")
            self._reserve(size)
            self._held += size

        try:
            job = host.thread.run(inflate_in_steps(message, coding, limit), done, reserve)
        except RuntimeError as error:
            raise Cancelled("the server is closed") from error
        try:
            return await future
        finally:
            job.cancel()

    # --- the rest ----------------------------------------------------------------------------

    def _go_on(self) -> None:
        """There is something for the handler. It begins with the first message, or with the end
        where there is none: a status that overtakes the client's first message is lost to clients
        of grpc.aio, which report their own failed write."""
        if self._task is None and not self._is_over:
            loop = asyncio.get_running_loop()
            tasks = self._opening.host.tasks
            self._task = loop.create_task(self._run(), name=f"call of {self._opening.head.path}")
            tasks.add(self._task)
            self._task.add_done_callback(tasks.discard)
        _wake(self._changed)

    def _begin_again(self) -> None:
        """From here on the client has the window for the message that is not whole."""
        self._message_began = self.session.seconds - self.opened_at

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._release_all()

    def _admit(self, size: int) -> None:
        """A message of this size begins. Raises ServingError."""
        check_size(self._opening.host, size)
        self._reserve(size + MESSAGE_COST)
        if size + PREFIX_BYTES > STREAM_WINDOW // 2:
            if self._messages:
                self._large += size + PREFIX_BYTES
            else:
                self.session.widen(self, size + PREFIX_BYTES)

    def _write(self, answer: bytes) -> None:
        if not self._has_head:
            self._has_head = True
            self.session.start(self, HEAD)
        self.session.write(self, (b"\0" + len(answer).to_bytes(4, "big"), answer))

    def _finish(self, error: ServingError | None) -> None:
        """Sends the call's status, once."""
        if self._is_over:
            return
        self._end()
        if error is None:
            if not self._has_head:
                self.session.start(self, HEAD)
            self.session.finish(self, OK)
        elif self._has_head:
            self.session.finish(self, failed(error))
        else:
            self.session.answer(self, failed_at_once(error), (), 0)

    def _end(self) -> None:
        self._is_over = True
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _expire(self) -> None:
        seconds = self._opening.head.timeout
        self.refuse(DeadlineExceeded(f"the call passed its deadline of {seconds * 1000:.0f} ms"))

    def _reserve(self, size: int) -> None:
        self._opening.host.budget.reserve(size)
        self._reserved += size

    def _release(self, size: int) -> None:
        self._opening.host.budget.release(size)
        self._reserved -= size

    def _release_all(self) -> None:
        self._messages.clear()
        self._release(self._reserved)
        self._held = 0


def _wake(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
