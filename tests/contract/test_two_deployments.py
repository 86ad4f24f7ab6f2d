"""Two deployments that one Prometheus scrapes: each by its own monitor, and rules that are loaded
once and tell them apart."""

import re
from pathlib import Path
from typing import Final

import yaml
from stoker.deploy.lint import lint
from stoker.deploy.manifest import Manifest

from tests.contract.manifests import (
    K8S,
    JsonObject,
    JsonValue,
    objects,
    render,
    render_overlay,
    strings,
    text,
)
from tests.contract.test_alert_rules import promtool

FIRST: Final = "overlays/gpu"


def second(component: str = "scrape") -> tuple[JsonObject, ...]:
    """The further deployment that the README shows, with another component in place of scrape."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (K8S / "README.md").read_text(), re.M | re.S)
    (shown,) = [each for each in blocks if "components/scrape" in each]
    return render_overlay(
        shown.replace("../k8s/", "").replace("components/scrape", f"components/{component}")
    )


def of_kind(kind: str, *deployments: tuple[JsonObject, ...]) -> list[JsonObject]:
    return [each for manifests in deployments for each in manifests if each["kind"] == kind]


def jobs(*deployments: tuple[JsonObject, ...]) -> list[str]:
    """What the operator calls the jobs, in the namespace serving."""
    monitors = of_kind("PodMonitor", *deployments)
    return [f"serving/{text(each, 'metadata', 'name')}" for each in monitors]


def found(*deployments: tuple[JsonObject, ...]) -> list[str]:
    """The rules of `stoker k8s lint` that apply. Where the image is, each user says."""
    manifests = [Manifest(dict(each), "both") for both in deployments for each in both]
    return [each.rule.id for each in lint(manifests, ignored=["image-without-registry"])]


def told(*deployments: tuple[JsonObject, ...], folder: Path) -> str:
    """What promtool finds wrong with: one alert of the second deployment, which is not ready, none
    of the first, which is, and a recorded series of each."""
    files: list[JsonValue] = []
    for number, rule in enumerate(of_kind("PrometheusRule", *deployments)):
        file = folder / f"{number}.yaml"
        file.write_text(yaml.safe_dump({"groups": [*objects(rule, "spec", "groups")]}))
        files.append(str(file))
    ready, broken = jobs(*deployments)
    case: JsonObject = {
        "interval": "1m",
        "input_series": [
            {
                "series": f'stoker_ready{{namespace="serving",job="{job}",pod="pod-of-{job}"}}',
                "values": f"{value}x40",
            }
            for job, value in ((ready, 1), (broken, 0))
        ],
        "promql_expr_test": [
            {
                "expr": "count by (job) (namespace_job:stoker_ready:sum)",
                "eval_time": "30m",
                "exp_samples": [
                    {"labels": f'{{job="{job}"}}', "value": 1} for job in (ready, broken)
                ],
            }
        ],
        "alert_rule_test": [
            {
                "eval_time": "30m",
                "alertname": "StokerNotReady",
                "exp_alerts": [
                    {
                        "exp_labels": {
                            "severity": "warning",
                            "namespace": "serving",
                            "job": broken,
                            "pod": f"pod-of-{broken}",
                        },
                        "exp_annotations": {
                            "summary": f"Pod pod-of-{broken} is not ready.",
                            "description": f"serving/pod-of-{broken} has not been ready for 15 "
                            "minutes, longer than a start takes. /readyz on its management port "
                            "says why.",
                            "runbook_url": "docs/alerts.md#stokernotready",
                        },
                    }
                ],
            }
        ],
    }
    tests = folder / "tests.yaml"
    tests.write_text(
        yaml.safe_dump({"rule_files": files, "evaluation_interval": "1m", "tests": [case]})
    )
    ran = promtool("test", "rules", str(tests))
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def test_each_of_two_deployments_is_scraped_by_its_own_monitor() -> None:
    both = (render(FIRST), second())
    pods = [
        strings(each, "spec", "template", "metadata", "labels")
        for each in of_kind("Deployment", *both)
    ]
    selectors = [
        strings(each, "spec", "selector", "matchLabels") for each in of_kind("PodMonitor", *both)
    ]
    selected = [[chosen.items() <= labels.items() for labels in pods] for chosen in selectors]
    assert selected == [[True, False], [False, True]]


def test_rules_and_dashboard_of_two_deployments_come_with_one() -> None:
    both = (render(FIRST), second())
    assert len(of_kind("PrometheusRule", *both)) == 1
    names = [text(each, "metadata", "name") for each in of_kind("ConfigMap", *both)]
    assert len([each for each in names if "dashboard" in each]) == 1
    assert found(*both) == []


def test_rules_tell_two_deployments_apart(tmp_path: Path) -> None:
    assert told(render(FIRST), second(), folder=tmp_path) == ""


def test_rules_that_come_with_both_tell_of_everything_twice(tmp_path: Path) -> None:
    both = (render(FIRST), second("monitoring"))
    # By the order in which groups come: a sample that is there already, or the alert twice.
    assert re.search("duplicate sample|StokerNotReady", told(*both, folder=tmp_path))
    assert found(*both) == ["rules-loaded-twice"]
