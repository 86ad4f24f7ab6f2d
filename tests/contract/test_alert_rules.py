"""The alerts fire when they should and stay silent on near misses: promtool runs the rules."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.contract import monitoring
from tests.contract.manifests import objects, strings
from tests.tools import require_tool

DOCUMENT = Path(__file__).parents[2] / "docs" / "alerts.md"
SEVERITIES = {"critical", "warning", "info"}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [require_tool("promtool"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_promtool_reads_the_rules(tmp_path: Path) -> None:
    rule_file = tmp_path / "rules.yaml"
    rule_file.write_text(monitoring.rules_text())
    checked = promtool("check", "rules", str(rule_file))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_a_case_that_fires_and_near_misses() -> None:
    assert monitoring.cases().keys() == monitoring.alerts().keys()
    without = [name for name, case in monitoring.cases().items() if not objects(case, "quiet")]
    assert without == []


@pytest.mark.parametrize("name", sorted(monitoring.cases()))
def test_the_alert_fires_on_its_case_and_stays_silent_on_near_misses(
    name: str, tmp_path: Path
) -> None:
    alert, case = monitoring.alerts()[name], monitoring.cases()[name]
    rules, tests = tmp_path / "rules.yaml", tmp_path / "test.yaml"
    rules.write_text(yaml.safe_dump(monitoring.rules_for(alert)))
    tests.write_text(yaml.safe_dump(monitoring.promtool_tests(alert, case, str(rules))))
    ran = promtool("test", "rules", str(tests))
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("name", sorted(monitoring.cases()))
def test_the_alert_says_what_how_bad_and_where_to_read_on(name: str) -> None:
    alert = monitoring.alerts()[name]
    assert strings(alert, "labels")["severity"] in SEVERITIES
    annotations = strings(alert, "annotations")
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"docs/alerts.md#{name.lower()}"
    assert f"\n### {name}\n" in DOCUMENT.read_text()


def test_the_document_has_no_alert_that_is_not_there() -> None:
    headings = {line[4:] for line in DOCUMENT.read_text().splitlines() if line[:4] == "### "}
    assert headings == monitoring.alerts().keys()
