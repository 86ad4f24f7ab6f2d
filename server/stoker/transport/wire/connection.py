"""One client's HTTP/1.1 connection: what the kernel gives goes to the reader, whole requests to the
handler, answers back in the order of their requests. It knows nothing of what requests mean.

It is a `BufferedProtocol`: all connections of a server receive into one shared buffer, except into
a large body's own memory. Its parts without I/O are `http1.RequestReader` and `answer.encode`.

Phases:  OPEN -> ENDING -> LINGERING -> CLOSED
  OPEN       requests are read and answered.
  ENDING     nothing more is read: an answer with `Connection: close` is under way, or an error.
  LINGERING  our side is shut; what comes is dropped until the peer closes, or LINGER_S. A request
             among it is not read and gets no answer: its client sees the stream end, not reset,
             and may send it again if that is safe (RFC 9112, 9.3.1 and 9.6). HTTP/1.1 has no
             better word than that for a connection that ends between two answers.
  CLOSED     the socket is gone; answers that still come are dropped and their leases released.

  1. Requests under way stand in `_exchanges` in the order they came. Only the first ones that have
     an answer are written, all that are ready in one write, once per loop turn: at its end, or when
     the only request is read if it has its answer then.
  2. `outgoing.AnswerWriter` writes; large bodies and answers take one share of TURN_BYTES a turn,
     and writing counts as paused until the kernel has all.
  3. While writing is paused nothing is read or written: a stalled reader stops its own connection.
     Its answers are bounded by MAX_PIPELINED and charged to the budget.
  4. A peer that shuts its side is gone: its requests are cancelled.
Hot path.
"""

import asyncio
import contextlib
from collections import deque
from enum import Enum, auto
from typing import cast

from stoker.errors import ServingError
from stoker.transport.tls import ALPN_HTTP1, ALPN_HTTP2
from stoker.transport.wire.answer import CONTINUE, encode
from stoker.transport.wire.arrival import Handle
from stoker.transport.wire.exchange import Exchange, cancel_all, refuse_unanswered
from stoker.transport.wire.head import Head
from stoker.transport.wire.host import Host
from stoker.transport.wire.http1 import RequestReader
from stoker.transport.wire.http2.frames import PREFACE
from stoker.transport.wire.limits import (
    COPIED_ROW_BYTES,
    MAX_PIPELINED,
    SHORT_LINGER_S,
    TURN_BYTES,
)
from stoker.transport.wire.message import HttpRequest, HttpResponse, Piece, error_response
from stoker.transport.wire.outgoing import AnswerWriter
from stoker.transport.wire.patience import Awaited, Patience
from stoker.transport.wire.peer import peer_of
from stoker.transport.wire.problems import HttpError
from stoker.transport.wire.refusals import DRAINING


class Phase(Enum):
    """See the module's docstring; it is also the table of legal ways."""

    OPEN = auto()
    ENDING = auto()
    LINGERING = auto()
    CLOSED = auto()


class Connection(asyncio.BufferedProtocol):
    """See the module's docstring."""

    __slots__ = (
        "_age_limit",
        "_exchanges",
        "_first",
        "_handle",
        "_host",
        "_is_http2_due",
        "_is_read_paused",
        "_linger_s",
        "_reader",
        "_transport",
        "_turn_bytes",
        "_writer",
        "flushes",
        "patience",
        "phase",
    )

    def __init__(self, host: Host, age_s: float, alpn: str | None = None) -> None:
        """`alpn` is the protocol that TLS has chosen; None: the first bytes tell."""
        self.phase = Phase.OPEN
        self.patience = Patience(host.limits, host.time)
        """Says when the server must look at this connection."""
        self.flushes = False
        self._host = host
        self._handle: Handle = host.handler.handle
        self._age_limit = host.time() + age_s
        self._reader = RequestReader(host.handler, host.budget)
        self._exchanges: deque[Exchange] = deque()
        self._first: bytes | None = None if alpn == ALPN_HTTP1 else b""
        """What came before it was clear which HTTP the client speaks; None: it is HTTP/1."""
        self._is_http2_due = alpn == ALPN_HTTP2
        self._turn_bytes = 0
        """Bytes of a large body since reading was last given up for a turn."""
        self._is_read_paused = False
        self._linger_s = host.limits.linger_s
        self._transport: asyncio.Transport
        self._writer: AnswerWriter

    @property
    def is_idle(self) -> bool:
        """No request is under way, none has begun to come, and nothing waits to be sent."""
        return (
            self.phase is Phase.OPEN
            and not self._exchanges
            and not self._writer.is_paused
            and self._reader.is_between_requests
        )

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Opens."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._writer = AnswerWriter(self._transport, self._host, self._all_sent)
        observer = self._host.observer
        if observer is not None:
            self._handle = observer.connection(peer_of(transport), self.patience.request_began)
        self._host.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the kernel writes next."""
        reader = self._reader
        return reader.space() if reader.fills_body else self._host.receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        if self.phase is not Phase.OPEN:
            return
        reader = self._reader
        if reader.fills_body:
            reader.advance(nbytes)
            self._turn_bytes += nbytes
        else:
            data = bytes(self._host.receive_buffer[:nbytes])
            if self._first is not None:
                if not self._speaks_http1(data):
                    return
                data, self._first = self._first or data, None
            elif (
                not self._exchanges
                and not self._writer.is_paused
                and (request := reader.take_known(data)) is not None
                and (head := reader.known) is not None
            ):  # the usual case; `expire` sees that a request is under way
                self.flushes = True  # if it is answered at once, it is flushed here
                is_answered = self._dispatch(head, request, head.content_length)
                self.flushes = False
                if is_answered:
                    self._host.flush_now(self)
                return
            reader.receive(data)
        self._serve()
        if self._turn_bytes >= TURN_BYTES and self.phase is Phase.OPEN:
            self._turn_bytes = 0
            self._pause_reading()
            self._host.next_turn(self._serve)

    def eof_received(self) -> bool:
        """The peer shut its side: what is answered is sent, the rest cancelled."""
        if self.phase is Phase.OPEN or self.phase is Phase.ENDING:
            self.flush()
            self.phase = Phase.ENDING
            self._reader.close()
            self._cancel_all()
        # The transport sends what it has and closes; shares that it does not have yet follow first.
        return self._writer.has_shares

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.phase = Phase.CLOSED
        self.patience.end()
        self._reader.close()
        self._writer.drop()
        self._cancel_all()
        self._host.lost(self)

    def pause_writing(self) -> None:
        """The kernel took less than it was given."""
        self._writer.pause()
        self._watch_stall()

    def resume_writing(self) -> None:
        """The kernel has everything that it was given."""
        self._writer.resume()

    # What the server calls.

    def turn_away(self, error: HttpError) -> None:
        """Refuses a connection that has just been made, and does not wait long for it to go."""
        self._linger_s = SHORT_LINGER_S
        self.refuse(error)

    def refuse(self, error: ServingError | HttpError) -> None:
        """Answers `error` after the answers that are under way, and ends."""
        if self.phase is not Phase.OPEN:
            return
        exchange = Exchange(self.answered, closes=True, without_body=False, reserved=0)
        self._exchanges.append(exchange)
        self._host.in_flight += 1
        self.phase = Phase.ENDING
        self._reader.close()
        exchange.answer(error_response(error))

    def announce_drain(self) -> None:
        """Nothing to send: every answer says `Connection: close` from here on."""

    def end_if_idle(self) -> None:
        """The port is closed: shuts our side if no request is here and none is on its way. What
        comes later is read and dropped."""
        if self.phase is Phase.LINGERING:
            self.patience.await_close(SHORT_LINGER_S)
        elif self.is_idle and not self.patience.hurry():
            self._linger()

    def abort(self) -> None:
        """Ends it at once, answered or not."""
        self._transport.abort()

    def expire(self, now: float) -> None:
        """The deadline has passed: ends what is too slow, or sets the next one."""
        patience = self.patience
        if self.phase is Phase.LINGERING or self.phase is Phase.CLOSED:
            self._transport.abort()
        elif self._writer.is_paused:
            if patience.has_stalled(self._writer.waiting_bytes):
                self._transport.abort()
            else:
                self._watch_stall()
        elif self._exchanges:
            patience.end()
        elif self.phase is Phase.ENDING:
            self._transport.abort()
        elif self._reader.is_between_requests and not self._first:
            self._linger()
        elif patience.awaited is not Awaited.BODY:
            error = patience.head_too_slow()
            self._observe_refusal(error)
            self.refuse(error)
        else:
            reader = self._reader
            slow = patience.body_too_slow(now, reader.body_bytes, reader.reserved_bytes)
            if slow is not None:
                self._observe_refusal(slow)
                self.refuse(slow)

    def flush(self) -> None:
        """Writes the answers that are ready and first in line."""
        self.flushes = False
        exchanges = self._exchanges
        if self._writer.is_paused or not exchanges or self._transport.is_closing():
            return
        host = self._host
        now = host.time()
        ends = host.is_draining or now >= self._age_limit
        if not ends and len(exchanges) == 1 and self._flush_usual(exchanges[0], now):
            return
        closes = False
        pieces: list[Piece] = []
        size = 0
        while exchanges and (response := exchanges[0].response) is not None:
            exchange = exchanges.popleft()
            host.in_flight -= 1
            # A pipeline that is under way is answered to its end: only its last answer closes.
            closes = exchange.closes or (ends and not exchanges)
            pieces += encode(
                response,
                exchange.size,
                host.clock,
                closes=closes,
                without_body=exchange.without_body,
            )
            size += exchange.size
            if response.lease is not None:
                self._writer.lease(response.lease)
        if not pieces:
            if self._is_read_paused:  # because writing was
                self._serve()
            return
        self._write(pieces, size)
        if closes:
            self._end()
        elif self._reader.is_between_requests and not self._is_read_paused:
            self._rest_or_wait()
        else:
            self._serve()

    def _flush_usual(self, exchange: Exchange, now: float) -> bool:
        """Writes the answer of a client that has one request under way and stays, where it is one
        small piece and nothing about it is special. False: something is."""
        response, size = exchange.response, exchange.size
        if (
            response is None
            or exchange.closes
            or exchange.without_body
            or response.lease is not None
            or len(response.pieces) != 1
            or size >= COPIED_ROW_BYTES
        ):
            return False
        host = self._host
        self._exchanges.popleft()
        host.in_flight -= 1
        self._writer.write_small(host.clock.head(response, size) + response.pieces[0], size)
        if self._writer.is_paused:
            self._watch_stall()
        if not self._reader.is_between_requests or self._is_read_paused:
            self._serve()
        elif self.phase is Phase.OPEN and not self._writer.is_paused:
            self.patience.rest(now)
        return True

    def answered(self, exchange: Exchange, response: HttpResponse) -> None:
        """Takes an exchange's answer; a second one, and one for a client that left, is dropped."""
        budget = self._host.budget
        budget.used -= exchange.reserved
        exchange.reserved = 0
        exchange.cancel = None
        if exchange.response is not None:
            if response.lease is not None:
                response.lease.release()
            return
        exchange.response = response
        pieces = response.pieces
        exchange.size = size = len(pieces[0]) if len(pieces) == 1 else response.size
        budget.used += size
        if exchange is self._exchanges[0] and not self._writer.is_paused:
            self._host.flush_soon(self)

    def close(self) -> None:
        """The server is closing: what is unanswered or half read is refused as Draining, and stays
        for a moment to read it. All else ends, its answers sent if the kernel takes them."""
        if self.phase is Phase.CLOSED:
            return
        is_refused = refuse_unanswered(self._exchanges, error_response(DRAINING))
        if not self._exchanges and not self._reader.is_between_requests:
            is_refused = self.phase is Phase.OPEN
            if is_refused:
                self._observe_refusal(DRAINING)
            self.refuse(DRAINING)
        self.flush()
        if is_refused and self.phase is Phase.LINGERING:
            return
        if self.phase is not Phase.LINGERING:
            self.phase = Phase.ENDING
        self._reader.close()
        self._cancel_all()
        if self._writer.is_paused:
            self._transport.abort()
        else:
            self._transport.close()

    # The rest.

    def _refused(self, error: ServingError | HttpError) -> None:
        """The reader refuses what came."""
        self._host.refused(error)
        self._observe_refusal(error)

    def _observe_refusal(self, error: ServingError | HttpError) -> None:
        observer = self._host.observer
        if observer is not None:
            head, peer = self._reader.head, peer_of(self._transport)
            observer.refused(error, head, peer, protocol_version="1.1")

    def _speaks_http1(self, data: bytes) -> bool:
        """Looks at the first bytes. False: more must come, or the connection speaks HTTP/2 and
        belongs to another protocol."""
        self._first = first = (self._first or b"") + data
        if not self._host.speaks_http2 or not first.startswith(PREFACE[: len(first)]):
            if self._is_http2_due:  # no GOAWAY for a client that speaks something else (9113, 3.4)
                self._transport.close()
                return False
            return True
        if len(first) < len(PREFACE):
            self.patience.await_head()
        else:
            self.phase = Phase.CLOSED
            self._host.speak_http2(self, self._transport, first[len(PREFACE) :], self._age_limit)
        return False

    def _serve(self) -> None:
        """Takes requests from the reader until it has none, or enough are under way."""
        while self.phase is Phase.OPEN:
            if len(self._exchanges) >= MAX_PIPELINED or self._writer.is_paused:
                self._pause_reading()
                return
            try:
                received = self._reader.take()
            except (HttpError, ServingError) as error:
                self._refused(error)
                self._reader.close()
                self.refuse(error)
                return
            if received is None:
                if self._reader.wants_continue and not self._exchanges:
                    self._continue()
                self._resume_reading()
                self._rest_or_wait()
                return
            self._dispatch(received.head, received.request, received.reserved)
            if self._reader.is_between_requests and not self._is_read_paused:
                self.patience.end()  # until `flush` has written the answer
                return

    def _dispatch(self, head: Head, request: HttpRequest, reserved: int) -> bool:
        """Hands a request on. True: it is answered already."""
        exchange = Exchange(self.answered, not head.keeps_alive, head.asks_for_head, reserved)
        self._exchanges.append(exchange)
        self._host.in_flight += 1
        if exchange.closes:
            self.phase = Phase.ENDING
        cancel = self._handle(request, exchange.answer)
        if exchange.response is not None:
            return True
        exchange.cancel = cancel
        return False

    def _continue(self) -> None:
        """Tells the client to send its body; the body's clock starts here."""
        self._reader.wants_continue = False
        self.patience.end()
        self._write([CONTINUE], 0)

    def _write(self, pieces: list[Piece], size: int) -> None:
        self._writer.write(pieces, size)
        if self._writer.is_paused:
            self._watch_stall()

    def _all_sent(self) -> None:
        """Writing was paused, and the kernel has everything."""
        if self.phase is Phase.ENDING and not self._exchanges:
            self._linger()
        elif self._exchanges:
            self._host.flush_soon(self)
        else:
            self._serve()

    def _rest_or_wait(self) -> None:
        """Sets the deadline for what the connection waits for."""
        if self.phase is not Phase.OPEN or self._writer.is_paused:
            return
        reader = self._reader
        if self._exchanges:
            self.patience.end()
        elif reader.is_between_requests:
            self.patience.rest()
            if self._host.is_closing:
                self.end_if_idle()
        elif reader.is_in_body:
            self.patience.await_body()
        else:
            self.patience.await_head()

    def _watch_stall(self) -> None:
        self.patience.await_reader(self._writer.waiting_bytes)

    def _end(self) -> None:
        """The last answer is written: what else came is not answered."""
        self.phase = Phase.ENDING
        self._reader.close()
        if not self._writer.is_paused:
            self._linger()

    def _linger(self) -> None:
        self._reader.close()
        if self._transport.is_closing():
            return
        self.phase = Phase.LINGERING
        host = self._host
        self.patience.await_close(SHORT_LINGER_S if host.is_closing else self._linger_s)
        if host.lingers(self) and self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # the peer is gone, which the loop will say
                self._transport.write_eof()
            self._resume_reading()
        else:
            self._transport.close()

    def _cancel_all(self) -> None:
        """Nobody waits for these answers. Reservations end when the handler has answered."""
        exchanges, self._exchanges = self._exchanges, deque()
        self._host.in_flight -= len(exchanges)
        cancel_all(exchanges, self._host.budget)

    def _pause_reading(self) -> None:
        if not self._is_read_paused:
            self._is_read_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._is_read_paused:
            self._is_read_paused = False
            self._transport.resume_reading()
