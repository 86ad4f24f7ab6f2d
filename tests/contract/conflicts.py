"""What two components would break in each other, found in the rendered manifests.

A pure function over manifests: for those that come out of kustomize without complaint and are
valid one by one, and still make no service.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from stoker.deploy.manifest import at

from tests.contract.manifests import JsonObject, JsonValue, objects, strings, text

OF_THE_CLUSTER: Final = frozenset({"ClusterServingRuntime", "Namespace", "PriorityClass"})
"""Kinds that are in no namespace."""


def conflicts(manifests: Sequence[JsonObject]) -> list[str]:
    """One sentence for each."""
    found = [*_namespaces(manifests), *_autoscaling(manifests)]
    for deployment in (each for each in manifests if each["kind"] == "Deployment"):
        found += _pod(at(deployment, "spec", "template", "spec"))
    return found


def _namespaces(manifests: Sequence[JsonObject]) -> Iterator[str]:
    inside = [each for each in manifests if each["kind"] not in OF_THE_CLUSTER]
    named = {str(at(each, "metadata", "namespace") or "none") for each in inside}
    if len(named) > 1:
        yield f"what belongs together is in the namespaces {' and '.join(sorted(named))}"


def _autoscaling(manifests: Sequence[JsonObject]) -> Iterator[str]:
    scaled = [
        text(each, "spec", "scaleTargetRef", "name")
        for each in manifests
        if each["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}
    ]
    for name, count in Counter(scaled).items():
        if count > 1:
            yield f"{count} autoscalers of {name}"
    for each in manifests:
        is_scaled = each["kind"] == "Deployment" and text(each, "metadata", "name") in scaled
        if is_scaled and at(each, "spec", "replicas") is not None:
            yield "replicas are set beside an autoscaler"


def _pod(spec: JsonValue) -> Iterator[str]:
    for volume in objects(spec, "volumes"):
        kinds = sorted(volume.keys() - {"name"})
        if len(kinds) != 1:
            yield f"volume {volume['name']} is {' and '.join(kinds)}"
    for container in objects(spec, "initContainers") + objects(spec, "containers"):
        name = text(container, "name")
        arguments = at(container, "args") or []
        assert isinstance(arguments, list)
        mounts = [text(each, "mountPath") for each in objects(container, "volumeMounts")]
        yield from _repeated(f"{name} has the argument", map(str, arguments))
        yield from _repeated(f"{name} mounts at", mounts)
        limits = strings(container, "resources", "limits")
        devices = [each for each in limits if "/" in each]
        devices += [f"claim {each['name']}" for each in objects(container, "resources", "claims")]
        if len(devices) > 1:
            yield f"{name} asks for {' and '.join(devices)}"


def _repeated(what: str, values: Iterable[str]) -> Iterator[str]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{what} {value} {count} times"
