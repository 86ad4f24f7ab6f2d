"""The Pod Security level `restricted`, and what we ask of a pod beyond it, as pure functions.

Source: Kubernetes, "Pod Security Standards", restricted, policy version 1.34 and later. Fields of
Windows, SELinux and AppArmor are left out: a pod here that sets one is refused by its mere name.
"""

from collections.abc import Iterator
from typing import Final

from stoker.deploy.manifest import at

from tests.contract.manifests import JsonObject, JsonValue, objects

VOLUMES: Final = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
SAFE_SYSCTLS: Final = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
_FOREIGN: Final = ("windowsOptions", "seLinuxOptions", "appArmorProfile")
_HANDLERS: Final = (
    ("startupProbe",),
    ("readinessProbe",),
    ("livenessProbe",),
    ("lifecycle", "postStart"),
    ("lifecycle", "preStop"),
)


def containers(spec: JsonValue) -> list[JsonObject]:
    """Every container of a pod, of every kind."""
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [each for kind in kinds for each in objects(spec, kind)]


def violations(spec: JsonValue) -> list[str]:
    """What the level `restricted` refuses in a pod's spec; one sentence each."""
    found = list(_of_pod(spec))
    for container in containers(spec):
        found += [f"{container.get('name')}: {each}" for each in _of_container(spec, container)]
    return found


def _of_pod(spec: JsonValue) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if at(spec, field):
            yield f"{field} is true"
    for volume in objects(spec, "volumes"):
        for kind in sorted(volume.keys() - {"name"} - VOLUMES):
            yield f"volume {volume.get('name')} is of kind {kind}"
    for each in objects(spec, "securityContext", "sysctls"):
        if each.get("name") not in SAFE_SYSCTLS:
            yield f"sysctl {each.get('name')} is not safe"
    for field in _FOREIGN:
        if at(spec, "securityContext", field) is not None:
            yield f"{field} is set"
    if at(spec, "securityContext", "runAsUser") == 0:
        yield "runAsUser is 0"


def _of_container(spec: JsonValue, container: JsonObject) -> Iterator[str]:
    def effective(*path: str) -> JsonValue:
        """The container's own value, else the pod's."""
        own = at(container, "securityContext", *path)
        return at(spec, "securityContext", *path) if own is None else own

    def own(*path: str) -> JsonValue:
        return at(container, "securityContext", *path)

    if effective("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if own("runAsUser") == 0:
        yield "runAsUser is 0"
    if effective("seccompProfile", "type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is neither RuntimeDefault nor Localhost"
    if own("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    dropped, added = own("capabilities", "drop") or [], own("capabilities", "add") or []
    assert isinstance(dropped, list)
    assert isinstance(added, list)
    if "ALL" not in dropped:
        yield "capabilities do not drop ALL"
    yield from (f"capability {each} is added" for each in added if each != "NET_BIND_SERVICE")
    if own("privileged"):
        yield "privileged is true"
    if own("procMount") not in (None, "Default"):
        yield "procMount is not the default"
    yield from (f"{field} is set" for field in _FOREIGN if own(field) is not None)
    for port in objects(container, "ports"):
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']} is taken"
    for handler in _HANDLERS:
        for action in ("httpGet", "tcpSocket"):
            if at(container, *handler, action, "host"):
                yield f"{handler[-1]} names a host"


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
