"""Log records: an event's name, a sentence, and fields; as text for people or JSON for machines.

`set_up` is called once, by `process.py`; everyone else takes `logging.getLogger(__name__)` and
calls `event`. Records go to stderr, one line each; the ready line alone goes to stdout. The schema
is in docs/logging.md. Two rules hold for every caller: never the contents of a tensor, and no
record per request. Imports none of ours.
"""

import json
import logging
import math
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, TypeAlias

Format: TypeAlias = Literal["text", "json"]
Field: TypeAlias = str | int | float | bool | tuple[str, ...] | None

RESERVED_FIELDS: Final = ("time", "level", "logger", "event", "message", "exception")
"""Keys of every JSON record; an event's own fields have other names."""


def event(
    logger: logging.Logger,
    name: str,
    message: str,
    /,
    *,
    level: int = logging.INFO,
    error: BaseException | None = None,
    **fields: Field,
) -> None:
    """Logs that something happened: `event(logger, "model_ready", "...", model="digits")`.

    `name` is a fixed word that machines search for, `message` a sentence for people, `fields` are
    the particulars. With `error` its traceback is added: for bugs, not for expected failures.
    Raises ValueError for a field named like a key of every record.
    """
    if not logger.isEnabledFor(level):
        return
    clash = fields.keys() & set(RESERVED_FIELDS)
    if clash:
        raise ValueError(f"expected fields not named {', '.join(RESERVED_FIELDS)}, got {clash}")
    # The message is an argument, so that a % in it is a plain character.
    logger.log(
        level, "%s", message, exc_info=error, extra={"stoker_event": name, "stoker_fields": fields}
    )


def set_up(log_format: Literal["auto", "text", "json"], level: str) -> Format:
    """Sends every record of the process, libraries' and warnings' too, to stderr.

    `level` is a level's name in any case. Gives the format in use: for `auto`, text when stderr
    is a terminal.
    """
    chosen = resolve(log_format, sys.stderr)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(chosen))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # At `info` asyncio and gRPC tell of their own doings, which are no news to an operator.
    for library in ("asyncio", "grpc"):
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    return chosen


def resolve(log_format: Literal["auto", "text", "json"], stream: TextIO) -> Format:
    """The format for a stream."""
    if log_format == "auto":
        return "text" if stream.isatty() else "json"
    return log_format


def formatter(log_format: Format) -> logging.Formatter:
    """What turns records into lines."""
    return _FORMATTERS[log_format]


def event_line(
    log_format: Format,
    name: str,
    message: str,
    fields: Mapping[str, Field],
    *,
    logger: str,
    now: float,
    level: int = logging.INFO,
) -> str:
    """The line of an event that goes a way of its own, as an access log does: what `event` writes.

    `now` is seconds since the epoch. For any thread.
    """
    record = logging.LogRecord(logger, level, "", 0, message, None, None)
    record.created = now
    record.stoker_event = name
    record.stoker_fields = fields
    return _FORMATTERS[log_format].format(record)


def ready_line(log_format: Format, *, http: str, grpc: str, metrics: str, now: float) -> str:
    """The line that says that the server is ready and where: `host:port` of each endpoint, as a URL
    has it.

    `now` is seconds since the epoch. Scripts wait for this line, so its form is a promise.
    """
    addresses = {"http": http, "grpc": grpc, "metrics": metrics}
    if log_format == "text":
        return "stoker ready " + " ".join(f"{key}={value}" for key, value in addresses.items())
    return _to_json(
        {
            "time": _timestamp(now),
            "level": "info",
            "logger": "stoker",
            "event": "ready",
            "message": "stoker ready",
            **addresses,
        }
    )


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        name, fields = _event_of(record)
        line: dict[str, object] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if name:
            line["event"] = name
        line["message"] = record.getMessage()
        for key, value in fields.items():
            # JSON has no number for NaN and the infinities.
            is_number = not isinstance(value, float) or math.isfinite(value)
            line[key] = value if is_number else str(value)
        trace = _traceback(record)
        if trace:
            line["exception"] = trace
        return _to_json(line)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        name, fields = _event_of(record)
        words = [_timestamp(record.created), f"{record.levelname:<7}", name or record.name]
        words.append(_one_line(record.getMessage()))
        words += (f"{key}={_text(value)}" for key, value in fields.items())
        trace = _traceback(record)
        return " ".join(words) + (f"\n{trace}" if trace else "")


_FORMATTERS: Final[Mapping[Format, logging.Formatter]] = {
    "json": _JsonFormatter(),
    "text": _TextFormatter(),
}


def _event_of(record: logging.LogRecord) -> tuple[str, Mapping[str, Field]]:
    """Name and fields of an event; a library's record has neither."""
    name = getattr(record, "stoker_event", "")
    fields: Mapping[str, Field] = getattr(record, "stoker_fields", {})
    return name, fields


def _traceback(record: logging.LogRecord) -> str:
    if record.exc_info and record.exc_info[1] is not None:
        return "".join(traceback.format_exception(record.exc_info[1])).rstrip()
    return ""


def _timestamp(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _to_json(line: Mapping[str, object]) -> str:
    # A surrogate, as an undecodable file name has it, cannot be written as UTF-8: escape it.
    return json.dumps(line, ensure_ascii=True, default=str)


def _one_line(text: str) -> str:
    """Control characters, which clients may have put into a name, as escapes: no forged lines."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _text(value: Field) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, tuple):
        value = ",".join(value)
    text = str(value)
    if text and text.isprintable() and not any(each in text for each in ' "='):
        return text
    return json.dumps(text)
