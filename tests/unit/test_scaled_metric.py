"""What HPA, KEDA and KServe scale on is read into one form."""

from stoker.deploy.manifest import JsonObject, Manifest
from stoker.deploy.scaled_metric import ScaledMetric, scaled_metrics


def of(kind: str, spec: JsonObject) -> tuple[Manifest, list[ScaledMetric]]:
    manifest = Manifest({"kind": kind, "spec": spec})
    return manifest, list(scaled_metrics(manifest))


def test_a_trigger_of_keda_divides_unless_it_says_otherwise() -> None:
    metadata: JsonObject = {"query": "sum(x)", "threshold": "0.65", "namespace": "ml"}
    manifest, found = of("ScaledObject", {"triggers": [{"type": "kafka"}, {"metadata": metadata}]})
    where = "spec.triggers[1].metadata"
    assert found == [
        ScaledMetric(
            *(manifest, f"{where}.query", "sum(x)"),
            is_query=True,
            is_external=True,
            target_type="AverageValue",
            target_path=f"{where}.threshold",
            target="0.65",
            namespace="ml",
        )
    ]
    trigger: JsonObject = {"metricType": "Value", "metadata": metadata}
    assert [each.target_type for each in of("ScaledObject", {"triggers": [trigger]})[1]] == [
        "Value"
    ]


def test_the_metrics_of_an_autoscaler_have_names_and_those_of_kserve_queries() -> None:
    target: JsonObject = {"type": "Value", "value": 1}
    named: JsonObject = {"external": {"metric": {"name": "x"}, "target": target}}
    asked: JsonObject = {"external": {"metric": {"query": "sum(x)"}, "target": target}}
    (metric,) = of("HorizontalPodAutoscaler", {"metrics": [named, asked]})[1]
    assert (metric.source, metric.is_query, metric.target) == ("x", False, 1)
    assert metric.target_path == "spec.metrics[0].external.target.value"
    spec: JsonObject = {"predictor": {"autoScaling": {"metrics": [named, asked]}}}
    (metric,) = of("InferenceService", spec)[1]
    assert (metric.source, metric.is_query) == ("sum(x)", True)
    assert of("Deployment", {"metrics": [named]})[1] == []
