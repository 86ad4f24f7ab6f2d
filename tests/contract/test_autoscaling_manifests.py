"""What scales the Deployment reads metrics that the server has, and owns the replicas alone."""

import re
from collections.abc import Iterator
from typing import Final, cast

import pytest
import yaml
from stoker.deploy.manifest import at
from stoker.telemetry import metric_table
from stoker.telemetry.metric import MetricType

from tests.contract.manifests import (
    K8S,
    JsonObject,
    number,
    objects,
    pod,
    ports,
    render,
    strings,
    text,
    the,
)

HPA: Final = ("components/autoscaling-hpa", "overlays/cpu", "overlays/gpu", "overlays/production")

with_hpa = pytest.mark.parametrize("target", HPA, indirect=True)
with_keda = pytest.mark.parametrize(
    "target", ["components/autoscaling-keda", "base+gpu+autoscaling-keda"], indirect=True
)
with_monitor = pytest.mark.parametrize(
    "target",
    ["components/scrape", "overlays/cpu", "overlays/gpu", "overlays/production"],
    indirect=True,
)


def is_gauge_of_the_pod(name: str) -> bool:
    """Whether the server has a gauge of that name with one value for the whole pod."""
    known = {each.name: each for each in metric_table.TABLE}
    return name in known and (known[name].type, known[name].labels) == (MetricType.GAUGE, ())


def hpa_targets(target: str) -> dict[str, str]:
    """Metric -> mean over the pods that the HorizontalPodAutoscaler keeps."""
    metrics = objects(the(target, "HorizontalPodAutoscaler"), "spec", "metrics")
    assert all(each["type"] == "Pods" for each in metrics)
    assert all(at(each, "pods", "target", "type") == "AverageValue" for each in metrics)
    return {
        text(each, "pods", "metric", "name"): text(each, "pods", "target", "averageValue")
        for each in metrics
    }


def keda_triggers(target: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(metric, metadata) of each trigger; a query is the sum over the pods."""
    for each in objects(the(target, "ScaledObject"), "spec", "triggers"):
        metadata = strings(each, "metadata")
        query = re.fullmatch(r"sum\((\w+)\{(.*)\}\)", metadata["query"])
        assert query, f"expected the sum of one metric, got {metadata['query']}"
        assert (each["type"], each["metricType"]) == ("prometheus", "AverageValue")
        yield query[1], {**metadata, "matchers": query[2]}


@with_hpa
def test_the_autoscaler_owns_the_replicas_of_the_deployment(target: str) -> None:
    scaler, deployment = the(target, "HorizontalPodAutoscaler"), the(target, "Deployment")
    assert at(scaler, "spec", "scaleTargetRef") == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": text(deployment, "metadata", "name"),
    }
    assert "replicas" not in cast("JsonObject", deployment["spec"])
    assert number(scaler, "spec", "minReplicas") >= 2


@with_keda
def test_keda_owns_the_replicas_of_the_deployment(target: str) -> None:
    scaler, deployment = the(target, "ScaledObject"), the(target, "Deployment")
    assert at(scaler, "spec", "scaleTargetRef") == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": text(deployment, "metadata", "name"),
    }
    assert "replicas" not in cast("JsonObject", deployment["spec"])


@with_hpa
def test_the_autoscaler_reads_gauges_of_the_server_that_have_no_labels(target: str) -> None:
    scaled_on = list(hpa_targets(target))
    assert scaled_on[0] == metric_table.DEMAND.name
    assert all(map(is_gauge_of_the_pod, scaled_on))


@with_keda
def test_keda_keeps_the_same_targets_as_the_autoscaler(target: str) -> None:
    kept = {metric: float(each["threshold"]) for metric, each in keda_triggers(target)}
    milli = hpa_targets("components/autoscaling-hpa")
    assert kept == {name: int(value.removesuffix("m")) / 1000 for name, value in milli.items()}
    keda, hpa = the(target, "ScaledObject"), the(HPA[0], "HorizontalPodAutoscaler")
    behaviour = at(keda, "spec", "advanced", "horizontalPodAutoscalerConfig", "behavior")
    assert behaviour == at(hpa, "spec", "behavior")
    assert number(keda, "spec", "minReplicaCount") == number(hpa, "spec", "minReplicas")
    assert number(keda, "spec", "maxReplicaCount") == number(hpa, "spec", "maxReplicas")


@with_keda
def test_keda_takes_a_lost_series_for_a_failure_and_not_for_idleness(target: str) -> None:
    assert all(each["ignoreNullValues"] == "false" for _, each in keda_triggers(target))
    spec = at(the(target, "ScaledObject"), "spec")
    assert text(spec, "fallback", "behavior") == "currentReplicasIfHigher"
    # Nor for a need: while the first pods start there is no series either.
    assert number(spec, "fallback", "replicas") == number(spec, "minReplicaCount")
    # The series of these triggers go with the last pod, so nothing could wake it.
    assert number(spec, "minReplicaCount") > 0
    assert at(spec, "idleReplicaCount") is None


@with_keda
def test_the_queries_of_keda_are_about_the_pods_of_this_deployment(target: str) -> None:
    namespace = text(the("overlays/production", "Namespace"), "metadata", "name")
    name = text(the(target, "Deployment"), "metadata", "name")
    for _, each in keda_triggers(target):
        assert each["matchers"] == f'namespace="{namespace}",pod=~"{name}-.*"'


def test_the_adapter_has_one_rule_for_each_metric_of_the_autoscaler() -> None:
    file = K8S / "components" / "autoscaling-hpa" / "prometheus-adapter.yaml"
    rules = yaml.safe_load(yaml.safe_load(file.read_text())["data"]["config.yaml"])["rules"]
    assert [rule["name"]["as"] for rule in rules] == list(hpa_targets("overlays/gpu"))
    for rule in rules:
        name = rule["name"]["as"]
        assert rule["seriesQuery"].startswith(name + "{")
        assert re.fullmatch(rule["name"]["matches"], name)
        assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}


@with_monitor
def test_the_monitor_scrapes_the_management_port_once(target: str) -> None:
    (endpoint,) = objects(the(target, "PodMonitor"), "spec", "podMetricsEndpoints")
    assert (endpoint["port"], endpoint["path"]) == ("management", "/metrics")
    assert "management" in ports(target)
    annotations = strings(pod(target), "metadata", "annotations")
    assert not [name for name in annotations if name.startswith("prometheus.io/")]


@with_monitor
def test_a_pod_that_still_fetches_its_image_or_models_is_not_scraped_in_vain(target: str) -> None:
    """It has an address while its init containers run, which may take longer than the alert on
    failing scrapes waits."""
    (endpoint,) = objects(the(target, "PodMonitor"), "spec", "podMetricsEndpoints")
    (rule,) = objects(endpoint, "relabelings")
    assert rule == {
        "sourceLabels": ["__meta_kubernetes_pod_phase"], "regex": "Running", "action": "keep",
    }  # fmt: skip


@with_hpa
def test_the_overlays_scrape_what_they_scale_on(target: str) -> None:
    if target.startswith("overlays/"):
        assert [each for each in render(target) if each["kind"] == "PodMonitor"]
