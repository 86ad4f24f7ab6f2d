"""Whether nodes can be given back: budgets that block a drain, volumes that keep an autoscaler off.

Source: reference, Kubernetes production practice, section 7; FAQ of the cluster autoscaler, "What
types of pods can prevent CA from removing a node?".
"""

from collections.abc import Iterator
from typing import Final

from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.manifest import at, mapping, objects, text
from stoker.deploy.rules.lifecycle import deployments, told
from stoker.deploy.selection import selects
from stoker.deploy.workload import Workload, least_replicas, same_namespace

SAFE_TO_EVICT: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict"
"""Of a pod: `true` lets its node go whatever it has, `false` keeps it."""
SAFE_VOLUMES: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
"""Of a pod: names of local volumes that may be lost, with commas and nothing else between."""
DOWNLOAD_VOLUME: Final = "kserve-provision-location"
"""KServe's own emptyDir, of each pod whose model it downloads."""


def _blocking_budget(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        replicas = least_replicas(workload, subject.scalers)
        for budget in subject.of_kind("PodDisruptionBudget"):
            selector = at(budget.value, "spec", "selector")
            if not same_namespace(budget, workload.manifest):
                continue
            if not selects(selector, workload.labels):
                continue
            for key in ("minAvailable", "maxUnavailable"):
                written = text(budget.value, "spec", key)
                if written and _blocks(key, written, replicas):
                    found = f"{key} {written} at {told(replicas)}"
                    yield Hit(budget, f"spec.{key}", found)


def _blocks(key: str, written: str, replicas: int) -> bool:
    """Whether no pod may ever be evicted. A share of pods is rounded up, both ways.
    Source: Kubernetes, "Specifying a Disruption Budget: rounding logic"."""
    share = written.removesuffix("%")
    if not share.isdecimal() or replicas == 0:
        return False
    amount = int(share)
    if written.endswith("%"):
        amount = -(-amount * replicas // 100)
    return amount >= replicas if key == "minAvailable" else amount == 0


def _budget_of_broken_pods(subject: Subject) -> Iterator[Hit]:
    for budget in subject.of_kind("PodDisruptionBudget"):
        if text(budget.value, "spec", "unhealthyPodEvictionPolicy") == "AlwaysAllow":
            continue
        selector = at(budget.value, "spec", "selector")
        for workload in subject.workloads:
            if same_namespace(budget, workload.manifest) and selects(selector, workload.labels):
                policy = text(budget.value, "spec", "unhealthyPodEvictionPolicy")
                found = policy or "IfHealthyBudget, Kubernetes' default"
                yield Hit(budget, "spec.unhealthyPodEvictionPolicy", found)
                break


def _no_budget(subject: Subject) -> Iterator[Hit]:
    for workload, replicas in deployments(subject):
        protected = any(
            same_namespace(budget, workload.manifest)
            and selects(at(budget.value, "spec", "selector"), workload.labels)
            for budget in subject.of_kind("PodDisruptionBudget")
        )
        if replicas > 1 and not protected:
            yield Hit(workload.manifest, "spec.replicas", f"{replicas} replicas without a budget")


def _keeps_node(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        # A DaemonSet's pods block nothing, and one without a controller blocks anyway.
        if workload.manifest.kind in ("DaemonSet", "Pod"):
            continue
        if workload.annotations.get(SAFE_TO_EVICT) in ("true", "false"):
            continue
        listed = workload.annotations.get(SAFE_VOLUMES, "").split(",")
        local = local_volumes(workload)
        kept = [each for each in local if each not in listed]
        if kept:
            found = f"{', '.join(kept)} not in the annotation {SAFE_VOLUMES}"
            mend = f'Annotate the pods: {SAFE_VOLUMES}: "{",".join(local)}".'
            yield Hit(workload.manifest, f"{workload.path}.volumes", found, mend)


def local_volumes(workload: Workload) -> list[str]:
    """The volumes that are lost with the node, by name; emptyDirs in memory do not count."""
    found = [
        text(each, "name")
        for each in objects(workload.pod, "volumes")
        if "hostPath" in each
        or ("emptyDir" in each and mapping(each, "emptyDir").get("medium") != "Memory")
    ]
    return [*found, DOWNLOAD_VOLUME] if workload.is_runtime else found


RULES = (
    Rule(
        "budget-blocks-drains",
        Severity.ERROR,
        "A PodDisruptionBudget that lets no pod go: minAvailable of all replicas, or "
        "maxUnavailable 0",
        "A node cannot be drained, so cluster upgrades stand still; with one replica for ever.",
        "maxUnavailable: 1; with one replica no budget at all.",
        _blocking_budget,
    ),
    Rule(
        "budget-keeps-broken-pods",
        Severity.WARNING,
        "A PodDisruptionBudget without unhealthyPodEvictionPolicy AlwaysAllow",
        "A pod that is not ready, a broken model or GPU say, counts as if it had to be kept and "
        "blocks the drain of its node.",
        "unhealthyPodEvictionPolicy: AlwaysAllow.",
        _budget_of_broken_pods,
    ),
    Rule(
        "budget-missing",
        Severity.WARNING,
        "Two replicas or more without a PodDisruptionBudget",
        "Draining nodes may evict all pods at once.",
        "A PodDisruptionBudget with maxUnavailable: 1, as base/ has it.",
        _no_budget,
    ),
    Rule(
        "local-volumes-keep-node",
        Severity.WARNING,
        "Volumes on the node's disk (emptyDir, hostPath) that the pods' annotation "
        f"`{SAFE_VOLUMES}` does not list",
        "The cluster autoscaler takes them for data and never removes a node with such a pod: "
        "an almost empty GPU node is paid for until somebody drains it.",
        "List their names, with commas and no spaces; what is in them is made anew by each pod.",
        _keeps_node,
    ),
)
