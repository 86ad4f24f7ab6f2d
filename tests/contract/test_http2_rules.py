"""docs/http2.md names a test for every rule: each exists in the file that it is said to be in."""

import ast
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FILES: Final = {
    "session": "tests/unit/test_wire_http2_session.py",
    "connection": "tests/server/test_http2_connection.py",
    "TLS": "tests/server/test_tls.py",
    "HPACK": "tests/unit/test_wire_http2_hpack.py",
    "abuse": "tests/unit/test_wire_http2_abuse.py",
    "fuzz": "tests/unit/test_wire_http2_fuzz.py",
}
NAMED: Final = re.compile(rf"(?:({'|'.join(FILES)}) )?`(test_\w+)`")


def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}


def rows() -> list[str]:
    lines = (ROOT / "docs" / "http2.md").read_text().splitlines()
    found = [line for line in lines if line.startswith("|") and not re.match(r"\|[-| ]+$", line)]
    return [line for line in found if not line.endswith("| Test |")]


def test_every_rule_has_a_test_and_every_named_test_exists() -> None:
    known = {where: functions(path) for where, path in FILES.items()}
    assert len(rows()) > 30
    for row in rows():
        where = ""
        named = NAMED.findall(row)
        assert named, row
        for said, test in named:
            where = said or where
            assert test in known[where], f"{where}: {test}"
