"""How many tests ran with each gRPC transport, and how many skipped it: a line at a run's end."""

from itertools import product
from typing import get_args

import pytest
from stoker.settings import GrpcTransport

from tests.workers import told_by, told_of


class TransportCounts:
    """A plugin of every test run (conftest)."""

    def __init__(self) -> None:
        self._transports: dict[str, str] = {}
        """The gRPC transport of each test that has one."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Notes the transports, of which reports do not tell."""
        self._transports = {
            item.nodeid: str(item.callspec.params["grpc_transport"])
            for item in session.items
            if isinstance(item, pytest.Function)
            and hasattr(item, "callspec")
            and "grpc_transport" in item.callspec.params
        }
        if (told := told_by(session.config)) is not None:
            for test, transport in self._transports.items():
                told.setdefault(transport, []).append(test)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        told = told_of(node)
        for transport in get_args(GrpcTransport):
            self._transports |= dict.fromkeys(told.get(transport, ()), transport)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._transports:
            return
        counts = dict.fromkeys(product(get_args(GrpcTransport), ("run", "skipped")), 0)
        for outcome, came in (("passed", "run"), ("failed", "run"), ("skipped", "skipped")):
            for report in terminalreporter.stats.get(outcome, ()):
                if transport := self._transports.get(report.nodeid):
                    counts[transport, came] += 1
        said = [
            f"{each} {counts[each, 'run']} run, {counts[each, 'skipped']} skipped"
            for each in get_args(GrpcTransport)
        ]
        terminalreporter.write_line(f"gRPC transports: {'; '.join(said)}")
