"""Every pod of k8s/ is admitted where the level is `restricted`, and keeps our own rules beside."""

import copy
from collections.abc import Iterator
from typing import cast

import pytest
from stoker.deploy.manifest import at
from stoker.deploy.restricted import violations

from tests.contract.combinations import COMBINATIONS
from tests.contract.manifests import (
    K8S,
    TARGETS,
    JsonObject,
    JsonValue,
    documents,
    objects,
    of_kind,
    pod,
)


def containers(spec: JsonValue) -> list[JsonObject]:
    """Every container of a pod, of every kind."""
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [each for kind in kinds for each in objects(spec, kind)]


def refused(spec: JsonValue) -> list[tuple[str, str]]:
    """What the level `restricted` refuses; that lint's function sees every field of it is shown by
    tests/unit/test_lint_security.py."""
    assert containers(spec), "nothing is refused in nothing"
    return list(violations(cast("JsonObject", spec), "spec"))


def house_rules(spec: JsonValue) -> list[str]:
    """What we ask of every pod of ours beyond that level; one sentence each."""
    return list(_house_rules(spec))


def _house_rules(spec: JsonValue) -> Iterator[str]:
    if at(spec, "automountServiceAccountToken") is not False:
        yield "the token of the service account is mounted"
    if at(spec, "enableServiceLinks") is not False:
        yield "variables of Services are injected"
    for field in ("runAsUser", "runAsGroup", "fsGroup"):
        if not at(spec, "securityContext", field):
            yield f"{field} is not a fixed number above 0"
    if at(spec, "securityContext", "fsGroupChangePolicy") != "OnRootMismatch":
        yield "fsGroupChangePolicy walks through large volumes at each start"
    for container in containers(spec):
        name = container.get("name")
        if at(container, "securityContext", "readOnlyRootFilesystem") is not True:
            yield f"{name}: readOnlyRootFilesystem is not true"
        if any(each.get("name") == "NVIDIA_VISIBLE_DEVICES" for each in objects(container, "env")):
            yield f"{name}: NVIDIA_VISIBLE_DEVICES is the device plugin's"


every_target = pytest.mark.parametrize("target", [*TARGETS, *COMBINATIONS], indirect=True)


@every_target
def test_pods_keep_to_the_restricted_profile(target: str) -> None:
    assert refused(at(pod(target), "spec")) == []


@every_target
def test_pods_keep_to_the_rules_of_the_house(target: str) -> None:
    assert house_rules(at(pod(target), "spec")) == []


def test_a_pod_that_fills_a_volume_keeps_to_them_too() -> None:
    (filling,) = documents((K8S / "components" / "models-pvc" / "fill.yaml").read_text())
    assert refused(at(filling, "spec")) == []
    assert house_rules(at(filling, "spec")) == []


def test_runtimes_of_kserve_keep_to_the_profile_in_the_container_alone() -> None:
    runtimes = of_kind("kserve", "ClusterServingRuntime")
    assert len(runtimes) == 4
    for runtime in runtimes:
        assert refused(at(runtime, "spec")) == []
        for container in objects(runtime, "spec", "containers"):
            assert at(container, "securityContext", "readOnlyRootFilesystem") is True


def changed(*path: str | int, to: JsonValue) -> JsonObject:
    """A good pod with an init container, but for the value at `path`; None takes it away."""
    spec = copy.deepcopy(cast("JsonObject", at(pod("components/models-s3"), "spec")))
    assert len(containers(spec)) == 2
    place: JsonValue = spec
    for step in path[:-1]:
        if isinstance(place, dict) and isinstance(step, str):
            place = place.setdefault(step, {})
        elif isinstance(place, list) and isinstance(step, int):
            place = place[step]
    assert isinstance(place, dict)
    place[str(path[-1])] = to
    if to is None:
        del place[str(path[-1])]
    return spec


SERVER = ("containers", 0)
INIT = ("initContainers", 0, "securityContext")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (
            ("automountServiceAccountToken",),
            None,
            "the token of the service account is mounted",
        ),
        (("enableServiceLinks",), True, "variables of Services are injected"),
        (("securityContext", "runAsUser"), None, "runAsUser is not a fixed number above 0"),
        (("securityContext", "runAsGroup"), 0, "runAsGroup is not a fixed number above 0"),
        (("securityContext", "fsGroup"), None, "fsGroup is not a fixed number above 0"),
        (
            ("securityContext", "fsGroupChangePolicy"),
            "Always",
            "fsGroupChangePolicy walks through large volumes at each start",
        ),
        (
            (*INIT, "readOnlyRootFilesystem"),
            None,
            "models: readOnlyRootFilesystem is not true",
        ),
        (
            (*SERVER, "env"),
            [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}],
            "stoker: NVIDIA_VISIBLE_DEVICES is the device plugin's",
        ),
    ],
    ids=str,
)
def test_the_rules_of_the_house_refuse(
    path: tuple[str | int, ...], value: JsonValue, expected: str
) -> None:
    assert expected in house_rules(changed(*path, to=value))
