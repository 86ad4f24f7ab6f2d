"""Documents that name a test for each rule: which tests those are, and whether they ran.

`DOCUMENTS` are read by a contract test, which holds them against the files of tests. A `Ledger` is
a plugin of every test run (conftest): a run that passes, but in which a named test was there to run
and did not, fails.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.tools import NOT_INSTALLED
from tests.workers import told_by, told_of

ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Document:
    """A file of docs/ whose tables name tests, each behind the short name of its file. The short
    name holds until the row names another."""

    path: str
    files: Mapping[str, str]

    def rows(self) -> list[tuple[str, list[str]]]:
        """Each row of its tables but heads, with the tests that it names as `file::function`."""
        lines = [line for line in (ROOT / self.path).read_text().splitlines() if line[:1] == "|"]
        rules = [line for line in lines if "---" not in line and not line.endswith("| Test |")]
        return [(line, self._named(line)) for line in rules]

    def _named(self, row: str) -> list[str]:
        found, file = [], ""
        for short, test in re.findall(rf"(?:({'|'.join(self.files)}) )?`(test_\w+)`", row):
            file = self.files[short] if short else file
            found.append(f"{file}::{test}")
        return found


DOCUMENTS: Final = (
    Document(
        "docs/http2.md",
        {
            "session": "tests/unit/test_wire_http2_session.py",
            "connection": "tests/server/test_http2_connection.py",
            "TLS": "tests/server/test_tls.py",
            "HPACK": "tests/unit/test_wire_http2_hpack.py",
            "abuse": "tests/unit/test_wire_http2_abuse.py",
            "fuzz": "tests/unit/test_wire_http2_fuzz.py",
        },
    ),
    Document(
        "docs/grpc.md",
        {
            "native": "tests/server/test_native_grpc.py",
            "codings": "tests/server/test_native_grpc_compression.py",
            "streams": "tests/server/test_native_grpc_streams.py",
            "connections": "tests/server/test_native_grpc_connections.py",
            "both": "tests/server/test_grpc_transports.py",
            "statuses": "tests/server/test_grpc_statuses.py",
            "stop": "tests/server/test_grpc_stop.py",
            "parts": "tests/unit/test_grpc_native_parts.py",
            "calls": "tests/unit/test_grpc_native_session.py",
            "memory": "tests/unit/test_grpc_native_memory.py",
            "heads": "tests/unit/test_wire_http2_heads.py",
        },
    ),
)


def named_tests() -> set[str]:
    """All of them."""
    return {test for each in DOCUMENTS for _, tests in each.rows() for test in tests}


class Ledger:
    """Which named tests ran: at least one case of each has to pass.

    What was deselected, left out because the run was told to take other files or tests, or skipped
    because a program is not installed (which CI does not let pass), is excused. A run that failed,
    or was told to repeat failures or only to collect, is not looked at. Where pytest-xdist shares
    the tests out to processes, each tells the first one what it collected, and that one judges.
    """

    def __init__(self, named: Iterable[str]) -> None:
        self._named = frozenset(named)
        self._collected: set[str] = set()
        self._deselected: set[str] = set()
        self._passed: set[str] = set()
        self._excused: set[str] = set()
        self._not_run: list[str] = []

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._deselected |= {_function(each.nodeid) for each in items}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._collected |= {_function(each.nodeid) for each in session.items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed.add(_function(report.nodeid))
        elif report.skipped and NOT_INSTALLED in str(report.longrepr):
            self._excused.add(_function(report.nodeid))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        told = told_of(node)
        self._collected.update(told.get("collected", ()))
        self._deselected.update(told.get("deselected", ()))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        config = session.config
        if (told := told_by(config)) is not None:
            told["collected"], told["deselected"] = [*self._collected], [*self._deselected]
            return
        partly = config.option.collectonly or config.getoption("lf", False)
        if exitstatus == pytest.ExitCode.OK and not partly:
            self._not_run = sorted(self._expected(config) - self._passed - self._excused)
            if self._not_run:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._not_run:
            terminalreporter.section("named in docs, and did not run", red=True)
            for each in self._not_run:
                terminalreporter.write_line(each)

    def _expected(self, config: pytest.Config) -> set[str]:
        seen = self._collected | self._deselected
        files = {_file(each) for each in seen} - {
            _file(each) for each in config.args if "::" in each
        }
        source, option = config.args_source, config.option
        if source is pytest.Config.ArgsSource.TESTPATHS and not (
            option.ignore or option.ignore_glob
        ):
            files = {_file(each) for each in self._named}  # the whole suite
        expected = {each for each in self._named if each in self._collected or _file(each) in files}
        return expected - (self._deselected - self._collected)


def _function(nodeid: str) -> str:
    return nodeid.partition("[")[0]


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]
