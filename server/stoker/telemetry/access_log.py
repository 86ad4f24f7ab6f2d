"""The access log: a line for some of the calls that have ended, never with what is in a tensor.

Failed and slow calls are always written, of the others a share. Lines go to standard output, apart
from the log proper: a reader that stalls holds up neither (`line_writer.py`). `note` runs on the
event loop and decides; the line is made by the writer's thread. The fields are in docs/logging.md
and docs/log-schema.json.
"""

import random
import time
from collections.abc import Callable
from typing import Final

from stoker.telemetry.line_writer import LineWriter
from stoker.telemetry.log import Field, Format, event_line
from stoker.telemetry.observation import MOST_CHARACTERS, Observation
from stoker.telemetry.trace_context import read_parent, span_id_text, trace_id_text

LOGGER: Final = "stoker.access"
EVENT: Final = "request"

_VERSION_DIGITS: Final = 18
"""What programs that read the lines hold in 64 bits."""

FAILED: Final = "failed"
SLOW: Final = "slow"
SAMPLED: Final = "sampled"


class AccessLog:
    """Implements `observer.AccessLog`. `start` it, and `close` it at the end."""

    def __init__(
        self,
        log_format: Format,
        descriptor: int,
        *,
        share: float,
        slow_s: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`share`, from 0 to 1, of the calls that neither failed nor took `slow_s` or longer."""
        self._format = log_format
        self._share = share
        self._slow_s = slow_s
        self._chance = chance
        self.lines: LineWriter[tuple[Observation, str, float] | str] = LineWriter(
            descriptor, self._line
        )

    def start(self) -> None:
        """Begins to write."""
        self.lines.start()

    def close(self, timeout_s: float) -> None:
        """Writes what waits, for `timeout_s` at most. Blocks."""
        self.lines.close(timeout_s)

    def note(self, observation: Observation) -> None:
        """Writes a line if it should. Never waits."""
        if observation.code:
            why = FAILED
        elif observation.ended - observation.arrived >= self._slow_s and not observation.is_stream:
            why = SLOW
        elif self._share and self._chance() < self._share:
            why = SAMPLED
        else:
            return
        observation.settle()
        self.lines.write((observation, why, time.time()))

    def say(self, line: str) -> None:
        """Writes another line between its own, none of which it cuts in two. Never waits."""
        self.lines.insist(line)

    def _line(self, noted: tuple[Observation, str, float] | str) -> str:
        if isinstance(noted, str):
            return noted
        observation, why, now = noted
        return event_line(
            self._format,
            EVENT,
            _message(observation),
            access_fields(observation, why),
            logger=LOGGER,
            now=now,
        )


def access_fields(call: Observation, why: str) -> dict[str, Field]:
    """What a line says of a call, in its order."""
    caller = call.caller
    fields: dict[str, Field] = {"protocol": "grpc" if caller.is_grpc else "http"}
    if caller.is_grpc:
        fields["rpc"] = _bounded(caller.path)
        fields["grpc_status"] = call.grpc_status
    else:
        fields["method"] = _bounded(caller.method)
        fields["path"] = _bounded(caller.path)
        fields["status"] = call.status
    if call.code:
        fields["code"] = call.code
    if call.model:
        fields["model"] = _bounded(call.model)
    if call.version.isascii() and call.version.isdecimal():
        fields["version"] = int(call.version[:_VERSION_DIGITS])
    if call.rows:
        fields["rows"] = call.rows
    if call.is_stream:
        fields["stream_requests"] = call.requests
    fields["duration_ms"] = _milliseconds(call.ended - call.arrived)
    if call.submitted:
        fields["receive_ms"] = _milliseconds(call.submitted - call.arrived)
        fields["queue_ms"] = _milliseconds(call.queue_s)
        fields["run_ms"] = _milliseconds(call.run_s)
    if call.runs:
        fields["batch_rows"] = call.runs[0].batch_rows
    fields["bytes_in"] = call.bytes_in
    fields["bytes_out"] = call.bytes_out
    if caller.peer:
        fields["peer"] = caller.peer
    if caller.request_id:
        fields["request_id"] = _bounded(caller.request_id)
    if call.client_id:
        fields["id"] = _bounded(call.client_id)
    trace_id = _trace_id(call)
    if trace_id:
        fields["trace_id"] = trace_id
    if call.span is not None:
        fields["span_id"] = span_id_text(call.span.span_id)
    fields["why"] = why
    return fields


def _trace_id(call: Observation) -> str:
    """Of the call's own span, or of its caller's where only that one is traced."""
    if call.span is not None:
        return trace_id_text(call.span.trace_id)
    parent = read_parent(call.caller.traceparent)
    return "" if parent is None else trace_id_text(parent.trace_id)


def _message(call: Observation) -> str:
    """For people; nothing in it can be taken for the fields that follow it in text."""
    caller = call.caller
    status: Field = call.grpc_status if caller.is_grpc else call.status
    path = caller.path.removeprefix("/") if caller.is_grpc else caller.path
    is_plain = path.isascii() and path.isprintable() and " " not in path
    words = [] if caller.is_grpc else [_bounded(caller.method)]
    return " ".join([*words, _bounded(path) if is_plain else "...", str(status)]).strip()


def _bounded(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "..."


def _milliseconds(seconds: float) -> float:
    return round(max(0.0, seconds) * 1e3, 3)
