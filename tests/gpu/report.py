"""The report of a run of the checks on hardware, and the pytest plugin that writes it.

    pytest tests/gpu -p tests.gpu.report --gpu-report build/gpu-report

writes `build/gpu-report.md` and `.json`: the machine, then each check with its outcome and the
numbers that it measured (`record_property`). `make test-gpu` runs it.
"""

import json
import subprocess
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

import pytest

from tests.gpu.hardware import hardware

Outcome: TypeAlias = Literal["passed", "failed", "skipped"]

_PLUGIN: Final = "gpu report"


@dataclass(frozen=True, slots=True)
class Check:
    """One test."""

    name: str
    outcome: Outcome
    seconds: float
    reason: str = ""
    """Why it failed or was skipped, in one line."""
    numbers: dict[str, object] = field(default_factory=dict)


def render(facts: tuple[tuple[str, str], ...], checks: list[Check]) -> str:
    """The report as Markdown."""
    counts = Counter(check.outcome for check in checks)
    verdict = ", ".join(f"{counts[each]} {each}" for each in ("passed", "failed", "skipped"))
    if not counts["passed"] and not counts["failed"]:
        verdict += ": **nothing ran on a GPU**"
    lines = ["# Checks on GPU hardware", "", f"{verdict}.", ""]
    lines += [f"- {name}: {value}" for name, value in facts]
    lines += ["", "| check | outcome | s | numbers, or why |", "|---|---|---|---|"]
    for check in checks:
        said = [f"{name} {_number(value)}" for name, value in check.numbers.items()]
        cell = "; ".join([*said, check.reason] if check.reason else said)
        cell = cell.replace("|", "\\|").replace("\n", " ")
        name = check.name.removeprefix("test_").replace("_", " ")
        lines.append(f"| {name} | {check.outcome} | {check.seconds:.1f} | {cell} |")
    return "\n".join(lines) + "\n"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Report:
    """Collects the outcomes of one run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._commit = _commit()
        self._checks: dict[str, Check] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes a test's call, or what came in its place: a skip or a failure of its set-up."""
        if report.when != "call" and report.outcome == "passed":
            return
        reason = ""
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        elif report.outcome == "failed":
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = str(crash.message if crash is not None else report.longrepr)[:500]
        self._checks[report.nodeid] = Check(
            report.nodeid.rpartition("::")[2],
            report.outcome,
            report.duration,
            reason,
            dict(report.user_properties),
        )
        self._write()  # at once: a check may bring the whole process down

    def pytest_sessionfinish(self) -> None:
        """Writes the report of a run without a test, too."""
        self._write()

    def _write(self) -> None:
        """Writes both files."""
        facts = (("commit", self._commit), *hardware().lines())
        checks = list(self._checks.values())
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.with_suffix(".md").write_text(render(facts, checks))
        self._path.with_suffix(".json").write_text(
            json.dumps(
                {"machine": dict(facts), "checks": [asdict(each) for each in checks]},
                indent=2,
                default=str,
            )
            + "\n"
        )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Says where the report is, and plainly if nothing ran."""
        absence = hardware().absence
        if absence:
            terminalreporter.write_line(f"No check ran on a GPU: {absence}")
        terminalreporter.write_line(f"Report: {self._path.with_suffix('.md')}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--gpu-report PATH`: without ending; `.md` and `.json` are added."""
    parser.addoption("--gpu-report", type=Path, default=None, metavar="PATH")


def pytest_configure(config: pytest.Config) -> None:
    """Collects where a report was asked for."""
    path = config.getoption("--gpu-report")
    if path is not None:
        config.pluginmanager.register(Report(path), _PLUGIN)


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "not in a repository"
