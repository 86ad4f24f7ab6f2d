"""Autoscalers: what they must not scale on, who owns the replicas, whether they wake from zero.

How the metrics of Stoker are asked for is another module's: `scaling_metrics.py`.

Source: reference, Kubernetes production practice, section 6.
"""

import json
import re
from collections.abc import Iterator
from typing import Final

from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.kserve import MODE, PREDICTOR, STANDARD, predictors
from stoker.deploy.manifest import (
    JsonObject,
    Manifest,
    at,
    mapping,
    number,
    numbered,
    objects,
    text,
)
from stoker.deploy.promql import OUR_METRIC
from stoker.deploy.scaled_metric import scaled_metrics
from stoker.deploy.workload import Scaler, has_gpu

LEAST_WINDOW_S: Final = 120
"""For shrinking. A pod that is given away too early costs a cold start to win back."""

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
METRICS_OF_V1: Final = "autoscaling.alpha.kubernetes.io/metrics"
"""Annotation of an autoscaler in autoscaling/v1: the metrics that v1 has no field for."""

SERVICE: Final = "InferenceService"
CLASS: Final = "serving.kserve.io/autoscalerClass"
"""Annotation: who scales an InferenceService in the mode Standard; `hpa` where none is named."""
_IN_KSERVE: Final = (
    "The same number for minReplicas and maxReplicas, or the class keda with a query for "
    "stoker_demand_ratio: k8s/kserve/examples/keda.yaml."
)

_GPU_UTILISATION: Final = re.compile(
    r"\b(DCGM_FI_[A-Z0-9_]+|nv_gpu_utilization|nvidia_gpu_duty_cycle|gpu_util\w*|duty_cycle)\b"
)


def _ours(subject: Subject) -> list[Scaler]:
    """The autoscalers of Stoker's workloads."""
    return [
        scaler
        for scaler in subject.scalers
        if any(scaler.scales(workload) for workload in subject.workloads)
    ]


def _utilisation(subject: Subject) -> Iterator[Hit]:
    for scaler in _ours(subject):
        value = scaler.manifest.value
        for index, metric in numbered(value, "spec", "metrics"):
            for kind in ("resource", "containerResource"):
                name = text(metric, kind, "name")
                if name:
                    yield Hit(scaler.manifest, f"spec.metrics[{index}].{kind}", name)
        for index, trigger in numbered(value, "spec", "triggers"):
            if text(trigger, "type") in ("cpu", "memory"):
                yield Hit(scaler.manifest, f"spec.triggers[{index}]", text(trigger, "type"))
        if scaler.manifest.kind == "HorizontalPodAutoscaler":
            yield from _cpu_without_metrics(scaler.manifest)

    yield from _utilisation_by_kserve(subject)


def _utilisation_by_kserve(subject: Subject) -> Iterator[Hit]:
    """The HPA that KServe makes in the mode Standard of whatever names no other class."""
    services = [each.manifest for each in subject.workloads if each.manifest.kind == SERVICE]
    for workload in subject.workloads:
        if workload.is_runtime:
            services += [each.manifest for each in predictors(workload, subject.manifests)]
    for service in services:
        notes, predictor = service.annotations, mapping(service.value, *PREDICTOR)
        if notes.get(MODE) not in STANDARD or notes.get(CLASS, "hpa") != "hpa":
            continue
        least = number(predictor, "minReplicas")
        most = number(predictor, "maxReplicas") or 0
        if most > (1 if least is None else least) and "autoScaling" not in predictor:
            name = text(predictor, "scaleMetric") or "cpu, KServe's default"
            found = f"{name}, up to {most} replicas"
            yield Hit(service, f"{'.'.join(PREDICTOR)}.maxReplicas", found, _IN_KSERVE)


def _cpu_without_metrics(manifest: Manifest) -> Iterator[Hit]:
    """The CPU target of autoscaling/v1, and the one that Kubernetes fills in where nothing is
    written. Source: HorizontalPodAutoscalerSpec of autoscaling/v1 and v2."""
    share = text(manifest.value, "spec", "targetCPUUtilizationPercentage")
    if share:
        yield Hit(manifest, "spec.targetCPUUtilizationPercentage", f"cpu at {share} %")
    elif not at(manifest.value, "spec", "metrics") and METRICS_OF_V1 not in manifest.annotations:
        yield Hit(manifest, "spec.metrics", "none, which means cpu at 80 %")


def _gpu_utilisation(subject: Subject) -> Iterator[Hit]:
    for scaler in _ours(subject):
        for metric in scaled_metrics(scaler.manifest):
            match = _GPU_UTILISATION.search(metric.source)
            if match:
                yield Hit(scaler.manifest, metric.path, match[0])


def _replicas(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        written = number(_as_applied(workload.manifest), "spec", "replicas")
        scalers = [each for each in subject.scalers if each.scales(workload)]
        if written is not None and scalers:
            found = f"replicas {written} beside {scalers[0].manifest}"
            yield Hit(workload.manifest, "spec.replicas", found)


def _as_applied(manifest: Manifest) -> JsonObject:
    """The manifest as somebody wrote it. In one from a cluster the autoscaler's own number stands;
    what `kubectl apply` got is in an annotation, or unknown."""
    if not text(manifest.value, "metadata", "uid"):
        return manifest.value
    try:
        applied = json.loads(manifest.annotations.get(LAST_APPLIED, ""))
    except ValueError:
        return {}
    return applied if isinstance(applied, dict) else {}


def _two_scalers(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        scalers = [each for each in subject.scalers if each.scales(workload)]
        for extra in scalers[1:]:
            found = f"{scalers[0].manifest} scales {workload.manifest} as well"
            yield Hit(extra.manifest, "spec.scaleTargetRef", found)


def _no_target(subject: Subject) -> Iterator[Hit]:
    if all(workload.is_kserve for workload in subject.workloads):
        return  # KServe makes the Deployments
    known = _ours(subject)
    for scaler in subject.scalers:
        is_meant = any("stoker_" in each.source for each in scaled_metrics(scaler.manifest))
        if scaler not in known and is_meant:
            found = f"{scaler.kind} {scaler.name!r} is not among these manifests"
            yield Hit(scaler.manifest, "spec.scaleTargetRef", found)


def _null_values(subject: Subject) -> Iterator[Hit]:
    for scaler in _ours(subject):
        for index, trigger in numbered(scaler.manifest.value, "spec", "triggers"):
            metadata = mapping(trigger, "metadata")
            ignored = text(metadata, "ignoreNullValues") or "true, KEDA's default"
            if text(trigger, "type") == "prometheus" and ignored != "false":
                path = f"spec.triggers[{index}].metadata.ignoreNullValues"
                yield Hit(scaler.manifest, path, ignored)


def _cannot_wake(subject: Subject) -> Iterator[Hit]:
    for scaler in _ours(subject):
        value = scaler.manifest.value
        idle = number(value, "spec", "idleReplicaCount")
        if scaler.least != 0 and idle != 0:
            continue
        queries = [each.source for each in scaled_metrics(scaler.manifest)]
        others = [
            each
            for each in objects(value, "spec", "triggers")
            if text(each, "type") not in ("prometheus", "cpu", "memory")
        ]
        if not others and all(OUR_METRIC.search(query) for query in queries):
            is_hpa = scaler.manifest.kind == "HorizontalPodAutoscaler"
            path = "spec.minReplicas" if is_hpa else "spec.minReplicaCount"
            yield Hit(scaler.manifest, path, "0, and every metric comes from the pods themselves")


def _eager_shrinking(subject: Subject) -> Iterator[Hit]:
    for scaler in _ours(subject):
        is_hpa = scaler.manifest.kind == "HorizontalPodAutoscaler"
        above = () if is_hpa else ("advanced", "horizontalPodAutoscalerConfig")
        path: tuple[str, ...] = (
            "spec",
            *above,
            "behavior",
            "scaleDown",
            "stabilizationWindowSeconds",
        )
        window = number(scaler.manifest.value, *path)
        scaled = [each for each in subject.workloads if scaler.scales(each)]
        if window is not None and window < LEAST_WINDOW_S and any(map(has_gpu, scaled)):
            yield Hit(scaler.manifest, ".".join(path), f"{window} s for pods with GPUs")


RULES = (
    Rule(
        "scaled-on-utilisation",
        Severity.ERROR,
        "An autoscaler on CPU or memory: by a metric, targetCPUUtilizationPercentage, or by naming "
        "no metric at all, for which Kubernetes and KServe take CPU at 80 %",
        "The device is the bottleneck, not the CPU; memory never goes down, since arenas keep it. "
        "The number of pods has nothing to do with the load.",
        "Scale on stoker_demand_ratio: components/autoscaling-hpa.",
        _utilisation,
    ),
    Rule(
        "scaled-on-gpu-utilisation",
        Severity.ERROR,
        "An autoscaler on GPU utilisation (DCGM_FI_*, nv_gpu_utilization)",
        "It is the share of time in which any kernel ran: small batches keep it near 100 % long "
        "before the GPU is full, it stops there under any overload, and MIG slices have none.",
        "Scale on stoker_demand_ratio: components/autoscaling-hpa.",
        _gpu_utilisation,
    ),
    Rule(
        "replicas-beside-autoscaler",
        Severity.ERROR,
        "spec.replicas in a workload that an autoscaler scales",
        "Each time the manifest is applied the number goes back to the written one, under whatever "
        "load.",
        "Remove spec.replicas, as components/autoscaling-hpa does.",
        _replicas,
    ),
    Rule(
        "two-autoscalers",
        Severity.ERROR,
        "Two autoscalers for one workload",
        "KEDA makes an HPA of its own; two of them undo each other's decisions every 15 s.",
        "Keep one of components/autoscaling-hpa and autoscaling-keda.",
        _two_scalers,
    ),
    Rule(
        "autoscaler-target-missing",
        Severity.ERROR,
        "An autoscaler on Stoker's metrics whose target is not there",
        "It scales nothing: a name was changed in one place only.",
        "scaleTargetRef: the workload's kind and name.",
        _no_target,
    ),
    Rule(
        "keda-ignores-lost-series",
        Severity.ERROR,
        "A prometheus trigger of KEDA whose ignoreNullValues is not `false`",
        "A Prometheus that lost the series reads as no load: pods are taken away under load, and "
        "`fallback` never acts.",
        'ignoreNullValues: "false", with a fallback.',
        _null_values,
    ),
    Rule(
        "zero-on-own-metric",
        Severity.ERROR,
        "Scaling to zero on metrics of the pods themselves",
        "With the last pod the series is gone: nothing can wake the workload, and nothing holds "
        "the first request.",
        "At least one replica; or an activating trigger from a gateway or queue: "
        "components/autoscaling-keda.",
        _cannot_wake,
    ),
    Rule(
        "shrinks-eagerly",
        Severity.WARNING,
        f"A scale-down window under {LEAST_WINDOW_S} s for pods with GPUs",
        "A pause in the load gives GPUs away that a cold start of minutes has to win back.",
        "stabilizationWindowSeconds: 300 to 900, one pod a minute.",
        _eager_shrinking,
    ),
)
