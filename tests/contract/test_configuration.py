"""The settings in code, in `stoker serve --help` and in docs/configuration.md are the same."""

import re
from pathlib import Path

import pytest
from stoker.arguments import settings_parser
from stoker.settings import Definition, definitions
from stoker.telemetry.log import RESERVED_FIELDS

DOCS = Path(__file__).parents[2] / "docs"


def documented() -> list[list[str]]:
    """The cells of the table of settings, without code marks."""
    section = (DOCS / "configuration.md").read_text().split("## Settings")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[cell.strip().replace("`", "").replace(r"\|", "|") for cell in row] for row in cells]


def as_documented(definition: Definition) -> list[str]:
    is_flag = definition.field != "sources"
    return [
        f"{definition.flag} {definition.kind.metavar}" if is_flag else definition.flag,
        definition.variable,
        definition.key if definition.in_file else "-",
        definition.default or "-",
        definition.meaning,
    ]


def helped(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What `stoker serve --help` says of each flag, from `--name METAVAR` on."""
    monkeypatch.setenv("COLUMNS", "1000")
    text = settings_parser("serve", definitions()).format_help()
    lines = re.findall(r"^  (?:(--[a-z-]+) \S+|(SOURCE))\s{2,}(.*)$", text, re.MULTILINE)
    return {flag or argument: meaning for flag, argument, meaning in lines}


def test_the_table_of_settings_is_that_of_the_code() -> None:
    assert documented() == [as_documented(each) for each in definitions()]


def test_help_tells_of_every_setting_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {
        "SOURCE" if each.field == "sources" else each.flag: f"{each.meaning} [{each.variable}"
        + (f"; default: {each.default}]" if each.default else "]")
        for each in definitions()
    }
    assert helped(monkeypatch) == expected


def test_flags_that_scripts_and_manifests_rely_on_exist() -> None:
    promised = (
        "--host --http-port --grpc-port --metrics-port --model-name --require-model --device "
        "--grpc-transport --drain-delay --drain-timeout --strict-readiness --max-json-bytes "
        "--max-message-bytes --max-buffered-bytes --max-connection-age --default-max-batch-size "
        "--exit-on-error --log-format --log-level --config"
    )
    assert set(promised.split()) <= {each.flag for each in definitions()}


def test_the_flags_of_check_are_those_documented() -> None:
    text = " ".join((DOCS / "configuration.md").read_text().split())
    sentence = text.split("`stoker check` has the flags ")[1].split(";")[0]
    flags = {each.flag for each in definitions() if each.for_check and each.field != "sources"}
    assert set(re.findall(r"--[a-z-]+", sentence)) == flags


def test_the_keys_of_a_json_record_are_those_documented() -> None:
    section = (DOCS / "logging.md").read_text().split("## Keys of a JSON record")[1]
    section = section.partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == RESERVED_FIELDS
