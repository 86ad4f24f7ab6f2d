"""The pods in a set of manifests that run Stoker, and what else in it concerns them.

`find_workloads` is the second step of `stoker k8s lint`; the rules look at what is found here.
Everything without a Stoker container is left alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Final

from stoker.deploy.container import ServerContainer, server_container
from stoker.deploy.manifest import (
    JsonObject,
    JsonValue,
    Manifest,
    at,
    mapping,
    number,
    numbered,
    objects,
    strings,
    text,
)

POD_PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "Deployment": ("spec", "template", "spec"),
    "StatefulSet": ("spec", "template", "spec"),
    "DaemonSet": ("spec", "template", "spec"),
    "ReplicaSet": ("spec", "template", "spec"),
    "Rollout": ("spec", "template", "spec"),
    "Pod": ("spec",),
    "ServingRuntime": ("spec",),
    "ClusterServingRuntime": ("spec",),
    "InferenceService": ("spec", "predictor"),
}
"""Where the kinds that keep pods running hold what a pod is made of."""
CLUSTER_RUNTIME: Final = "ClusterServingRuntime"
RUNTIMES: Final = ("ServingRuntime", CLUSTER_RUNTIME)
"""KServe's: they hold containers and volumes, and few other fields of a pod."""
_OWNERS: Final = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Rollout", "ScaledObject")
"""Kinds whose controllers make what is theirs from a template that is judged already. Not KServe's:
an InferenceService shows its runtime's container only in the Deployment that is made of it."""
GPU_RESOURCES: Final = ("nvidia.com/gpu", "nvidia.com/mig-")


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of pod that runs Stoker."""

    manifest: Manifest
    pod: JsonObject
    """Its PodSpec, or what KServe has of one."""
    path: str
    """Where that stands: `spec.template.spec`."""
    labels: Mapping[str, str]
    """Of its pods."""
    annotations: Mapping[str, str]
    """Of its pods."""
    servers: tuple[ServerContainer, ...]

    @property
    def is_runtime(self) -> bool:
        """Whether it is a runtime of KServe, whose pods get the rest from an InferenceService."""
        return self.manifest.kind in RUNTIMES

    @property
    def is_kserve(self) -> bool:
        """Whether KServe makes its Deployment, Service and autoscaler."""
        return self.is_runtime or self.manifest.kind == "InferenceService"

    @property
    def claims_devices(self) -> bool:
        """Whether it asks for devices by claims (DRA), GPUs perhaps."""
        return bool(objects(self.pod, "resourceClaims"))


def gpus(container: JsonObject, part: str = "limits") -> dict[str, str]:
    """The GPU resources in a container's limits or requests; none where the amount is 0."""
    amounts = strings(container, "resources", part)
    return {
        name: amount
        for name, amount in amounts.items()
        if name.startswith(GPU_RESOURCES) and amount != "0"
    }


def has_gpu(workload: Workload) -> bool:
    """Whether a server of it gets a GPU, as a resource or by a claim. What a server claims that
    computes on the CPU is another device, a network card say."""
    computes_there = any(server.settings.device != "cpu" for server in workload.servers)
    return (workload.claims_devices and computes_there) or any(
        gpus(server.value) for server in workload.servers
    )


def container_ports(server: ServerContainer) -> dict[str, int]:
    """The container's ports by name; those without one by their number."""
    found: dict[str, int] = {}
    for each in objects(server.value, "ports"):
        port = number(each, "containerPort")
        if port is not None:
            found[text(each, "name") or str(port)] = port
    return found


def resolve_port(server: ServerContainer, port: JsonValue) -> int | None:
    """The number of a port that is given by number or by name; None where no port has the name."""
    written = number(port)
    if written is not None:
        return written
    return container_ports(server).get(port) if isinstance(port, str) else None


@dataclass(frozen=True, slots=True)
class Scaler:
    """A HorizontalPodAutoscaler or a ScaledObject."""

    manifest: Manifest
    kind: str
    """Of what it scales."""
    name: str
    least: int
    most: int | None

    def scales(self, workload: Workload) -> bool:
        """Whether it sets the replicas of that workload."""
        other = workload.manifest
        return (self.kind, self.name) == (other.kind, other.name) and same_namespace(
            self.manifest, other
        )


def same_namespace(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests go into the same namespace."""
    return one.namespace == other.namespace


def find_scalers(manifests: Sequence[Manifest]) -> list[Scaler]:
    """The autoscalers, whatever they scale, with Kubernetes' and KEDA's defaults filled in."""
    found = []
    for each in manifests:
        target = mapping(each.value, "spec", "scaleTargetRef")
        name, kind = text(target, "name"), text(target, "kind") or "Deployment"
        if each.kind == "HorizontalPodAutoscaler":
            least = number(each.value, "spec", "minReplicas")
            most = number(each.value, "spec", "maxReplicas")
            found.append(Scaler(each, kind, name, 1 if least is None else least, most))
        elif each.kind == "ScaledObject":
            least = number(each.value, "spec", "minReplicaCount") or 0
            most = number(each.value, "spec", "maxReplicaCount")
            found.append(Scaler(each, kind, name, least, 100 if most is None else most))
    return found


def least_replicas(workload: Workload, scalers: Sequence[Scaler]) -> int:
    """How many pods there are at least, most of the time."""
    least = [each.least for each in scalers if each.scales(workload)]
    if least:
        return min(least)
    written = number(workload.manifest.value, "spec", "replicas")
    return 1 if written is None else written


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """How a Deployment replaces its pods, in pods of so many replicas."""

    recreates: bool
    surge: int
    unavailable: int


def rollout_step(workload: Workload, replicas: int) -> RolloutStep:
    """The strategy with Kubernetes' defaults: 25 % each, surge rounded up, unavailable down."""
    strategy = mapping(workload.manifest.value, "spec", "strategy")
    if text(strategy, "type") == "Recreate":
        return RolloutStep(True, 0, replicas)
    rolling = mapping(strategy, "rollingUpdate")
    surge = _pods(at(rolling, "maxSurge"), replicas, ceil)
    unavailable = _pods(at(rolling, "maxUnavailable"), replicas, floor)
    return RolloutStep(False, surge, 1 if surge == unavailable == 0 else unavailable)


def _pods(written: JsonValue, replicas: int, rounded: Callable[[float], int]) -> int:
    value = "25%" if written is None else text(written)
    if value.endswith("%") and value[:-1].isdecimal():
        return rounded(int(value[:-1]) * replicas / 100)
    return int(value) if value.isdecimal() else 0


def without_copies(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Leaves out what a controller made of another of these manifests: the ReplicaSets and Pods of
    a Deployment, the autoscaler of a ScaledObject. A listing of a cluster has all of them."""
    known = {(each.kind, each.namespace, each.name) for each in manifests if each.kind in _OWNERS}
    return [
        each
        for each in manifests
        if not any(
            (text(owner, "kind"), each.namespace, text(owner, "name")) in known
            for owner in objects(each.value, "metadata", "ownerReferences")
        )
    ]


def find_workloads(manifests: Sequence[Manifest]) -> tuple[Workload, ...]:
    """Everything that keeps pods with a Stoker server running."""
    return tuple(_workloads(manifests))


def _workloads(manifests: Sequence[Manifest]) -> Iterator[Workload]:
    for each in manifests:
        path = POD_PATHS.get(each.kind)
        if path is None:
            continue
        pod = mapping(each.value, *path)
        above = mapping(each.value, *path[:-1]) if each.kind not in RUNTIMES else pod
        metadata = above if each.kind in RUNTIMES else mapping(above, "metadata")
        labels, annotations = strings(metadata, "labels"), strings(metadata, "annotations")
        if each.kind == "InferenceService":
            labels = {**each.labels, **strings(pod, "labels")}
            annotations = {**each.annotations, **strings(pod, "annotations")}
        config_maps = [
            other
            for other in manifests
            if other.kind == "ConfigMap" and same_namespace(other, each)
        ]
        servers = [
            server_container(
                container,
                f"{'.'.join(path)}.containers[{index}]",
                labels=labels,
                volumes=objects(pod, "volumes"),
                config_maps=config_maps,
                is_alone=len(objects(pod, "containers")) == 1,
            )
            for index, container in numbered(pod, "containers")
        ]
        found = tuple(server for server in servers if server is not None)
        if found:
            yield Workload(each, pod, ".".join(path), labels, annotations, found)
