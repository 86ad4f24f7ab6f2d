"""The report of rollouts, and the pytest plugin that asks for their long form.

    pytest tests/rollout -p tests.rollout.report --rollout-seconds 60 --rollout-report build/r.md

`make test-rollout` runs that: each rollout goes on for so many seconds, with what is shipped. The
report has the requests of each kind of client, each signal with what was in flight at it, and what
failed; it is printed at the end and written to the file. A JSON file beside it has each failure,
with its text and its moment.
"""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest

from tests.rollout.clients import STREAMS
from tests.rollout.fleet import Kill
from tests.rollout.load import Failure, Tally
from tests.rollout.scene import Scene

PLUGIN: Final = "rollout report"


def render(title: str, on: Scene, notes: Sequence[str]) -> str:
    """What came of a scene, as Markdown."""
    checks = on.balancer.checks
    starts = on.fleet.starts_s
    lines = [
        f"## {title}",
        "",
        f"{on.lasted_s:.0f} s, {on.load.concurrency} requests at once; flags of the server: "
        f"`{' '.join(on.flags) or 'none'}`; haproxy asks `{checks.path}` every "
        f"{checks.interval_ms} ms, {checks.fall} failures end a replica's share. "
        f"{len(starts)} starts, {min(starts):.1f}-{max(starts):.1f} s each.",
        "",
        *(f"- {note}" for note in notes),
        *([""] if notes else []),
        *_tallies(on.load.tallies()),
        "",
        *_kills(on.fleet.kills),
        *_failures(on.load.failures),
    ]
    return "\n".join(lines) + "\n"


def _tallies(tallies: dict[str, Tally]) -> list[str]:
    lines = [
        "| client | answered | failed | p50 ms | p99 ms | longest ms |",
        "|---|---|---|---|---|---|",
    ]
    for label, tally in tallies.items():
        times = (tally.median_s, tally.p99_s, tally.longest_s)
        cells = " | ".join(f"{each * 1000:.0f}" for each in times)
        lines.append(f"| {label} | {tally.answered} | {tally.failed} | {cells} |")
    unary = [tally for label, tally in tallies.items() if not label.startswith(STREAMS)]
    answered, failed = sum(each.answered for each in unary), sum(each.failed for each in unary)
    return [*lines, f"| **all but streams** | {answered} | **{failed}** | | | |"]


def _kills(kills: Sequence[Kill]) -> list[str]:
    if not kills:
        return []
    lines = [
        "| replica | signal at s | in flight at it | clients over L4 | that stayed | drained for s "
        "| code |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.replica} | {each.moment:.1f} | {each.in_flight} | {each.clients} "
        f"| {'' if each.stayed is None else each.stayed} | {each.lasted_s:.1f} | {each.code} |"
        for each in kills
    ]
    return [*lines, ""]


def _failures(failures: Sequence[Failure]) -> list[str]:
    """Those of one client and text in one line; one by one they are in the JSON."""
    if not failures:
        return ["No request failed."]
    alike: dict[tuple[str, bool, str], list[float]] = {}
    for each in failures:
        text = each.text.replace("|", "\\|").replace("\n", " ")[:160]
        alike.setdefault((each.client, each.is_retryable, text), []).append(each.began)
    lines = ["| failed | requests | began at s | retryable | text |", "|---|---|---|---|---|"]
    for (client, is_retryable, text), began in alike.items():
        moments = f"{min(began):.2f} to {max(began):.2f}" if len(began) > 1 else f"{began[0]:.2f}"
        retryable = "yes" if is_retryable else "no"
        lines.append(f"| {client} | {len(began)} | {moments} | {retryable} | {text} |")
    return lines


class Report:
    """Collects what scenes came to. Without a path it only keeps it for the end of the run."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._facts = _facts() if path is not None else []
        self._sections: list[str] = []
        self._whole: list[dict[str, object]] = []

    def add(self, title: str, on: Scene, *notes: str) -> None:
        """A scene that is over; the file is written at once."""
        self._sections.append(render(title, on, notes))
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(self.text)
            self._whole.append(
                {
                    "title": title,
                    "seconds": on.lasted_s,
                    "kills": [asdict(each) for each in on.fleet.kills],
                    "tallies": {name: asdict(each) for name, each in on.load.tallies().items()},
                    "failures": [asdict(each) for each in on.load.failures],
                }
            )
            self._path.with_suffix(".json").write_text(json.dumps(self._whole, indent=2) + "\n")

    @property
    def text(self) -> str:
        """The whole report."""
        return "\n".join(["# Rollouts", "", *self._facts, "", *self._sections])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints it where a file was asked for."""
        if self._path is not None and self._sections:
            terminalreporter.write(self.text)
            terminalreporter.write_line(f"Report: {self._path}")


def _facts() -> list[str]:
    haproxy = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=False)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return [
        f"- commit: {commit.stdout.strip() or 'not in a repository'}",
        f"- machine: {os.cpu_count()} cores, {platform.platform()}",
        f"- Python {platform.python_version()}, tritonclient {version('tritonclient')}, "
        f"grpcio {version('grpcio')}, geventhttpclient {version('geventhttpclient')}",
        f"- balancer: {haproxy.stdout.splitlines()[0] if haproxy.stdout else 'none'}",
    ]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rollout-seconds N`: how long each rollout goes on. `--rollout-report PATH`."""
    parser.addoption("--rollout-seconds", type=float, default=0.0, metavar="N")
    parser.addoption("--rollout-report", type=Path, default=None, metavar="PATH")
