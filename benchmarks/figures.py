"""Figures as results print them: medians with ranges, ratios of one run, promises kept or missed.

Not a benchmark itself. Machines are noisy, so that rounds alternate and a ratio is taken within
each round, never between a fast hour and a slow one. A missed promise is printed, not raised: a
benchmark tells what is, and ends well.
"""

import os
import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from stoker.runtime.installation import installed_distributions


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median and range of the rounds, as results print them."""
    low, high = min(values), max(values)
    return f"{median(values):,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """The quotient within each round; nothing where one of them was not measured."""
    if not these or not those:
        return []
    return [this / that for this, that in zip(these, those, strict=True)]


class Promises:
    """What the project promises, beside what this run reached.

    A promise without figures is told as skipped, with the reason `absent`.
    """

    def __init__(self, absent: str | None = None) -> None:
        self._lines: list[str] = []
        self._absent = absent or "not measured in this run"

    def at_least(self, what: str, floor: float, reached: Sequence[float], digits: int = 2) -> None:
        """PASS when the median of the rounds is `floor` or more."""
        self._add(what, f">= {floor:g}", reached, digits, lambda middle: middle >= floor)

    def at_most(self, what: str, ceiling: float, reached: Sequence[float], digits: int = 2) -> None:
        """PASS when the median of the rounds is `ceiling` or less."""
        self._add(what, f"<= {ceiling:g}", reached, digits, lambda middle: middle <= ceiling)

    def skipped(self, what: str, reason: str) -> None:
        """A promise that this run cannot test."""
        self._lines.append(f"| {what} | | | skipped: {reason} |")

    def print(self) -> None:
        """The table. Nothing where no promise was made."""
        if self._lines:
            print("\n| promise | to reach | reached | |\n|---|---|---|---|")
            print("\n".join(self._lines))

    def _add(
        self,
        what: str,
        goal: str,
        reached: Sequence[float],
        digits: int,
        holds: Callable[[float], bool],
    ) -> None:
        if not reached:
            self.skipped(what, self._absent)
            return
        verdict = "PASS" if holds(median(reached)) else "MISS"
        self._lines.append(f"| {what} | {goal} | {spread(reached, digits)} | {verdict} |")


def facts() -> str:
    """Commit, machine and versions, as every result file states them."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    runtimes = installed_distributions()  # onnxruntime or onnxruntime-gpu
    packages = (*runtimes, "numpy", "uvloop", "grpcio", "protobuf", "httptools", "uvicorn")
    return (
        f"commit {commit}; {cpu[1] if cpu else platform.machine()}, "
        f"{os.cpu_count()} cores; CPython {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
    )
