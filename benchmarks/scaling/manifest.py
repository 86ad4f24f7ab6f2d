"""The HPA that the project ships, read from its manifest: what is simulated is what is deployed."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.scaling.hpa import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    TOLERANCE,
    Metric,
    Policy,
    Rules,
    Select,
    Spec,
)

MANIFEST: Final = (
    Path(__file__).parents[2] / "k8s/components/autoscaling-hpa/horizontalpodautoscaler.yaml"
)


def shipped(path: Path = MANIFEST) -> Spec:
    """The spec in that file. Raises ValueError for what the simulation does not know."""
    document = yaml.safe_load(path.read_text())
    if document.get("kind") != "HorizontalPodAutoscaler":
        raise ValueError(f"expected a HorizontalPodAutoscaler, got {document.get('kind')}")
    spec = document["spec"]
    behavior = spec.get("behavior", {})
    return Spec(
        tuple(_metric(each) for each in spec["metrics"]),
        _rules(behavior.get("scaleUp", {}), DEFAULT_UP),
        _rules(behavior.get("scaleDown", {}), DEFAULT_DOWN),
        spec.get("minReplicas", 1),
        spec["maxReplicas"],
    )


def with_metrics(spec: Spec, *metrics: Metric) -> Spec:
    """The same HPA on other metrics."""
    return replace(spec, metrics=metrics)


def thousandths(quantity: str | int) -> int:
    """A Kubernetes quantity of a metric, such as 650m or 2."""
    text = str(quantity)
    return int(text[:-1]) if text.endswith("m") else round(float(text) * 1000)


def _metric(entry: dict[str, Any]) -> Metric:
    if entry["type"] != "Pods" or entry["pods"]["target"]["type"] != "AverageValue":
        raise ValueError(f"expected a Pods metric with an AverageValue, got {entry}")
    pods = entry["pods"]
    return Metric(pods["metric"]["name"], thousandths(pods["target"]["averageValue"]))


def _rules(entry: dict[str, Any], default: Rules) -> Rules:
    policies = tuple(
        Policy(each["type"], each["value"], each["periodSeconds"])
        for each in entry.get("policies", ())
    )
    return Rules(
        policies or default.policies,
        entry.get("stabilizationWindowSeconds", default.stabilization_s),
        Select(entry.get("selectPolicy", "Max")),
        float(entry.get("tolerance", TOLERANCE)),
    )
