"""docs/log-schema.json against the code: every event, and every field of one, is in the schema."""

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest
from stoker.lifecycle.upgrade import UpgradeState
from stoker.telemetry.access_log import EVENT, LOGGER
from stoker.telemetry.log import RESERVED_FIELDS

ROOT: Final = Path(__file__).parents[2]
SCHEMA: Final[dict[str, Any]] = json.loads((ROOT / "docs" / "log-schema.json").read_text())
DOCUMENT: Final = (ROOT / "docs" / "logging.md").read_text()
NOT_FIELDS: Final = frozenset(("level", "error"))


@cache  # Reading all modules takes long.
def calls() -> list[tuple[str, set[str]]]:
    """Name and fields of each call of `telemetry.log.event`."""
    found: list[tuple[str, set[str]]] = []
    for path in sorted((ROOT / "server" / "stoker").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else ""
            if (name or getattr(function, "id", "")) != "event":
                continue
            fields = {each.arg for each in node.keywords}
            assert None not in fields, f"{path}: fields of an event are written out"
            written = {each for each in fields if each is not None}
            found += [(event, written - NOT_FIELDS) for event in names(node.args[1])]
    return found


def names(argument: ast.expr) -> list[str]:
    """The names that an argument stands for."""
    if isinstance(argument, ast.Constant):
        return [str(argument.value)]
    assert ast.unparse(argument) == "f'upgrade_{upgrade.state.value}'", "an event has a fixed name"
    return [f"upgrade_{each.value}" for each in UpgradeState]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_knows_exactly_the_events_of_the_code() -> None:
    known = {name for name, _ in calls()} | {"ready", EVENT}
    assert known == set(SCHEMA["properties"]["event"]["enum"])


def test_the_schema_knows_every_field_of_an_event() -> None:
    known = SCHEMA["properties"].keys()
    unknown = {(name, field) for name, fields in calls() for field in fields - known}
    assert not unknown
    assert set(RESERVED_FIELDS) <= known


def test_every_key_of_the_schema_is_explained() -> None:
    assert all(each["description"] for each in SCHEMA["properties"].values())


def test_the_document_lists_every_event_and_every_field_of_the_access_log() -> None:
    events = set(re.findall(r"^\| `([a-z_]+)` \| (?:debug|info|warning|error|critical)", DOCUMENT,
                            re.MULTILINE))  # fmt: skip
    assert events == set(SCHEMA["properties"]["event"]["enum"])
    table = DOCUMENT.partition("## The access log")[2]
    for field in ("why", "peer", "request_id", "trace_id", "queue_ms", "run_ms", "code", "id"):
        assert f"`{field}`" in table


@pytest.mark.parametrize(
    "record",
    [
        {"event": "unknown_event"},
        {"unknown_field": 1},
        {"level": "fatal"},
        {"version": "1"},
        {"event": "request"},
        {"event": "ready"},
        {"duration_ms": 1.0},
    ],
)
def test_the_schema_refuses_what_is_no_record(record: dict[str, Any]) -> None:
    good = {"time": "2026-01-01T00:00:00.000Z", "level": "info", "logger": "x", "message": ""}
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert validator.is_valid(good)
    assert not validator.is_valid(good | record)


def test_the_access_log_speaks_under_its_own_name() -> None:
    assert LOGGER == "stoker.access"
