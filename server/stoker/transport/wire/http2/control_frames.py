"""Frames that steer: SETTINGS, PING, WINDOW_UPDATE, RST_STREAM, PRIORITY, GOAWAY, and extensions.

Each is checked as the RFC says and applied to the streams and to what is sent.
Source: RFC 9113, sections 5.5 and 6.3 to 6.9.
"""

from typing import Final

from stoker.transport.wire.http2 import frames
from stoker.transport.wire.http2.frames import (
    ACK,
    GOAWAY,
    LARGEST_STREAM,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionFault,
    ErrorCode,
    StreamFault,
)
from stoker.transport.wire.http2.stream_table import StreamTable

_CODES: Final = frozenset(ErrorCode)
_SETTING_BYTES: Final = 6
ASKED: Final = b"leaving?"
"""What our PING carries, and its answer."""

_TOO_WIDE: Final = "expected a window of less than 2^31 bytes"


class ControlFrames:
    """What the peer's control frames do to one session."""

    def __init__(self, table: StreamTable) -> None:
        self.is_settled = False
        """The peer's first SETTINGS came."""
        self.is_heard = False
        """The peer has answered our PING."""
        self._is_asked = False
        self._table = table

    def ask(self) -> None:
        """Sends a PING."""
        self._is_asked = True
        self._table.sending.control(frames.frame(PING, 0, 0, ASKED))

    def receive(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        """A whole frame of any type but DATA, HEADERS and CONTINUATION. Raises ConnectionFault."""
        if not self.is_settled and (kind != SETTINGS or flags & ACK):
            raise unsettled()
        if kind == WINDOW_UPDATE:
            self._window_update(number, payload)
        elif kind == RST_STREAM:
            self._rst_stream(number, payload)
        elif kind == SETTINGS:
            self._settings(flags, number, payload)
        elif kind == PING:
            self._ping(flags, number, payload)
        elif kind == GOAWAY:
            _on_connection("GOAWAY", number)
            if len(payload) < 8:
                raise _wrong_size("GOAWAY", payload, 8)
            self._table.count_idle()  # the peer opens no more streams, and may still send
        elif kind == PRIORITY:
            self._priority(number, payload)
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected no PUSH_PROMISE of a client")
        else:
            self._table.count_idle()  # extensions are ignored (RFC 9113, 5.5)

    def _window_update(self, number: int, payload: memoryview) -> None:
        if len(payload) != 4:
            raise _wrong_size("WINDOW_UPDATE", payload, 4)
        increment = int.from_bytes(payload, "big") & LARGEST_STREAM
        table = self._table
        if number:
            table.check_opened("WINDOW_UPDATE", number)
            stream = table.open.get(number)
            if stream is None:  # it is closed, which the peer may not know
                return
            if not increment:
                fault = StreamFault(ErrorCode.PROTOCOL_ERROR, "expected an increment above 0")
                table.fault(stream, number, fault)
            elif not table.sending.widen_stream(stream, increment):
                table.fault(stream, number, StreamFault(ErrorCode.FLOW_CONTROL_ERROR, _TOO_WIDE))
            return
        if not increment:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected an increment above 0")
        if not table.sending.widen(increment):
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, _TOO_WIDE)

    def _rst_stream(self, number: int, payload: memoryview) -> None:
        if len(payload) != 4:
            raise _wrong_size("RST_STREAM", payload, 4)
        table = self._table
        table.check_opened("RST_STREAM", number)
        table.count_reset()
        stream = table.open.get(number)
        if stream is not None:
            code = int.from_bytes(payload, "big")
            table.lose(stream, ErrorCode(code) if code in _CODES else ErrorCode.CANCEL)

    def _settings(self, flags: int, number: int, payload: memoryview) -> None:
        _on_connection("SETTINGS", number)
        if flags & ACK:
            if payload:
                raise _wrong_size("acknowledged SETTINGS", payload, 0)
            self._table.count_idle()
            return
        if len(payload) % _SETTING_BYTES:
            raise _wrong_size("each setting", payload, _SETTING_BYTES)
        self._table.count_settings(len(payload) // _SETTING_BYTES)
        self.is_settled = True
        window: int | None = None
        for at in range(0, len(payload), _SETTING_BYTES):
            key = int.from_bytes(payload[at : at + 2], "big")
            value = int.from_bytes(payload[at + 2 : at + _SETTING_BYTES], "big")
            if key == frames.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, _TOO_WIDE)
                window = value
            else:
                self._set(key, value)
        if window is not None:
            self._set_window(window)  # the last one counts, and touches every open stream once
        self._table.sending.control(frames.SETTINGS_ACK)

    def _set_window(self, value: int) -> None:
        sending = self._table.sending
        change, sending.peer_window = value - sending.peer_window, value
        if change and not sending.change_windows([*self._table.open.values()], change):
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, _TOO_WIDE)

    def _set(self, key: int, value: int) -> None:
        """One setting but the window. Unknown ones are ignored."""
        if key == frames.HEADER_TABLE_SIZE:
            self._table.sending.shrink_table(value)
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_BYTES <= value <= frames.LARGEST_FRAME_BYTES:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR,
                    f"expected frames of {frames.DEFAULT_FRAME_BYTES} to "
                    f"{frames.LARGEST_FRAME_BYTES} bytes, got {value}",
                )
            self._table.sending.frame_bytes = value
        elif key == frames.ENABLE_PUSH and value > 1:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"expected ENABLE_PUSH 0 or 1, got {value}"
            )

    def _ping(self, flags: int, number: int, payload: memoryview) -> None:
        _on_connection("PING", number)
        if len(payload) != 8:
            raise _wrong_size("PING", payload, 8)
        self._table.count_idle()
        if not flags & ACK:
            self._table.sending.control(frames.frame(PING, ACK, 0, bytes(payload)))
        elif self._is_asked and bytes(payload) == ASKED:
            self.is_heard = True

    def _priority(self, number: int, payload: memoryview) -> None:
        if not number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected PRIORITY on a stream")
        self._table.count_idle()
        if len(payload) != 5:
            if number > self._table.highest:  # an idle stream cannot be reset
                raise _wrong_size("PRIORITY", payload, 5)
            fault = StreamFault(
                ErrorCode.FRAME_SIZE_ERROR, f"expected 5 bytes of PRIORITY, got {len(payload)}"
            )
            self._table.fault(self._table.open.get(number), number, fault)


def unsettled() -> ConnectionFault:
    """Another frame came before the peer's SETTINGS."""
    return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected SETTINGS as the first frame")


def _wrong_size(what: str, payload: memoryview, size: int) -> ConnectionFault:
    return ConnectionFault(
        ErrorCode.FRAME_SIZE_ERROR, f"expected {size} bytes of {what}, got {len(payload)}"
    )


def _on_connection(what: str, number: int) -> None:
    if number:
        raise ConnectionFault(
            ErrorCode.PROTOCOL_ERROR, f"expected {what} on stream 0, got it on {number}"
        )
