"""Starting, replacing and ending pods: grace, drain, rollout.

Source: reference, Kubernetes production practice, sections 4 and 7.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from stoker.deploy.container import ServerContainer, flag_or_variable
from stoker.deploy.download import download_s, downloads_models
from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.kserve import PREDICTOR, predictors
from stoker.deploy.manifest import Manifest, number
from stoker.deploy.pre_stop import pre_stop
from stoker.deploy.rules.probes import probes
from stoker.deploy.workload import (
    Workload,
    has_gpu,
    least_replicas,
    rollout_step,
)

DEFAULT_GRACE_S: Final = 30
DEFAULT_PROGRESS_S: Final = 600
SLACK_S: Final = 5
"""Beside preStop, drain delay and drain timeout: closing what is left, telling, ending."""
_IN_A_RUNTIME: Final = (
    f"A runtime of KServe has no such field: shorten {flag_or_variable('drain_timeout')}, or set "
    "the period in each InferenceService, and give those together with the runtime."
)


def _short_grace(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        ends = list(predictors(workload, subject.manifests)) if workload.is_runtime else []
        for end in ends:
            path = f"{'.'.join(PREDICTOR)}.{end.grace_field}"
            for server in end.servers:
                yield from _grace(end.manifest, path, end.grace_s, server)
        if ends:
            continue
        path = f"{workload.path}.terminationGracePeriodSeconds"
        written = number(workload.pod, "terminationGracePeriodSeconds")
        for server in workload.servers:
            for hit in _grace(workload.manifest, path, written, server):
                yield replace(hit, mend=_IN_A_RUNTIME) if workload.is_runtime else hit


def _grace(
    manifest: Manifest, path: str, written: int | None, server: ServerContainer
) -> Iterator[Hit]:
    grace = DEFAULT_GRACE_S if written is None else written
    delay, timeout = server.settings.drain_delay_s, server.settings.drain_timeout_s
    hook = pre_stop(server.value)
    needed = hook.sleeps_s + delay + timeout + SLACK_S
    if grace < needed:
        default = ", Kubernetes' default" if written is None else ""
        found = (
            f"{grace} s{default}; preStop {hook.sleeps_s:g} s + drain_delay {delay:g} s + "
            f"drain_timeout {timeout:g} s + {SLACK_S} s = {needed:g} s"
        )
        mend = f"Give {needed:g} s or more, or shorten {flag_or_variable('drain_timeout')}."
        yield Hit(manifest, path, found, mend)


def _no_delay(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            hook = pre_stop(server.value)
            if server.settings.drain_delay_s > 0 or hook.sleeps_s or hook.unknown:
                continue
            yield Hit(workload.manifest, server.path, "drain_delay 0 and no preStop that sleeps")


def _two_delays(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            slept, delay = pre_stop(server.value).sleeps_s, server.settings.drain_delay_s
            if slept and delay:
                found = f"preStop {slept:g} s, then drain_delay {delay:g} s"
                yield Hit(workload.manifest, f"{server.path}.lifecycle.preStop", found)


def _unknown_pre_stop(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            unknown = pre_stop(server.value).unknown
            if unknown:
                path = f"{server.path}.lifecycle.preStop"
                yield Hit(workload.manifest, path, f"{unknown}, of unknown length")


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


def deployments(subject: Subject) -> Iterator[tuple[Workload, int]]:
    """Each Deployment with the number of its pods at least."""
    for workload in subject.workloads:
        if workload.manifest.kind == "Deployment":
            yield workload, least_replicas(workload, subject.scalers)


def _surge(subject: Subject) -> Iterator[Hit]:
    for workload, replicas in deployments(subject):
        step = rollout_step(workload, max(1, replicas))
        if has_gpu(workload) and step.surge and not step.unavailable:
            found = f"maxSurge {step.surge}, maxUnavailable 0 at {told(replicas)} with GPUs"
            yield Hit(workload.manifest, "spec.strategy", found)


def told(count: int) -> str:
    """`1 replica`."""
    return f"{count} replica{'' if count == 1 else 's'}"


def _gap(subject: Subject) -> Iterator[Hit]:
    for workload, replicas in deployments(subject):
        step = rollout_step(workload, max(1, replicas))
        if replicas and replicas <= step.unavailable:
            how = "Recreate" if step.recreates else f"maxUnavailable {step.unavailable}"
            found = f"{how} at {told(replicas)}"
            yield Hit(workload.manifest, "spec.strategy", found)


def _counts_at_once(subject: Subject) -> Iterator[Hit]:
    for workload, replicas in deployments(subject):
        if replicas > 1 and not number(workload.manifest.value, "spec", "minReadySeconds"):
            yield Hit(workload.manifest, "spec.minReadySeconds", f"none, at {told(replicas)}")


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
        "pre-stop-length-unknown",
        Severity.INFO,
        "A preStop of which lint cannot read how long it takes: a request, or a command other than "
        "`sleep`",
        "It runs within terminationGracePeriodSeconds, before the server hears of its end: what it "
        "takes is lost to the drain, and was not counted.",
        "Leave the preStop out: the server delays itself. Else give its time to "
        "terminationGracePeriodSeconds, and accept it.",
        _unknown_pre_stop,
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
        "min-ready-missing",
        Severity.INFO,
        "Two replicas or more without minReadySeconds",
        "A pod that is ready and then crashes counts as rolled out: the next one is replaced, to "
        "the last.",
        "minReadySeconds: 10, as base/ has it.",
        _counts_at_once,
    ),
)
