"""Log lines: their form in text and JSON, and that nothing breaks a line."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.telemetry.log import Format, event, formatter, ready_line, resolve

NOON = 1_750_000_000.5


def written(log_format: Format, act: Callable[[logging.Logger], None]) -> str:
    """What `act` logs, through a logger of its own."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(log_format))
    logger = logging.Logger("stoker.test", logging.INFO)
    logger.addHandler(handler)
    act(logger)
    return stream.getvalue()


def record(act: Callable[[logging.Logger], None]) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(written("json", act))
    return parsed


def test_an_event_in_json_has_its_fields_beside_the_fixed_keys() -> None:
    line = record(
        lambda logger: event(
            logger, "model_loaded", "loaded 100%s", model="m", seconds=1.5, names=("a", "b")
        )
    )
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "stoker.test",
        "event": "model_loaded",
        "message": "loaded 100%s",
        "model": "m",
        "seconds": 1.5,
        "names": ["a", "b"],
    }


def test_an_event_in_text_is_one_line() -> None:
    line = written(
        "text", lambda logger: event(logger, "done", "it is done", model="a b", n=3, ok=True, v="")
    )
    assert line.split(" ", 1)[1] == 'INFO    done it is done model="a b" n=3 ok=true v=""\n'


def test_a_librarys_record_is_formatted_as_well() -> None:
    assert record(lambda logger: logger.warning("hi %s", 3))["message"] == "hi 3"
    assert "event" not in record(lambda logger: logger.warning("hi"))
    assert written("text", lambda logger: logger.warning("hi %s", 3)).endswith(
        "WARNING stoker.test hi 3\n"
    )


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_unforeseen_error_brings_its_traceback(log_format: Format) -> None:
    def act(logger: logging.Logger) -> None:
        try:
            raise KeyError("x")
        except KeyError as error:
            event(logger, "bug", "a bug", level=logging.ERROR, error=error)

    assert "KeyError: 'x'" in written(log_format, act)


def test_a_level_below_the_loggers_is_not_written() -> None:
    assert written("text", lambda logger: event(logger, "x", "x", level=logging.DEBUG)) == ""


def test_a_field_may_not_be_named_like_a_key_of_every_record() -> None:
    with pytest.raises(ValueError, match="expected fields not named"):
        event(logging.getLogger("stoker"), "x", "x", level=logging.ERROR, time=1)


def test_a_number_that_json_cannot_write_becomes_text() -> None:
    assert record(lambda logger: event(logger, "x", "x", cost=float("inf")))["cost"] == "inf"


@given(st.text(), st.text())
def test_no_text_can_forge_a_line(message: str, value: str) -> None:
    for log_format in ("text", "json"):
        line = written(log_format, lambda logger: event(logger, "x", message, field=value))
        assert len(line.splitlines()) == 1
        line.encode()


def test_the_ready_line_is_the_promised_one_in_text() -> None:
    line = ready_line("text", http="0.0.0.0:1", grpc="0.0.0.0:2", metrics="0.0.0.0:3", now=NOON)
    assert line == "stoker ready http=0.0.0.0:1 grpc=0.0.0.0:2 metrics=0.0.0.0:3"


def test_the_ready_line_has_the_same_keys_in_json() -> None:
    assert json.loads(ready_line("json", http="a", grpc="b", metrics="c", now=NOON)) == {
        "time": "2025-06-15T15:06:40.500Z",
        "level": "info",
        "logger": "stoker",
        "event": "ready",
        "message": "stoker ready",
        "http": "a",
        "grpc": "b",
        "metrics": "c",
    }


def test_auto_means_json_where_no_terminal_is() -> None:
    assert resolve("auto", io.StringIO()) == "json"
    assert resolve("text", io.StringIO()) == "text"


def test_set_up_sends_libraries_and_warnings_to_stderr_as_records() -> None:
    program = (
        "import logging, warnings; from stoker.telemetry import log; "
        "assert log.set_up('auto', 'info') == 'json'; "
        "logging.getLogger('lib').info('hello'); logging.getLogger('asyncio').info('unheard'); "
        "warnings.warn('careful')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert [each["logger"] for each in records] == ["lib", "py.warnings"]
