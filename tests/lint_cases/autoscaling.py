"""Cases of `stoker k8s lint`: Autoscaling."""

from collections.abc import Sequence
from typing import Final

import yaml
from stoker.deploy.manifest import JsonObject
from stoker.deploy.rules.scaling import LAST_APPLIED, METRICS_OF_V1

from tests.broken_manifests import Edit, add, put, take
from tests.lint_cases.case import Case
from tests.lint_cases.pieces import HPA, KEDA, METRIC, SCALED_OBJECT, inference_service, runtime

IN_ML: Final = [
    put(kind, "metadata", "namespace", value="ml")
    for kind in ("Deployment", "ConfigMap", "ScaledObject", "Service")
]
TRIGGER: Final = ("spec", "triggers", 0, "metadata")
RULE: Final = """
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: stoker
spec:
  groups:
    - name: stoker
      rules:
        - {record: stoker_recorded, expr: sum(stoker_demand_ratio)}
        - {alert: A, expr: '%s > 1'}
"""
LIVE: Final = (
    put("Deployment", "metadata", "uid", value="7b1c"),
    put("Deployment", "spec", "replicas", value=2),
)
"""From a cluster: the autoscaler's number is in it."""
APPLIED: Final = ("metadata", "annotations", LAST_APPLIED)


def external(kind: str, target: str) -> JsonObject:
    """An External metric of an autoscaler: the adapter sums up the pods' series."""
    key = "value" if kind == "Value" else "averageValue"
    return {
        "type": "External",
        "external": {
            "metric": {"name": "stoker_demand_ratio"},
            "target": {"type": kind, key: target},
        },
    }


def asked(query: str, *, kind: str = "") -> Sequence[Edit]:
    """KEDA with that query, and that metricType."""
    return (
        *KEDA,
        put("ScaledObject", *TRIGGER, "query", value=query),
        put("ScaledObject", *TRIGGER[:-1], "metricType", value=kind or None),
    )


def scaled_service(operator: str) -> str:
    """An InferenceService that KServe has KEDA scale."""
    service = yaml.safe_load(inference_service())
    metric: JsonObject = {"query": f'{operator}(stoker_demand_ratio{{namespace="models"}})'}
    target: JsonObject = {"type": "AverageValue", "averageValue": "0.65"}
    scaling: JsonObject = {"metrics": [{"external": {"metric": metric, "target": target}}]}
    service["spec"]["predictor"]["autoScaling"] = scaling
    return yaml.safe_dump(service)


def replicated(least: int, most: int) -> str:
    """An InferenceService of so many replicas."""
    service = yaml.safe_load(inference_service())
    service["spec"]["predictor"].update({"minReplicas": least, "maxReplicas": most})
    return yaml.safe_dump(service)


CASES: Final = (
    Case(
        "scaled-on-utilisation",
        [
            put(
                HPA,
                *METRIC,
                value={"type": "Resource", "resource": {"name": "cpu", "target": {}}},
            )
        ],
        "cpu",
        [put(HPA, *METRIC, "pods", "metric", "name", value="stoker_queue_delay_seconds")],
    ),
    Case(
        "scaled-on-utilisation",
        [*KEDA, put("ScaledObject", "spec", "triggers", 0, "type", value="memory")],
        "memory",
        [*KEDA],
    ),
    Case(
        "scaled-on-utilisation",
        [
            put(HPA, "apiVersion", value="autoscaling/v1"),
            take(HPA, "spec", "metrics"),
            put(HPA, "spec", "targetCPUUtilizationPercentage", value=60),
        ],
        "cpu at 60 %",
        [
            put(HPA, "apiVersion", value="autoscaling/v1"),
            take(HPA, "spec", "metrics"),
            put(HPA, "metadata", "annotations", METRICS_OF_V1, value="[]"),
        ],
    ),
    Case(
        "scaled-on-utilisation",
        [take(HPA, "spec", "metrics")],
        "none, which means cpu at 80 %",
        # Whatever it scales is not ours.
        [take(HPA, "spec", "metrics"), put(HPA, "spec", "scaleTargetRef", "name", value="web")],
    ),
    Case(
        "scaled-on-utilisation",
        [put(HPA, "spec", "metrics", value=[])],
        "none, which means cpu at 80 %",
        [*KEDA],
    ),
    Case(
        "scaled-on-utilisation",
        [add(runtime()), add(replicated(2, 3))],
        "cpu, KServe's default, up to 3 replicas",
        [add(runtime()), add(replicated(3, 3))],
    ),
    Case(
        "scaled-on-utilisation",
        [add(runtime()), add(replicated(1, 2))],
        "cpu, KServe's default",
        [add(runtime()), add(replicated(1, 2).replace("Standard", "Knative"))],
    ),
    Case(
        "scaled-on-gpu-utilisation",
        [put(HPA, *METRIC, "pods", "metric", "name", value="DCGM_FI_DEV_GPU_UTIL")],
        "DCGM_FI_DEV_GPU_UTIL",
        [put(HPA, *METRIC, "pods", "metric", "name", value="stoker_demand_ratio")],
    ),
    Case(
        "scaled-on-gpu-utilisation",
        [*KEDA, put("ScaledObject", *TRIGGER, "query", value="avg(nv_gpu_utilization)")],
        "nv_gpu_utilization",
        [*KEDA, put("ScaledObject", *TRIGGER, "query", value="avg(stoker_queue_delay_seconds)")],
    ),
    Case(
        "replicas-beside-autoscaler",
        [put("Deployment", "spec", "replicas", value=2)],
        "replicas 2 beside HorizontalPodAutoscaler/stoker",
        [
            put("Deployment", "spec", "replicas", value=2),
            put(HPA, "spec", "scaleTargetRef", "name", value="other"),
        ],
    ),
    Case(
        "replicas-beside-autoscaler",
        [
            *LIVE,
            put("Deployment", *APPLIED, value='{"kind": "Deployment", "spec": {"replicas": 3}}'),
        ],
        "replicas 3 beside HorizontalPodAutoscaler/stoker",
        [*LIVE, put("Deployment", *APPLIED, value='{"kind": "Deployment", "spec": {}}')],
    ),
    Case(
        "replicas-beside-autoscaler",
        [put("Deployment", "spec", "replicas", value=0)],
        "replicas 0 beside",
        LIVE,
    ),
    Case(
        "two-autoscalers",
        [add(SCALED_OBJECT)],
        "HorizontalPodAutoscaler/stoker scales Deployment/stoker as well",
        [*KEDA],
    ),
    Case(
        "autoscaler-target-missing",
        [put(HPA, "spec", "scaleTargetRef", "name", value="stocker")],
        "Deployment 'stocker' is not among these manifests",
        [
            put(HPA, "spec", "scaleTargetRef", "name", value="web"),
            put(HPA, *METRIC, "pods", "metric", "name", value="requests_per_second"),
        ],
    ),
    Case(
        "keda-ignores-lost-series",
        [*KEDA, take("ScaledObject", *TRIGGER, "ignoreNullValues")],
        "true, KEDA's default",
        [*KEDA, put("ScaledObject", *TRIGGER, "ignoreNullValues", value=False)],
    ),
    Case(
        "zero-on-own-metric",
        [*KEDA, take("ScaledObject", "spec", "minReplicaCount")],
        "every metric comes from the pods themselves",
        [
            *KEDA,
            take("ScaledObject", "spec", "minReplicaCount"),
            put(
                "ScaledObject",
                *("spec", "triggers", 1),
                value={
                    "type": "prometheus",
                    "metadata": {"query": "sum(envoy_requests)", "ignoreNullValues": "false"},
                },
            ),
        ],
    ),
    Case(
        "zero-on-own-metric",
        [*KEDA, put("ScaledObject", "spec", "idleReplicaCount", value=0)],
        "every metric comes from the pods themselves",
        [
            *KEDA,
            put("ScaledObject", "spec", "idleReplicaCount", value=0),
            put("ScaledObject", "spec", "triggers", 1, value={"type": "kafka", "metadata": {}}),
        ],
    ),
    Case(
        "zero-on-own-metric",
        [put(HPA, "spec", "minReplicas", value=0)],
        "every metric comes from the pods themselves",
        [
            put(HPA, "spec", "minReplicas", value=0),
            put(HPA, *METRIC, value={"external": {"metric": {"name": "queue_messages"}}}),
        ],
    ),
    Case(
        "metric-unknown",
        [put(HPA, *METRIC, "pods", "metric", "name", value="stoker_demand")],
        "stoker_demand",
        [put(HPA, *METRIC, "pods", "metric", "name", value="custom_stoker_demand")],
    ),
    Case(
        "metric-unknown",
        [add(RULE % "rate(stoker_batches[5m])")],
        "stoker_batches",
        [add(RULE % "stoker_recorded + stoker:x + rate(stoker_batch_rows_bucket[5m])")],
    ),
    Case(
        "demand-target-high",
        [put(HPA, *METRIC, "pods", "target", "averageValue", value="1")],
        "target 1",
        [put(HPA, *METRIC, "pods", "target", "averageValue", value="900m")],
    ),
    Case(
        "demand-target-high",
        [*KEDA, put("ScaledObject", *TRIGGER, "threshold", value="65")],
        "target 65",
        [*KEDA, put("ScaledObject", *TRIGGER, "threshold", value="0.9")],
    ),
    Case(
        "demand-target-high",
        [put(HPA, *METRIC, value=external("Value", "1"))],
        "target 1",
        [put(HPA, *METRIC, value=external("Value", "0.5"))],
    ),
    Case(
        "demand-target-low",
        [put(HPA, *METRIC, "pods", "target", "averageValue", value="65m")],
        "target 0.065",
        [put(HPA, *METRIC, "pods", "target", "averageValue", value="200m")],
    ),
    Case(
        "demand-target-low",
        [*KEDA, put("ScaledObject", *TRIGGER, "threshold", value="0.065")],
        "target 0.065",
        [
            *KEDA,
            put("ScaledObject", *TRIGGER, "query", value="sum(stoker_queue_delay_seconds)"),
            put("ScaledObject", *TRIGGER, "threshold", value="0.065"),
        ],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("avg(stoker_demand_ratio)")],
        "avg with the type AverageValue, which divides by the pods once more",
        [*asked("avg(stoker_demand_ratio)", kind="Value")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("max by (namespace) (stoker_queue_delay_seconds)", kind="AverageValue")],
        "max with the type AverageValue",
        [*asked("max(stoker_queue_delay_seconds) * count(stoker_demand_ratio)")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("sum(stoker_demand_ratio)", kind="Value")],
        "sum with the type Value, which compares it with the target undivided",
        [*asked("sum(stoker_demand_ratio) / count(stoker_demand_ratio)", kind="Value")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked('stoker_demand_ratio{pod=~"sum (by)"}')],
        "not aggregated: as many values as there are pods",
        [*asked("scalar(stoker_demand_ratio)")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("sum by (namespace, pod) (stoker_demand_ratio)")],
        "a value for each pod, of which an autoscaler can take none",
        [*asked("SUM by (namespace) (stoker_demand_ratio)")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("sum without (namespace) (stoker_demand_ratio)")],
        "a value for each pod",
        [*asked("sum(avg_over_time(stoker_demand_ratio[1m]))")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("max by (pod) (sum(stoker_demand_ratio) by (pod))")],
        "a value for each pod",
        [*asked("sum(max by (pod) (stoker_demand_ratio))")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("sum by (le) (stoker_batch_rows_bucket)", kind="Value")],
        "sum with the type Value",
        [*asked("histogram_quantile(0.9, sum by (le) (stoker_batch_rows_bucket))", kind="Value")],
    ),
    Case(
        "metric-aggregated-wrong",
        [put(HPA, *METRIC, value=external("Value", "0.65"))],
        "an External metric, the sum over all pods, with the type Value",
        [put(HPA, *METRIC, value=external("AverageValue", "0.65"))],
    ),
    Case(
        "metric-aggregated-wrong",
        [add(scaled_service("avg"))],
        "avg with the type AverageValue",
        [add(scaled_service("sum"))],
    ),
    Case(
        "metric-of-another-namespace",
        [*asked('sum(stoker_demand_ratio{namespace="other"})'), *IN_ML],
        "stoker_demand_ratio of namespace='other', from ml",
        [*asked('sum(stoker_demand_ratio{namespace=~"ml|other"})'), *IN_ML],
    ),
    Case(
        "metric-of-another-namespace",
        [*asked('sum(stoker_model_demand{model="resnet"})')],
        "stoker_model_demand of every namespace",
        [*asked("sum(stoker_model_demand{pod=~'stoker-.*'})")],
    ),
    Case(
        "metric-of-another-namespace",
        [
            *asked("sum(stoker_demand_ratio)"),
            put("ScaledObject", *TRIGGER, "namespace", value="x"),
            *IN_ML,
        ],
        "stoker_demand_ratio of the namespace 'x', from ml",
        [
            *asked("sum(stoker_demand_ratio)"),
            put("ScaledObject", *TRIGGER, "namespace", value="ml"),
            *IN_ML,
        ],
    ),
    Case(
        "shrinks-eagerly",
        [put(HPA, "spec", "behavior", "scaleDown", "stabilizationWindowSeconds", value=60)],
        "60 s for pods with GPUs",
        [put(HPA, "spec", "behavior", "scaleDown", "stabilizationWindowSeconds", value=120)],
    ),
    Case(
        "shrinks-eagerly",
        [
            *KEDA,
            put(
                "ScaledObject",
                *("spec", "advanced", "horizontalPodAutoscalerConfig"),
                value={"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}},
            ),
        ],
        "0 s for pods with GPUs",
        [*KEDA],
    ),
)
