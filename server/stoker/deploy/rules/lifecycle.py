"""Starting, replacing and ending pods: grace, drain, rollout, budgets.

Source: reference, Kubernetes production practice, sections 4 and 7.
"""

from collections.abc import Iterator
from typing import Final

from stoker.deploy.container import flag_or_variable
from stoker.deploy.download import download_s, downloads_models
from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.manifest import at, mapping, number, text
from stoker.deploy.rules.probes import probes
from stoker.deploy.selection import selects
from stoker.deploy.workload import (
    Workload,
    has_gpu,
    least_replicas,
    rollout_step,
    same_namespace,
)

DEFAULT_GRACE_S: Final = 30
DEFAULT_PROGRESS_S: Final = 600
SLACK_S: Final = 5
"""Beside preStop, drain delay and drain timeout: closing what is left, telling, ending."""


def _pre_stop_s(workload: Workload, index: int) -> int:
    server = workload.servers[index].value
    return number(server, "lifecycle", "preStop", "sleep", "seconds") or 0


def _short_grace(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        written = number(workload.pod, "terminationGracePeriodSeconds")
        grace = DEFAULT_GRACE_S if written is None else written
        for index, server in enumerate(workload.servers):
            settings = server.settings
            delay, timeout = settings.drain_delay_s, settings.drain_timeout_s
            pre_stop = _pre_stop_s(workload, index)
            needed = pre_stop + delay + timeout + SLACK_S
            if grace >= needed:
                continue
            default = ", Kubernetes' default" if written is None else ""
            found = (
                f"{grace} s{default}; preStop {pre_stop} s + drain_delay {delay:g} s + "
                f"drain_timeout {timeout:g} s + {SLACK_S} s = {needed:g} s"
            )
            mend = f"Give {needed:g} s or more, or shorten {flag_or_variable('drain_timeout')}."
            if workload.is_runtime:
                mend = (
                    "A runtime of KServe has no such field: shorten "
                    f"{flag_or_variable('drain_timeout')}, or set the period in each "
                    "InferenceService."
                )
            path = f"{workload.path}.terminationGracePeriodSeconds"
            yield Hit(workload.manifest, path, found, mend)


def _no_delay(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for index, server in enumerate(workload.servers):
            settings = server.settings
            if settings.drain_delay_s > 0 or _pre_stop_s(workload, index):
                continue
            if "exec" in mapping(server.value, "lifecycle", "preStop"):
                continue
            yield Hit(workload.manifest, server.path, "drain_delay 0 and no preStop that sleeps")


def _two_delays(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for index, server in enumerate(workload.servers):
            pre_stop = _pre_stop_s(workload, index)
            if pre_stop and server.settings.drain_delay_s:
                found = (
                    f"preStop {pre_stop} s, then drain_delay {server.settings.drain_delay_s:g} s"
                )
                yield Hit(workload.manifest, f"{server.path}.lifecycle.preStop", found)


def _short_progress(subject: Subject) -> Iterator[Hit]:
    for probe in probes(subject, "startupProbe"):
        if probe.manifest.kind != "Deployment":
            continue
        written = number(probe.manifest.value, "spec", "progressDeadlineSeconds")
        deadline = DEFAULT_PROGRESS_S if written is None else written
        found = f"{deadline} s; the startup probe bears {probe.budget_s} s"
        needed = probe.budget_s
        downloading = downloads_models(probe.workload)
        if downloading:
            seconds = download_s(subject.measured)
            needed += seconds
            found += f", and the download by {downloading} may take {seconds} s before it"
        if deadline <= needed:
            yield Hit(probe.manifest, "spec.progressDeadlineSeconds", found)


def _deployments(subject: Subject) -> Iterator[tuple[Workload, int]]:
    for workload in subject.workloads:
        if workload.manifest.kind == "Deployment":
            yield workload, least_replicas(workload, subject.scalers)


def _surge(subject: Subject) -> Iterator[Hit]:
    for workload, replicas in _deployments(subject):
        step = rollout_step(workload, max(1, replicas))
        if has_gpu(workload) and step.surge and not step.unavailable:
            found = f"maxSurge {step.surge}, maxUnavailable 0 at {_replicas(replicas)} with GPUs"
            yield Hit(workload.manifest, "spec.strategy", found)


def _replicas(count: int) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"


def _gap(subject: Subject) -> Iterator[Hit]:
    for workload, replicas in _deployments(subject):
        step = rollout_step(workload, max(1, replicas))
        if replicas and replicas <= step.unavailable:
            how = "Recreate" if step.recreates else f"maxUnavailable {step.unavailable}"
            found = f"{how} at {_replicas(replicas)}"
            yield Hit(workload.manifest, "spec.strategy", found)


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
                    found = f"{key} {written} at {_replicas(replicas)}"
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
    for workload, replicas in _deployments(subject):
        protected = any(
            same_namespace(budget, workload.manifest)
            and selects(at(budget.value, "spec", "selector"), workload.labels)
            for budget in subject.of_kind("PodDisruptionBudget")
        )
        if replicas > 1 and not protected:
            yield Hit(workload.manifest, "spec.replicas", f"{replicas} replicas without a budget")


RULES = (
    Rule(
        "grace-shorter-than-drain",
        Severity.ERROR,
        "terminationGracePeriodSeconds below preStop + drain_delay + drain_timeout + 5 s",
        "SIGKILL comes before the drain has ended: requests in flight are lost at each rollout, "
        "scale-down and node drain.",
        "Raise terminationGracePeriodSeconds, or shorten the drain.",
        _short_grace,
    ),
    Rule(
        "no-drain-delay",
        Severity.ERROR,
        "drain_delay 0 without a preStop that sleeps",
        "Proxies learn of a pod's end seconds later and go on sending; with the ports closed at "
        "once those requests are refused.",
        f"Leave {flag_or_variable('drain_delay')} at 5s, or add a preStop of type sleep.",
        _no_delay,
    ),
    Rule(
        "two-drain-delays",
        Severity.INFO,
        "A preStop that sleeps before a server that delays by itself",
        "Each end of a pod takes both times, and during the first the server does not know that "
        "it is leaving: it neither closes connections nor turns unready.",
        "Leave the preStop out.",
        _two_delays,
    ),
    Rule(
        "progress-deadline-short",
        Severity.WARNING,
        "progressDeadlineSeconds not above what the startup probe bears, with what an init "
        "container downloads before it",
        "A slow start is reported as a failed rollout while it is still allowed: the deadline "
        "counts from the pod's creation, the startup probe from the start of the server.",
        "Set it above periodSeconds x failureThreshold, the pull of the image and the download of "
        "models included.",
        _short_progress,
    ),
    Rule(
        "surge-without-spare-gpu",
        Severity.WARNING,
        "maxSurge above 0 with maxUnavailable 0 for pods with GPUs",
        "The new pod needs a GPU beside those in use; without a spare one it stays pending, the "
        "old one stays, and the rollout hangs.",
        "maxSurge: 0, maxUnavailable: 1 with two or more replicas. With a spare GPU, accept it: "
        "docs/k8s-lint.md, Accepting a finding.",
        _surge,
    ),
    Rule(
        "rollout-gap",
        Severity.WARNING,
        "A rollout in which no pod is left: one replica (or an autoscaler's minimum of one) "
        "with maxSurge 0, or Recreate",
        "Between the end of the old pod and the readiness of the new one nothing answers.",
        "Two replicas or more; or, where there is room for a second pod, maxSurge: 1 and "
        "maxUnavailable: 0.",
        _gap,
    ),
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
)
