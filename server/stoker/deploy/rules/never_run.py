"""Pods that never run: refused by the API server, made for other nodes, written in part only.

What a schema of Kubernetes cannot tell, because it is about two fields, or about the text of one.
Source: Kubernetes, validation of PodSpec; "Resource units in Kubernetes".
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.manifest import (
    JsonObject,
    Manifest,
    mapping,
    numbered,
    objects,
    strings,
    text,
    texts,
)
from stoker.deploy.quantity import parse_quantity
from stoker.deploy.workload import GPU_RESOURCES, Workload, same_namespace

ARCHITECTURE: Final = "amd64"
"""Of the nodes that our image is built for."""
ARCHITECTURE_LABELS: Final = ("kubernetes.io/arch", "beta.kubernetes.io/arch")
_PLACEHOLDER: Final = re.compile(r"(?<![\w-])your-[a-z]+")


def _containers(workload: Workload) -> Iterator[tuple[str, JsonObject]]:
    """(path, container) of all of a pod, those that run before the server too."""
    for part in ("initContainers", "containers"):
        for index, container in numbered(workload.pod, part):
            yield f"{workload.path}.{part}[{index}]", container


def _malformed(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for path, container in _containers(workload):
            for part in ("requests", "limits"):
                for name in mapping(container, "resources", part):
                    where = f"{path}.resources.{part}"
                    yield from _unread(workload.manifest, where, container, "resources", part, name)
        for index, volume in numbered(workload.pod, "volumes"):
            where = f"{workload.path}.volumes[{index}].emptyDir"
            yield from _unread(workload.manifest, where, volume, "emptyDir", "sizeLimit")
    for scaler in subject.scalers:
        if any(scaler.scales(workload) for workload in subject.workloads):
            for index, metric in numbered(scaler.manifest.value, "spec", "metrics"):
                for kind in ("pods", "object", "external"):
                    where = f"spec.metrics[{index}].{kind}.target"
                    for key in ("averageValue", "value"):
                        path_ = (kind, "target", key)
                        yield from _unread(scaler.manifest, where, metric, *path_)


def _unread(manifest: Manifest, where: str, value: JsonObject, *path: str) -> Iterator[Hit]:
    written = text(value, *path)
    if written and parse_quantity(value, *path) is None:
        yield Hit(manifest, f"{where}.{path[-1]}", f"{written!r} is not a quantity")


def _refused(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        found = [*_of_volumes(workload), *_of_names(workload)]
        for path, container in _containers(workload):
            found += _of_mounts(workload, path, container)
            found += _of_resources(workload, path, container)
        yield from (Hit(workload.manifest, path, what, mend) for path, what, mend in found)


def _of_volumes(workload: Workload) -> Iterator[tuple[str, str, str]]:
    for index, volume in numbered(workload.pod, "volumes"):
        kinds = sorted(key for key, each in volume.items() if key != "name" and each is not None)
        if len(kinds) > 1:
            found = f"{text(volume, 'name')} is of {len(kinds)} kinds: {', '.join(kinds)}"
            mend = "Keep one: of the components models-* a pod takes one."
            yield f"{workload.path}.volumes[{index}]", found, mend


def _of_names(workload: Workload) -> Iterator[tuple[str, str, str]]:
    names = [text(each, "name") for _, each in _containers(workload)]
    volumes = [text(each, "name") for each in objects(workload.pod, "volumes")]
    for part, listed in (("containers", names), ("volumes", volumes)):
        for name in _twice(listed):
            yield f"{workload.path}.{part}", f"two are called {name}", "One name for each."


def _of_mounts(
    workload: Workload, path: str, container: JsonObject
) -> Iterator[tuple[str, str, str]]:
    mounts = numbered(container, "volumeMounts")
    for place in _twice(text(mount, "mountPath") for _, mount in mounts):
        found = f"two mounts at {place}"
        yield f"{path}.volumeMounts", found, "One volume for each folder."
    known = {text(each, "name") for each in objects(workload.pod, "volumes")}
    templates = objects(workload.manifest.value, "spec", "volumeClaimTemplates")
    known |= {text(each, "metadata", "name") for each in templates}
    if not workload.is_runtime:  # an InferenceService may bring the volume
        for index, mount in mounts:
            name = text(mount, "name")
            if name not in known:
                found = f"{name or 'no name'}, and the pod has no volume of that name"
                yield f"{path}.volumeMounts[{index}].name", found, "Add it to the pod's volumes."
    claims = {text(each, "name") for each in objects(workload.pod, "resourceClaims")}
    for index, claim in numbered(container, "resources", "claims"):
        name = text(claim, "name")
        if name not in claims and not workload.is_runtime:
            found = f"{name or 'no name'}, and the pod has no claim of that name"
            yield f"{path}.resources.claims[{index}]", found, "Add it to the pod's resourceClaims."


def _of_resources(
    workload: Workload, path: str, container: JsonObject
) -> Iterator[tuple[str, str, str]]:
    for name, written in strings(container, "resources", "requests").items():
        request = parse_quantity(written)
        limit = parse_quantity(container, "resources", "limits", name)
        is_gpu = name.startswith(GPU_RESOURCES)  # gpu-request-differs
        if request is not None and limit is not None and request > limit and not is_gpu:
            shown = text(container, "resources", "limits", name)
            found = f"request {written}, limit {shown}"
            yield f"{path}.resources.requests.{name}", found, "A limit of no less than the request."
    for name, written in strings(container, "resources", "limits").items():
        amount = parse_quantity(written)
        if name.startswith(GPU_RESOURCES) and amount is not None and amount.denominator != 1:
            mend = "A whole number; GPUs are shared as MIG slices or by time: components/mig."
            yield f"{path}.resources.limits.{name}", f"{written} of a device", mend


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if name and count > 1]


def _other_nodes(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        if not any(server.image.is_ours for server in workload.servers):
            continue
        selector = strings(workload.pod, "nodeSelector")
        for label in ARCHITECTURE_LABELS:
            if selector.get(label, ARCHITECTURE) != ARCHITECTURE:
                path = f"{workload.path}.nodeSelector"
                yield Hit(workload.manifest, path, f"{label}: {selector[label]}")
        required = (
            *("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
            "nodeSelectorTerms",
        )
        terms = objects(workload.pod, *required)
        wrong = [found for term in terms for found in _wrong_architecture(term)[:1]]
        if terms and len(wrong) == len(terms):
            path = f"{workload.path}.affinity.nodeAffinity"
            yield Hit(workload.manifest, path, ", ".join(dict.fromkeys(wrong)))


def _wrong_architecture(term: JsonObject) -> list[str]:
    """The conditions of a term of node affinity that no node for our image meets."""
    found = []
    for each in objects(term, "matchExpressions"):
        label, operator, values = text(each, "key"), text(each, "operator"), texts(each, "values")
        is_in = ARCHITECTURE in values
        if (
            label in ARCHITECTURE_LABELS
            and operator in ("In", "NotIn")
            and is_in != (operator == "In")
        ):
            found.append(f"{label} {operator} {' '.join(values)}")
    return found


def _placeholders(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for path, container in _containers(workload):
            words = [*texts(container, "command"), *texts(container, "args")]
            written = {
                f"{path}.image": text(container, "image"),
                f"{path}.args": " ".join(filter(_PLACEHOLDER.search, words)),
            }
            for index, each in numbered(container, "env"):
                written[f"{path}.env[{index}]"] = text(each, "value")
            for where, value in written.items():
                if _PLACEHOLDER.search(value):
                    yield Hit(workload.manifest, where, value)
            for source in objects(container, "envFrom"):
                for config in subject.of_kind("ConfigMap"):
                    if config.name == text(source, "configMapRef", "name") and same_namespace(
                        config, workload.manifest
                    ):
                        for key, value in strings(config.value, "data").items():
                            if _PLACEHOLDER.search(value):
                                yield Hit(config, f"data.{key}", value)


RULES = (
    Rule(
        "quantity-malformed",
        Severity.ERROR,
        "A request, a limit, a sizeLimit or an autoscaler's target that is no quantity",
        "The API server refuses the manifest. Units are k, M, G and Ki, Mi, Gi, in this case and "
        "without a B; m is a thousandth.",
        "16Gi, 500m, 2 say.",
        _malformed,
    ),
    Rule(
        "pod-refused",
        Severity.ERROR,
        "Fields that contradict each other: a request above its limit, a part of a GPU, two mounts "
        "at one path, a mount or claim that the pod does not have, a volume of two kinds, two of "
        "one name",
        "The API server refuses the pod: a Deployment of it is made, and never gets one.",
        "Resolve the contradiction; `kubectl apply --dry-run=server` on a Pod tells the same.",
        _refused,
    ),
    Rule(
        "node-arch-wrong",
        Severity.ERROR,
        f"Our image on nodes of another architecture than {ARCHITECTURE}",
        "The image is built for x86-64 alone: its program does not start there.",
        f"nodeSelector: {{kubernetes.io/arch: {ARCHITECTURE}}}, as base/ has it.",
        _other_nodes,
    ),
    Rule(
        "placeholder-left",
        Severity.ERROR,
        "A name that begins with `your-` in an image, an argument or a variable of the pods",
        "It stands in our components for what only you know: the download or the pull fails, and "
        "the server never starts.",
        "Set it in your overlay: k8s/README.md.",
        _placeholders,
    ),
)
