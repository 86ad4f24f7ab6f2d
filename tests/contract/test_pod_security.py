"""Every pod of k8s/ is admitted where the level is `restricted`, by rules that can fail."""

import copy
from typing import cast

import pytest
from stoker.deploy.manifest import at

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
from tests.contract.pod_security import containers, house_rules, violations

every_target = pytest.mark.parametrize("target", [*TARGETS, *COMBINATIONS], indirect=True)


@every_target
def test_pods_keep_to_the_restricted_profile(target: str) -> None:
    assert violations(at(pod(target), "spec")) == []


@every_target
def test_pods_keep_to_the_rules_of_the_house(target: str) -> None:
    assert house_rules(at(pod(target), "spec")) == []


def test_a_pod_that_fills_a_volume_keeps_to_them_too() -> None:
    (filling,) = documents((K8S / "components" / "models-pvc" / "fill.yaml").read_text())
    assert violations(at(filling, "spec")) == []
    assert house_rules(at(filling, "spec")) == []


def test_runtimes_of_kserve_keep_to_the_profile_in_the_container_alone() -> None:
    runtimes = of_kind("kserve", "ClusterServingRuntime")
    assert len(runtimes) == 4
    for runtime in runtimes:
        assert violations(at(runtime, "spec")) == []
        for container in objects(runtime, "spec", "containers"):
            assert at(container, "securityContext", "readOnlyRootFilesystem") is True


def changed(*path: str | int, to: JsonValue) -> JsonObject:
    """A good pod with an init container, but for the value at `path`; None takes it away."""
    spec = copy.deepcopy(cast("JsonObject", at(pod("components/models-s3"), "spec")))
    assert violations(spec) == []
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
OWN = (*SERVER, "securityContext")
INIT = ("initContainers", 0, "securityContext")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("hostNetwork",), True, "hostNetwork is true"),
        (("hostPID",), True, "hostPID is true"),
        (("hostIPC",), True, "hostIPC is true"),
        (("securityContext", "runAsNonRoot"), None, "stoker: runAsNonRoot is not true"),
        (("securityContext", "runAsNonRoot"), False, "models: runAsNonRoot is not true"),
        ((*OWN, "runAsNonRoot"), False, "stoker: runAsNonRoot is not true"),
        (("securityContext", "runAsUser"), 0, "runAsUser is 0"),
        ((*OWN, "runAsUser"), 0, "stoker: runAsUser is 0"),
        (
            ("securityContext", "seccompProfile"),
            None,
            "stoker: seccompProfile is neither RuntimeDefault nor Localhost",
        ),
        (
            (*INIT, "seccompProfile"),
            {"type": "Unconfined"},
            "models: seccompProfile is neither RuntimeDefault nor Localhost",
        ),
        (
            (*OWN, "allowPrivilegeEscalation"),
            None,
            "stoker: allowPrivilegeEscalation is not false",
        ),
        (
            (*INIT, "allowPrivilegeEscalation"),
            True,
            "models: allowPrivilegeEscalation is not false",
        ),
        ((*OWN, "capabilities"), None, "stoker: capabilities do not drop ALL"),
        ((*OWN, "capabilities", "drop"), ["KILL"], "stoker: capabilities do not drop ALL"),
        ((*OWN, "capabilities", "add"), ["SYS_PTRACE"], "stoker: capability SYS_PTRACE is added"),
        ((*OWN, "privileged"), True, "stoker: privileged is true"),
        ((*OWN, "procMount"), "Unmasked", "stoker: procMount is not the default"),
        ((*OWN, "seLinuxOptions"), {"type": "spc_t"}, "stoker: seLinuxOptions is set"),
        (("securityContext", "appArmorProfile"), {"type": "x"}, "appArmorProfile is set"),
        (
            ("securityContext", "sysctls"),
            [{"name": "kernel.msgmax", "value": "1"}],
            "sysctl kernel.msgmax is not safe",
        ),
        (
            ("volumes",),
            [{"name": "node", "hostPath": {"path": "/"}}],
            "volume node is of kind hostPath",
        ),
        (
            (*SERVER, "ports"),
            [{"containerPort": 8000, "hostPort": 80}],
            "stoker: hostPort 80 is taken",
        ),
        (
            (*SERVER, "readinessProbe", "httpGet", "host"),
            "example.com",
            "stoker: readinessProbe names a host",
        ),
        (
            (*SERVER, "livenessProbe"),
            {"tcpSocket": {"port": 1, "host": "10.0.0.1"}},
            "stoker: livenessProbe names a host",
        ),
        (
            (*SERVER, "lifecycle"),
            {"preStop": {"httpGet": {"port": 1, "host": "10.0.0.1"}}},
            "stoker: preStop names a host",
        ),
    ],
    ids=str,
)
def test_the_restricted_profile_refuses(
    path: tuple[str | int, ...], value: JsonValue, expected: str
) -> None:
    assert expected in violations(changed(*path, to=value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*OWN, "capabilities", "add"), ["NET_BIND_SERVICE"]),
        (("securityContext", "seccompProfile"), {"type": "Localhost", "localhostProfile": "p"}),
        (("securityContext", "sysctls"), [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]),
        (("hostNetwork",), False),
    ],
    ids=str,
)
def test_the_restricted_profile_allows(path: tuple[str | int, ...], value: JsonValue) -> None:
    assert violations(changed(*path, to=value)) == []


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
