"""One client's HTTP/2 connection: what the kernel gives goes to the session, its frames go back.

The session decides everything of the protocol and has no socket; this has the socket, the clock and
the server's limits. All connections receive into one shared buffer; the few bytes of a frame that
is not whole are kept and put in front of what follows.

Phases:  OPEN -> PARTING -> LEAVING -> LINGERING -> CLOSED
  OPEN       streams come and go.
  PARTING    they still do: the client was asked to leave, and a PING is on its way. Its answer says
             that the client has read so, and that every stream which it opened before has come.
  LEAVING    the last GOAWAY was sent: open streams are answered, later ones refused.
  LINGERING  our side is shut; what comes is dropped until the peer closes, or its time is over.
  CLOSED     the socket is gone; answers that still come are dropped and their leases released.

  1. Frames are written once a loop turn, of waiting bodies a share of TURN_BYTES: when what came is
     read if that answers every stream, else when the turn ends.
  2. While the kernel has not taken all, nothing is read and only control frames are added, of which
     a peer that does not read may cause MAX_CONTROL_BYTES.
  3. The server looks at the connection once a second while anything is open or comes: limits by the
     second begin anew, age and stalls are judged.
Hot path.  Source: RFC 9113, sections 3.4, 5.4.1 and 6.8.
"""

import asyncio
import contextlib
from enum import Enum, auto
from typing import Final

from stoker.errors import ServingError
from stoker.transport.wire.host import Host
from stoker.transport.wire.http2.frames import ErrorCode
from stoker.transport.wire.http2.session import Session
from stoker.transport.wire.http2.stream import Requests
from stoker.transport.wire.limits import (
    COPIED_ROW_BYTES,
    MAX_CONTROL_BYTES,
    SHORT_LINGER_S,
    SWEEP_INTERVAL_S,
    TURN_BYTES,
)
from stoker.transport.wire.patience import Patience
from stoker.transport.wire.peer import peer_of
from stoker.transport.wire.problems import HttpError
from stoker.transport.wire.refusals import DRAINING


class Phase(Enum):
    """See the module's docstring."""

    OPEN = auto()
    PARTING = auto()
    LEAVING = auto()
    LINGERING = auto()
    CLOSED = auto()


LEAVE_S: Final = 5.0
"""Between the two GOAWAYs of a connection that is too old: a client has read the first one, and
opened its next stream elsewhere, long before."""

HEARD_S: Final = SHORT_LINGER_S
"""From the PING to the last GOAWAY at the latest: some round trips and a lost packet. Streams that
come later are refused, and their clients try again elsewhere."""


class Http2Connection(asyncio.BufferedProtocol):
    """See the module's docstring."""

    __slots__ = (
        "_age_limit",
        "_host",
        "_idle_since",
        "_is_flush_due",
        "_is_read_paused",
        "_is_reading",
        "_is_resting",
        "_leave_at",
        "_rest",
        "_seen_requests",
        "_session",
        "_stalled",
        "_transport",
        "_turn_bytes",
        "_unfinished_since",
        "_unsent",
        "flushes",
        "patience",
        "phase",
    )

    def __init__(
        self, host: Host, requests: Requests, transport: asyncio.Transport, age_limit: float
    ) -> None:
        """Takes over a transport whose client has sent the preface; `age_limit` is a moment of
        `host.time()`. What came behind the preface goes to `received`."""
        self.phase = Phase.OPEN
        self.patience = Patience(host.limits, host.time)
        self.flushes = False
        self._host = host
        self._transport = transport
        self._age_limit = age_limit
        self._leave_at = float("inf")
        self._idle_since = host.time()
        self._seen_requests = 0
        """The last stream, when the server last looked."""
        self._rest = b""
        self._unfinished_since = float("inf")
        """Since when the server waits for the rest of one frame or head."""
        self._turn_bytes = 0
        self._is_read_paused = False
        self._is_reading = False
        self._is_flush_due = False
        """What was read is to be followed by a flush."""
        self._unsent = 0
        """Bytes that the kernel has not taken, as the budget counts them."""
        self._stalled = (0, 0.0)
        """How many bytes waited when, to see whether the peer has taken any since."""
        self._session = Session(requests, host.budget, self._wake)
        self._session.peer = peer_of(transport)
        transport.set_write_buffer_limits(high=0)
        self._is_resting = False
        """Nothing is open and nothing has come since the server last looked."""
        self._look_again()

    @property
    def is_idle(self) -> bool:
        """No stream is open."""
        return self.phase is Phase.OPEN and not self._session.open_streams

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Not called: the connection takes over a transport."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the kernel writes next: behind what is kept of before."""
        buffer, rest = self._host.receive_buffer, self._rest
        if not rest:
            return buffer
        kept = len(rest)
        buffer[:kept] = rest
        return buffer[kept:]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        if self.phase is Phase.LINGERING or self.phase is Phase.CLOSED:
            self._rest = b""
            return
        if self._is_resting:
            self._stir()
        end = len(self._rest) + nbytes
        buffer, session = self._host.receive_buffer, self._session
        self._is_reading = True
        try:
            taken = session.receive(buffer, end)
        finally:
            self._is_reading = False
        self._rest = bytes(buffer[taken:end]) if taken < end else b""
        if taken:
            self._unfinished_since = float("inf")
        if self.phase is not Phase.OPEN:
            if self._session.is_heard:
                self._leave()
            self._rest_or_end()  # a stream that was reset asks for no flush
        self._turn_bytes += nbytes
        if self._turn_bytes >= TURN_BYTES and not self._is_read_paused:
            self._pause_reading()
            self._host.next_turn(self._read_on)
        if self._is_flush_due:
            self._is_flush_due = False
            if session.open_streams:  # more is to be written in this turn
                self._host.flush_soon(self)
            else:
                self._host.flush_now(self)

    def received(self, data: bytes) -> None:
        """Bytes that another protocol read before this one took over."""
        self._stir()
        taken = self._session.receive(memoryview(data), len(data))
        self._rest = data[taken:]

    def eof_received(self) -> bool:
        """The peer shut its side: it is gone, as HTTP/2 has no use for half a connection."""
        self._session.lose()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.phase = Phase.CLOSED
        self.patience.end()
        self._session.lose()
        self._free()
        self._host.lost(self)

    def pause_writing(self) -> None:
        """The kernel took less than it was given."""
        self._session.sending.is_held = True
        self._pause_reading()

    def resume_writing(self) -> None:
        """The kernel has everything that it was given."""
        self._session.sending.is_held = False
        self._free()
        self.flush()
        if not self._session.sending.is_held:
            self._read_on()

    # What the server calls.

    def turn_away(self, error: HttpError) -> None:
        """Refuses the connection before anything else."""
        self._fail(ErrorCode.ENHANCE_YOUR_CALM, error.message)

    def refuse(self, error: ServingError | HttpError) -> None:
        """Ends the connection for a reason."""
        self._fail(ErrorCode.NO_ERROR, error.message)

    def announce_drain(self) -> None:
        """Asks the client to open its next streams elsewhere; all that come are served."""
        self._session.announce_leave()

    def end_if_idle(self) -> None:
        """The port is closed: takes no streams any more once the client knows, and ends when none
        is open."""
        if self.phase is Phase.LINGERING:
            self.patience.await_close(SHORT_LINGER_S)
        elif self.phase is Phase.LEAVING:
            self._session.refuse_endless(DRAINING)
        else:
            self._part()

    def abort(self) -> None:
        """Ends it at once, answered or not."""
        self._transport.abort()

    def close(self) -> None:
        """The server is closing: what is unanswered is refused as Draining, and stays for a moment
        to read it. A connection without any is told to leave and closed."""
        if self.phase is Phase.CLOSED or self.phase is Phase.LINGERING:
            return
        had_streams = self._session.open_streams > 0
        self._session.refuse_all(DRAINING)
        self._leave()
        self.flush()
        if not had_streams:
            self._transport.close()

    def expire(self, now: float) -> None:
        """A second has passed, or the time to close."""
        if self.phase is Phase.LINGERING or self.phase is Phase.CLOSED:
            self._transport.abort()
            return
        session, limits = self._session, self._host.limits
        session.tick(limits.write_stall_s)
        if session.open_streams or session.requests != self._seen_requests:
            self._seen_requests = session.requests
            self._idle_since = now
        if self._has_stalled(now):
            self._transport.abort()
            return
        if self._is_unfinished(now):
            self._fail(ErrorCode.ENHANCE_YOUR_CALM, "expected whole frames and heads in less time")
            return
        if now >= self._leave_at:
            if self.phase is Phase.OPEN:
                self._part()
            else:
                self._leave()
        elif now >= self._age_limit or now - self._idle_since >= limits.idle_timeout_s:
            session.announce_leave()
            self._leave_at = min(self._leave_at, now + LEAVE_S)
        self._look_again()

    def flush(self) -> None:
        """Writes the frames that are ready."""
        self.flushes = False
        transport = self._transport
        sending = self._session.sending
        if transport.is_closing():
            return
        if sending.is_held:
            if sending.control_bytes > MAX_CONTROL_BYTES:
                transport.abort()
            return
        pieces = sending.take(TURN_BYTES)
        if pieces:
            size = sum(map(len, pieces))
            if size < COPIED_ROW_BYTES:
                transport.write(b"".join(pieces))
            else:
                transport.writelines(pieces)
            unsent = transport.get_write_buffer_size()
            if unsent:
                self._host.budget.charge(unsent)
                self._unsent += unsent
                sending.is_held = True
        if sending.leases and not sending.is_held:
            self._free()
        if sending.can_go_on and not sending.is_held:
            self._wake()  # waiting bodies have another turn, after other connections had theirs
        if self._session.is_over or self.phase is Phase.LEAVING:
            self._rest_or_end()

    # The rest.

    def _wake(self) -> None:
        if self._is_reading:
            self._is_flush_due = True
        else:
            self._host.flush_soon(self)

    def _read_on(self) -> None:
        """Reading was given up for a turn, or while the kernel was full."""
        self._turn_bytes = 0
        if self._is_read_paused and not self._session.sending.is_held:
            self._is_read_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if not self._is_read_paused and not self._transport.is_closing():
            self._is_read_paused = True
            self._transport.pause_reading()

    def _part(self) -> None:
        """Will take no more streams when the client has heard of it."""
        if self.phase is Phase.OPEN:
            self.phase = Phase.PARTING
            self._session.announce_leave()
            self._session.ask()
            self._leave_at = self._host.time() + HEARD_S
            self._stir()

    def _leave(self) -> None:
        """Takes no more streams."""
        if self.phase is Phase.OPEN or self.phase is Phase.PARTING:
            self.phase = Phase.LEAVING
            if self._host.is_closing:
                self._session.refuse_endless(DRAINING)
            self._session.leave()
            self.flush()

    def _fail(self, code: ErrorCode, message: str) -> None:
        self._session.fail(code, message)
        self.flush()

    def _rest_or_end(self) -> None:
        """Ends the connection once nothing is left to say."""
        session = self._session
        if session.sending.is_held or session.sending.has_frames:
            return
        if session.is_over or (self.phase is Phase.LEAVING and not session.open_streams):
            self._linger()

    def _linger(self) -> None:
        if self.phase is Phase.LINGERING or self._transport.is_closing():
            return
        self.phase = Phase.LINGERING
        host = self._host
        self.patience.await_close(SHORT_LINGER_S if host.is_closing else host.limits.linger_s)
        if host.lingers(self) and self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # the peer is gone, which the loop will say
                self._transport.write_eof()
            self._read_on()
        else:
            self._transport.close()

    def _stir(self) -> None:
        """Something came: the server is to look soon."""
        self._is_resting = False
        self.patience.look_at(self._host.time() + SWEEP_INTERVAL_S)

    def _look_again(self) -> None:
        """Soon while anything is open, else when the connection is idle for too long or too old:
        10,000 that rest cost a sweep 10,000 comparisons."""
        if self.phase is Phase.LINGERING or self.phase is Phase.CLOSED:
            return
        session = self._session
        if session.open_streams or session.is_amid_head or self._rest or self._unsent:
            self._stir()
            return
        self._is_resting = True
        idle_until = self._idle_since + self._host.limits.idle_timeout_s
        self.patience.look_at(min(idle_until, self._age_limit, self._leave_at))

    def _has_stalled(self, now: float) -> bool:
        """Whether bytes wait of which the peer has taken none for WRITE_STALL_S."""
        waiting = self._session.sending.waiting_bytes + self._transport.get_write_buffer_size()
        if not waiting or waiting != self._stalled[0]:
            self._stalled = waiting, now
            return False
        return now - self._stalled[1] >= self._host.limits.write_stall_s

    def _is_unfinished(self, now: float) -> bool:
        """Whether the rest of one frame or head has been waited for too long. While the kernel is
        full it is we who do not read, and the time begins anew."""
        session = self._session
        if session.sending.is_held or not (self._rest or session.is_amid_head):
            self._unfinished_since = float("inf")
        elif self._unfinished_since > now:
            self._unfinished_since = now
        return now - self._unfinished_since >= self._host.limits.header_timeout_s

    def _free(self) -> None:
        """The kernel has all bytes, or never will: their memory is free."""
        self._host.budget.release(self._unsent)
        self._unsent = 0
        leases, self._session.sending.leases = self._session.sending.leases, []
        for lease in leases:
            lease.release()
