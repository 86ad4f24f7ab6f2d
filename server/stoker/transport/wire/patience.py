"""How long a connection waits for its peer: one deadline, moved as the connection moves on.

The server looks at all deadlines once a sweep and calls `Connection.expire` of those that have
passed. Here is what a connection waits for, since when, and whether a peer was too slow; what
follows from it the connection decides. Knows no socket and reads no clock but the one it is given.
Hot path.
"""

import math
from collections.abc import Callable
from enum import Enum, auto

from stoker.transport.wire.limits import (
    BODY_GRACE_S,
    FIRST_REQUEST_S,
    SWEEP_INTERVAL_S,
    HttpLimits,
    body_rate,
)
from stoker.transport.wire.problems import HttpError, Problem


class Awaited(Enum):
    """What the peer is waited for."""

    NOTHING = auto()
    REQUEST = auto()
    """The first byte of a request."""
    HEAD = auto()
    BODY = auto()
    READER = auto()
    """That it takes of its answers."""
    CLOSE = auto()


class Patience:
    """One connection's deadline."""

    __slots__ = ("_began", "_limits", "_opened", "_request_began", "_stalled_bytes", "_time",
                 "awaited", "deadline")  # fmt: skip

    def __init__(self, limits: HttpLimits, time: Callable[[], float]) -> None:
        self._limits = limits
        self._time = time
        self._opened = self._began = self._request_began = time()
        self._stalled_bytes = 0
        self.awaited = Awaited.REQUEST
        self.deadline = self._opened + limits.first_byte_timeout_s
        """When the connection is to be looked at; seconds of `time()`."""

    def end(self) -> None:
        """The peer owes nothing: it waits for us."""
        self.awaited = Awaited.NOTHING
        self.deadline = math.inf

    def rest(self, now: float | None = None) -> None:
        """All requests are answered; `now` if the caller has asked the clock."""
        self.awaited = Awaited.REQUEST
        self.deadline = (self._time() if now is None else now) + self._limits.idle_timeout_s

    def look_at(self, moment: float) -> None:
        """The connection judges its peer itself, and wants to be looked at then."""
        self.awaited = Awaited.NOTHING
        self.deadline = moment

    def hurry(self) -> bool:
        """The port is closed. False if no request is to be expected any more, for age."""
        self.deadline = min(self.deadline, self._opened + FIRST_REQUEST_S)
        return self.deadline > self._time()

    def await_head(self) -> None:
        """A head has begun; its clock starts once."""
        if self.awaited is not Awaited.HEAD:
            self.awaited = Awaited.HEAD
            self._request_began = self._time()
            self.deadline = self._request_began + self._limits.header_timeout_s

    def await_body(self) -> None:
        """A head is whole; its body's clock starts once."""
        if self.awaited is not Awaited.BODY:
            self._began = self._time()
            if self.awaited is not Awaited.HEAD:
                self._request_began = self._began
            self.awaited = Awaited.BODY
            self.deadline = self._began + BODY_GRACE_S

    def request_began(self) -> float | None:
        """When the request began that is waited for in parts; None: none is."""
        is_in_parts = self.awaited is Awaited.HEAD or self.awaited is Awaited.BODY
        return self._request_began if is_in_parts else None

    def await_reader(self, waiting_bytes: int) -> None:
        """So many bytes of answers wait for the peer to take some."""
        self.awaited = Awaited.READER
        self._stalled_bytes = waiting_bytes
        self.deadline = self._time() + self._limits.write_stall_s

    def await_close(self, linger_s: float) -> None:
        """Our side is shut. A second call only brings the end nearer."""
        until = self._time() + linger_s
        self.deadline = min(self.deadline, until) if self.awaited is Awaited.CLOSE else until
        self.awaited = Awaited.CLOSE

    def has_stalled(self, waiting_bytes: int) -> bool:
        """The deadline has passed: whether the peer took nothing since `await_reader`."""
        return waiting_bytes == self._stalled_bytes

    def head_too_slow(self) -> HttpError:
        """The deadline of a head has passed."""
        return HttpError(
            Problem.TOO_SLOW,
            f"expected a request's head within {self._limits.header_timeout_s:g} s",
        )

    def body_too_slow(self, now: float, got_bytes: int, reserved_bytes: int) -> HttpError | None:
        """The deadline of a body has passed: what is wrong with its pace. None: nothing, and the
        next sweep looks again."""
        rate = body_rate(reserved_bytes)
        took_s = now - self._began
        if got_bytes >= (took_s - BODY_GRACE_S) * rate:
            self.deadline = now + SWEEP_INTERVAL_S
            return None
        return HttpError(
            Problem.TOO_SLOW,
            f"expected a body at {rate:.0f} bytes a second after {BODY_GRACE_S:g} s, got "
            f"{got_bytes} bytes in {took_s:.1f} s",
        )
