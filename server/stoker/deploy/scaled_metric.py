"""What autoscalers look at: metrics, queries and targets, in the forms of HPA, KEDA and KServe.

For the rules of `stoker k8s lint`. Utilisation of CPU and memory is no such metric: it has neither
a name of its own nor a query.  Source: HorizontalPodAutoscaler v2; KEDA, "Prometheus" scaler;
KServe, AutoScalingSpec.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stoker.deploy.manifest import JsonObject, JsonValue, Manifest, at, numbered, text

_SERVICE_METRICS: Final = ("spec", "predictor", "autoScaling", "metrics")
_TARGETS: Final = {"AverageValue": "averageValue", "Value": "value"}


@dataclass(frozen=True, slots=True)
class ScaledMetric:
    """One metric that an autoscaler keeps at a target."""

    manifest: Manifest
    path: str
    """Of the name or the query."""
    source: str
    """The name of a metric, or a whole query."""
    is_query: bool
    is_external: bool
    """Whether it is one number, which an adapter or a query makes of all pods'."""
    target_type: str
    """`AverageValue`: the number is divided by the pods there are. `Value`: it is not."""
    target_path: str
    target: JsonValue
    namespace: str = ""
    """That the query is confined to by other means than its own labels."""


def scaled_metrics(manifest: Manifest) -> Iterator[ScaledMetric]:
    """Those of a HorizontalPodAutoscaler, a ScaledObject or an InferenceService; else none."""
    match manifest.kind:
        case "HorizontalPodAutoscaler":
            for index, metric in numbered(manifest.value, "spec", "metrics"):
                where = f"spec.metrics[{index}]"
                for kind in ("pods", "object", "external"):
                    yield from _of_metric(manifest, where, metric, kind, "name")
        case "InferenceService":
            for index, metric in numbered(manifest.value, *_SERVICE_METRICS):
                where = f"{'.'.join(_SERVICE_METRICS)}[{index}]"
                for kind in ("external", "podmetric"):
                    yield from _of_metric(manifest, where, metric, kind, "query")
        case "ScaledObject":
            for index, trigger in numbered(manifest.value, "spec", "triggers"):
                yield from _of_trigger(manifest, f"spec.triggers[{index}]", trigger)


def _of_metric(
    manifest: Manifest, where: str, metric: JsonObject, kind: str, field: str
) -> Iterator[ScaledMetric]:
    source = text(metric, kind, "metric", field)
    if not source:
        return
    written = text(metric, kind, "target", "type") or "AverageValue"
    key = _TARGETS.get(written, "averageValue")
    yield ScaledMetric(
        manifest,
        f"{where}.{kind}.metric.{field}",
        source,
        is_query=field == "query",
        is_external=kind == "external",
        target_type=written,
        target_path=f"{where}.{kind}.target.{key}",
        target=at(metric, kind, "target", key),
    )


def _of_trigger(manifest: Manifest, where: str, trigger: JsonObject) -> Iterator[ScaledMetric]:
    query = text(trigger, "metadata", "query")
    if query:
        yield ScaledMetric(
            manifest,
            f"{where}.metadata.query",
            query,
            is_query=True,
            is_external=True,
            target_type=text(trigger, "metricType") or "AverageValue",
            target_path=f"{where}.metadata.threshold",
            target=at(trigger, "metadata", "threshold"),
            namespace=text(trigger, "metadata", "namespace"),
        )
