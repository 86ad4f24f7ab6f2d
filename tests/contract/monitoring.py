"""The rules and the dashboard of k8s/components/monitoring as the component renders them, and the
cases that promtool tests the rules with."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import yaml
from stoker.deploy.manifest import at

from tests.contract.manifests import JsonObject, objects, of_kind, strings, text, the

COMPONENT: Final = "components/monitoring"
CASES: Final = Path(__file__).with_name("alert_cases.yaml")

KNOWN: Final = {
    "namespace": "serving",
    "job": "serving/stoker",
    "pod": "stoker-0",
    "model": "resnet",
    "version": "3",
    "gpu_uuid": "GPU-1b4e28ba",
}
"""The labels that the cases' series have."""


def _selector(*names: str, pod: str = KNOWN["pod"]) -> str:
    return ",".join(f'{name}="{({**KNOWN, "pod": pod})[name]}"' for name in names)


_POD: Final = ("namespace", "job", "pod")
_STANDS_FOR: Final = {
    "POD": _selector(*_POD),
    "SECOND": _selector(*_POD, pod="stoker-1"),
    "THIRD": _selector(*_POD, pod="stoker-2"),
    "MODEL": _selector(*_POD, "model", "version"),
    "GPU": _selector(*_POD, "gpu_uuid"),
}


@cache
def groups() -> tuple[JsonObject, ...]:
    """The groups of rules, as Prometheus reads them in a file."""
    return tuple(objects(the(COMPONENT, "PrometheusRule"), "spec", "groups"))


def rules_text() -> str:
    """A file of all rules, for Prometheus."""
    return yaml.safe_dump({"groups": list(groups())})


def rules() -> list[JsonObject]:
    """All of them."""
    return [rule for group in groups() for rule in objects(group, "rules")]


def alerts() -> dict[str, JsonObject]:
    """The alerts by name."""
    return {text(rule, "alert"): rule for rule in rules() if "alert" in rule}


def cases() -> dict[str, JsonObject]:
    """The cases by alert, as the file has them."""
    loaded: dict[str, JsonObject] = yaml.safe_load(CASES.read_text())
    return loaded


def rules_for(alert: JsonObject) -> JsonObject:
    """A file of rules with this alert alone, and what it reads of the recorded series."""
    recorded = {text(rule, "record"): rule for rule in rules() if "record" in rule}
    needed: list[JsonObject] = []

    def need(expression: str) -> None:
        for name, rule in recorded.items():
            if name in re.findall(r"[\w:]+", expression) and rule not in needed:
                need(text(rule, "expr"))
                needed.append(rule)

    need(text(alert, "expr"))
    return {"groups": [{"name": "of one alert", "rules": [*needed, alert]}]}


def promtool_tests(alert: JsonObject, case: JsonObject, rule_file: str) -> JsonObject:
    """A file for `promtool test rules`: the cases that fire, and each near miss."""
    tests = [_test(alert, case, "fires", [_fired(alert, case)])]
    for other in objects(case, "also") if "also" in case else ():
        also = {**case, **other}
        tests.append(_test(alert, also, text(other, "because"), [_fired(alert, also)]))
    tests += [
        _test(alert, {**case, **miss}, text(miss, "because"), []) for miss in objects(case, "quiet")
    ]
    interval = case.get("interval", "1m")
    return {"rule_files": [rule_file], "evaluation_interval": interval, "tests": [*tests]}


def _fired(alert: JsonObject, case: JsonObject) -> JsonObject:
    """The alert as promtool shall find it."""
    return {
        "exp_labels": {**expected_labels(case), "severity": strings(alert, "labels")["severity"]},
        "exp_annotations": {
            name: rendered(value, expected_labels(case), str(case.get("value", "")))
            for name, value in strings(alert, "annotations").items()
        },
    }


def _test(alert: JsonObject, case: JsonObject, name: str, expected: list[JsonObject]) -> JsonObject:
    return {
        "name": name,
        "interval": case.get("interval", "1m"),
        "input_series": [
            {"series": expanded(series), "values": values}
            for series, values in strings(case, "series").items()
        ],
        "alert_rule_test": [
            {"eval_time": case["at"], "alertname": alert["alert"], "exp_alerts": [*expected]}
        ],
    }


def expanded(series: str) -> str:
    """A series of a case with the labels that POD, MODEL and the like stand for."""
    return re.sub(r"(?<=[{,])[A-Z]+(?=[,}])", lambda found: _STANDS_FOR[found[0]], series)


def expected_labels(case: JsonObject) -> dict[str, str]:
    """The labels of the alert, without its severity."""
    listed = case["labels"]
    assert isinstance(listed, list)
    return {**{str(name): KNOWN[str(name)] for name in listed}, **strings(case, "more")}


def rendered(template: str, labels: Mapping[str, str], value: str) -> str:
    """An annotation as Prometheus shows it. Fails on a label that the alert does not have."""
    with_labels = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], template)
    assert value or "$value" not in with_labels, f"expected the case to give a value: {template}"
    whole = re.sub(r"{{ \$value[^}]*}}", lambda _: value, with_labels)
    assert "{{" not in whole, f"expected only $labels and $value, got: {template}"
    return whole


@dataclass(frozen=True)
class PanelQuery:
    """One expression of the dashboard, with its variables."""

    row: str
    panel: str
    letter: str
    expr: str

    @property
    def name(self) -> str:
        """For people and for the names of tests."""
        return f"{self.row} / {self.panel} / {self.letter}"

    def of(self, **variables: str) -> str:
        """The expression with these values, which are regular expressions, for the variables."""
        return substituted(self.expr, **variables)


def substituted(expression: str, **variables: str) -> str:
    """Variables get their values, the interval that Grafana computes a minute."""
    found = expression.replace("$__rate_interval", "1m")
    for name, value in variables.items():
        found = found.replace(f"${name}", value)
    assert "$" not in found, f"a variable without a value: {found}"
    return found


def dashboard_config_map() -> JsonObject:
    """The ConfigMap that Grafana's sidecar picks up by its label."""
    (found,) = (
        each
        for each in of_kind(COMPONENT, "ConfigMap")
        if strings(each, "metadata", "labels").get("grafana_dashboard") == "1"
    )
    return found


@cache
def dashboard() -> JsonObject:
    """The dashboard as Grafana gets it."""
    (contents,) = strings(dashboard_config_map(), "data").values()
    loaded: JsonObject = json.loads(contents)
    return loaded


def panels() -> list[JsonObject]:
    """All panels but the headings of rows."""
    return [panel for panel in objects(dashboard(), "panels") if panel["type"] != "row"]


def dashboard_queries() -> list[PanelQuery]:
    """Every expression of every panel, from top to bottom."""
    row, found = "", []
    for panel in objects(dashboard(), "panels"):
        if panel["type"] == "row":
            row = text(panel, "title")
        found += [
            PanelQuery(row, text(panel, "title"), text(target, "refId"), text(target, "expr"))
            for target in objects(panel, "targets")
        ]
    return found


def variables() -> dict[str, tuple[str, str]]:
    """The queries of the variables by name: a selector of series, and the label whose values are
    offered."""
    found = {}
    for each in objects(dashboard(), "templating", "list"):
        if at(each, "type") == "query":
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", text(each, "definition"))
            assert asked is not None, text(each, "definition")
            found[text(each, "name")] = (asked[1], asked[2])
    return found
