"""Every line of Pod Security's level "restricted" is looked at, in every container of the pods."""

import pytest
from stoker.deploy.manifest import JsonValue
from stoker.deploy.restricted import APPARMOR

from tests.broken_manifests import POD, SERVER, Edit, add, edited, findings, pod, put, server, take

RULE = "pod-security-restricted"
CONTEXT = (*SERVER, "securityContext")
FIRST = "spec.template.spec.containers[0]"
ANNOTATIONS = ("spec", "template", "metadata", "annotations")


def hits(*edits: Edit) -> list[tuple[str, str]]:
    """(last steps of the path, what was found) of the rule's findings."""
    found = findings(edited(*edits)).get(RULE, [])
    return [(each.hit.path, each.hit.found) for each in found]


@pytest.mark.parametrize(
    ("edit", "path", "found"),
    [
        (pod("hostNetwork", value=True), "hostNetwork", "true"),
        (pod("hostPID", value=True), "hostPID", "true"),
        (pod("hostIPC", value=True), "hostIPC", "true"),
        (pod("securityContext", "runAsUser", value=0), "runAsUser", "0, which is root"),
        (server("securityContext", "runAsUser", value=0), "runAsUser", "0, which is root"),
        (pod("securityContext", "runAsNonRoot", value=False), "runAsNonRoot", "false"),
        (server("securityContext", "runAsNonRoot", value=False), "runAsNonRoot", "false"),
        (take("Deployment", *POD, "securityContext", "runAsNonRoot"), "runAsNonRoot", "not set"),
        (take("Deployment", *POD, "securityContext", "seccompProfile"), "type", "not set"),
        (
            server("securityContext", "seccompProfile", value={"type": "Unconfined"}),
            "type",
            "Unconfined",
        ),
        (
            pod("securityContext", "appArmorProfile", value={"type": "Unconfined"}),
            "appArmorProfile.type",
            "Unconfined",
        ),
        (
            pod("securityContext", "sysctls", value=[{"name": "kernel.msgmax"}]),
            "sysctls[0]",
            "kernel.msgmax",
        ),
        (
            pod("securityContext", "seLinuxOptions", value={"type": "spc_t"}),
            "seLinuxOptions.type",
            "spc_t",
        ),
        (
            server("securityContext", "seLinuxOptions", value={"user": "system_u"}),
            "seLinuxOptions.user",
            "system_u",
        ),
        (
            server("securityContext", "seLinuxOptions", value={"role": "system_r"}),
            "seLinuxOptions.role",
            "system_r",
        ),
        (
            server("securityContext", "windowsOptions", value={"hostProcess": True}),
            "windowsOptions.hostProcess",
            "true",
        ),
        (
            server("livenessProbe", value={"tcpSocket": {"port": 1, "host": "x"}}),
            "livenessProbe.tcpSocket.host",
            "a host",
        ),
        (server("securityContext", "privileged", value=True), "privileged", "true"),
        (take("Deployment", *CONTEXT, "allowPrivilegeEscalation"), "Escalation", "not set"),
        (server("securityContext", "allowPrivilegeEscalation", value=True), "Escalation", "true"),
        (take("Deployment", *CONTEXT, "capabilities"), "capabilities.drop", "nothing"),
        (server("securityContext", "capabilities", "drop", value=["KILL"]), "drop", "KILL"),
        (
            server("securityContext", "capabilities", "add", value=["NET_ADMIN"]),
            "capabilities.add",
            "NET_ADMIN",
        ),
        (server("securityContext", "procMount", value="Unmasked"), "procMount", "Unmasked"),
        (server("ports", 0, "hostPort", value=8000), "ports[0].hostPort", "8000"),
        (server("livenessProbe", "httpGet", "host", value="x"), "httpGet.host", "a host"),
        (
            server("lifecycle", value={"preStop": {"httpGet": {"host": "x"}}}),
            "preStop.httpGet.host",
            "a host",
        ),
        (pod("volumes", 1, value={"name": "tmp", "hostPath": {"path": "/"}}), "volumes[1]", "host"),
        (
            put("Deployment", *ANNOTATIONS, f"{APPARMOR}stoker", value="unconfined"),
            f"annotation {APPARMOR}stoker",
            "unconfined",
        ),
    ],
)
def test_a_field_that_the_level_refuses_is_found(edit: Edit, path: str, found: str) -> None:
    assert any(where.endswith(path) and found in what for where, what in hits(edit)), hits(edit)


@pytest.mark.parametrize(
    "edit",
    [
        server("securityContext", "capabilities", "add", value=["NET_BIND_SERVICE"]),
        pod("securityContext", "sysctls", value=[{"name": "net.ipv4.tcp_keepalive_time"}]),
        pod("securityContext", "seccompProfile", value={"type": "Localhost"}),
        pod("volumes", 1, value={"name": "tmp", "image": {"reference": "models:1"}}),
        pod("hostNetwork", value=False),
        pod("securityContext", "seLinuxOptions", value={"type": "container_t", "level": "s0"}),
        pod("securityContext", "appArmorProfile", value={"type": "RuntimeDefault"}),
        server("ports", 0, "hostPort", value=0),
        server("securityContext", "procMount", value="Default"),
        put("Deployment", *ANNOTATIONS, f"{APPARMOR}stoker", value="localhost/stoker"),
    ],
)
def test_what_the_level_allows_is_no_finding(edit: Edit) -> None:
    assert hits(edit) == []


def test_a_container_may_say_what_its_pod_does_not() -> None:
    own: JsonValue = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert isinstance(own, dict)
    edits = [server("securityContext", key, value=value) for key, value in own.items()]
    assert hits(take("Deployment", *POD, "securityContext"), *edits) == []


def test_a_container_that_contradicts_its_pod_is_told_apart_from_one_that_inherits() -> None:
    """The pod's `true` used to be told as `false, here and for the pod`."""
    assert hits(server("securityContext", "runAsNonRoot", value=False)) == [
        (f"{FIRST}.securityContext.runAsNonRoot", "false, whatever the pod has (true)")
    ]
    assert hits(take("Deployment", *POD, "securityContext", "seccompProfile")) == [
        (f"{FIRST}.securityContext.seccompProfile.type", "not set, here and for the pod")
    ]


def test_a_pod_that_allows_root_is_refused_whatever_its_containers_say() -> None:
    edits = [
        pod("securityContext", "runAsNonRoot", value=False),
        server("securityContext", "runAsNonRoot", value=True),
    ]
    path = "spec.template.spec.securityContext.runAsNonRoot"
    assert hits(*edits) == [(path, "false, for the pod")]


def test_init_containers_are_looked_at_too() -> None:
    container: JsonValue = {"name": "fetch", "image": "rclone:1"}
    found = hits(pod("initContainers", 0, value=container))
    assert {path.partition(".initContainers[0]")[1] for path, _ in found} == {".initContainers[0]"}
    assert len(found) == 2  # escalation and capabilities; the rest is the pod's


def test_pods_without_stoker_are_left_alone() -> None:
    other = """
apiVersion: v1
kind: Pod
metadata: {name: other}
spec: {hostNetwork: true, containers: [{name: c, image: nginx}]}
"""
    assert hits(add(other)) == []


def test_a_token_is_off_where_the_service_account_says_so() -> None:
    without = take("Deployment", *POD, "automountServiceAccountToken")
    assert "token-mounted" not in findings(edited(without))
    account = put("ServiceAccount", "automountServiceAccountToken", value=True)
    assert "token-mounted" in findings(edited(without, account))
