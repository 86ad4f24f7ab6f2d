"""The startup probes of the manifests allow what starts were measured to take."""

import re
from typing import Final

import pytest
from stoker.deploy.manifest import at

from tests.contract import monitoring
from tests.contract.manifests import ROOT, container, number, text

RESULTS: Final = ROOT / "benchmarks" / "results" / "0012-rollout.md"


def measured_budgets_s() -> list[int]:
    """Three times the slowest start of each set of models: the last column of the table."""
    table = RESULTS.read_text().split("\n## Cold starts\n")[1]
    return [int(each) for each in re.findall(r"^\|.*\| (\d+) \|$", table, re.MULTILINE)]


def allowed_s(target: str) -> int:
    """How long a start may take."""
    startup = at(container(target), "startupProbe")
    return number(startup, "periodSeconds") * number(startup, "failureThreshold")


@pytest.mark.parametrize("target", ["base", "components/gpu"])
def test_the_startup_probe_allows_three_times_the_slowest_start_that_was_measured(
    target: str,
) -> None:
    budgets = measured_budgets_s()
    assert len(budgets) == 5
    assert allowed_s(target) >= max(budgets)


def test_no_page_for_a_first_start_that_the_startup_probes_allow() -> None:
    expression = text(monitoring.alerts()["StokerNoReadyPod"], "expr")
    (minutes,) = re.findall(r"offset (\d+)m", expression)
    assert int(minutes) * 60 == max(allowed_s("base"), allowed_s("components/gpu"))
