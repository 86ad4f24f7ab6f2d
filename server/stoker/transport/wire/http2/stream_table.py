"""The streams of one HTTP/2 session: which are open, which are over, and what breaks one.

  1. `open` holds exactly the streams that are not closed. Numbers up to `highest` that are not in
     it are closed.
  2. What comes late for streams that we reset is dropped: their numbers are remembered a while.
  3. Frames that move no request forward are counted; more than a second's worth of them ends the
     session, and so do many resets.
Source: RFC 9113, sections 5.1 and 5.4.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from stoker.transport.wire.http2 import frames
from stoker.transport.wire.http2.flow import Sending
from stoker.transport.wire.http2.frames import ConnectionFault, ErrorCode, StreamFault
from stoker.transport.wire.http2.stream import Stream
from stoker.transport.wire.limits import (
    MAX_IDLE_FRAMES,
    MAX_RESETS,
    MAX_SETTINGS,
    MAX_SETTINGS_FRAMES,
    BufferBudget,
)

_REMEMBERED_RESETS: Final = 1024


class StreamTable:
    """See the module's docstring."""

    def __init__(self, budget: BufferBudget, wake: Callable[[], None]) -> None:
        self.open: dict[int, Stream] = {}
        self.highest = 0
        """The last stream that the peer opened."""
        self.sending = Sending(budget, self._end, wake)
        self._reset: OrderedDict[int, None] = OrderedDict()
        self._resets = 0
        self._idle_frames = 0
        self._settings_frames = 0

    def tick(self) -> None:
        """A second has passed: what is bounded by the second begins anew."""
        self._resets = self._idle_frames = self._settings_frames = 0

    def holds(self, stream: Stream) -> bool:
        """Whether the stream is open."""
        return self.open.get(stream.number) is stream

    def was_reset(self, number: int) -> bool:
        """Whether we reset it, so that its frames may still be on their way."""
        return number in self._reset

    def check_opened(self, what: str, number: int) -> None:
        """Raises ConnectionFault for a stream that the peer has never opened."""
        if not number & 1 or number > self.highest:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"expected {what} on an opened stream, got it on {number}"
            )

    def count_idle(self) -> None:
        """A frame that moves no request forward. Raises ConnectionFault for too many."""
        self._idle_frames += 1
        if self._idle_frames > MAX_IDLE_FRAMES:
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"expected at most {MAX_IDLE_FRAMES} frames a second that move no request",
            )

    def count_settings(self, settings: int) -> None:
        """SETTINGS came. Raises ConnectionFault for too many of them, or in one."""
        self._settings_frames += 1
        if self._settings_frames > MAX_SETTINGS_FRAMES or settings > MAX_SETTINGS:
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM,
                f"expected at most {MAX_SETTINGS_FRAMES} SETTINGS a second of at most "
                f"{MAX_SETTINGS} settings",
            )

    def count_reset(self) -> None:
        """The peer reset a stream, or made us do it. Raises ConnectionFault for too many."""
        self._resets += 1
        if self._resets > MAX_RESETS:
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, f"expected at most {MAX_RESETS} resets a second"
            )

    def fault(self, stream: Stream | None, number: int, fault: StreamFault) -> None:
        """Ends a stream that its peer broke, if it is open."""
        self.send_reset(number, fault.code)
        if stream is None:
            self.count_idle()
            return
        self.lose(stream, fault.code)
        self.count_reset()

    def lose(self, stream: Stream, code: ErrorCode) -> None:
        """The stream is over, and nobody waits for its answer."""
        if self.drop(stream):
            stream.lost(code)

    def drop(self, stream: Stream) -> bool:
        """Forgets a stream and what it would send. False: it was not open."""
        if not self.holds(stream):
            return False
        del self.open[stream.number]
        self.sending.drop(stream)
        return True

    def lose_all(self, code: ErrorCode) -> None:
        """The connection is gone, or of no use."""
        for stream in list(self.open.values()):
            self.lose(stream, code)

    def send_reset(self, number: int, code: ErrorCode) -> None:
        """Tells the peer that a stream is over; what it still sends of it is dropped."""
        self._reset[number] = None
        if len(self._reset) > _REMEMBERED_RESETS:
            self._reset.popitem(last=False)
        self.sending.control(frames.rst_stream(number, code))

    def _end(self, stream: Stream) -> None:
        """Our side of a stream has ended."""
        self.open.pop(stream.number, None)
        if stream.can_receive:  # an early answer: the rest of the body is of no use (RFC 9113, 8.1)
            self.send_reset(stream.number, ErrorCode.NO_ERROR)
