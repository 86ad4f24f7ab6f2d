"""Pod Security's level "restricted", field by field.

A namespace that enforces the level refuses the whole pod, so all of its containers are looked at,
not only the server's. `stoker k8s lint` asks it of a user's pods, the contract tests of every
rendered pod of ours. Knows nothing of Stoker.  Source: Kubernetes, "Pod Security Standards",
"baseline" and "restricted", policy version 1.34 and later.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from stoker.deploy.manifest import JsonObject, mapping, numbered, text, texts

VOLUMES: Final = frozenset(
    {
        *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image"),
        *("persistentVolumeClaim", "projected", "secret"),
    }
)
"""Kinds of volume that the level allows; `image` since Kubernetes 1.33."""
SYSCTLS: Final = frozenset(
    {
        *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies"),
        *("net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"),
        *("net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time"),
        *("net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl"),
        *("net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
    }
)
SECCOMP: Final = ("RuntimeDefault", "Localhost")
SELINUX_TYPES: Final = ("container_t", "container_init_t", "container_kvm_t", "container_engine_t")
APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"
"""Annotation of a pod before the field: the profile of the container whose name follows."""
HANDLERS: Final = (
    *(("startupProbe",), ("readinessProbe",), ("livenessProbe",)),
    *(("lifecycle", "preStop"), ("lifecycle", "postStart")),
)


def violations(pod: JsonObject, path: str) -> Iterator[tuple[str, str]]:
    """(path, what stands there) of everything in a PodSpec, itself at `path`, that is refused."""
    yield from _of_pod(pod, path)
    for part in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in numbered(pod, part):
            where = f"{path}.{part}[{index}]"
            yield from _of_container(where, container)
            yield from _of_user(pod, where, container)


def annotation_violations(annotations: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(annotation, what stands there) of a pod's annotations that are refused."""
    for name, profile in annotations.items():
        is_allowed = profile in ("", "runtime/default") or profile.startswith("localhost/")
        if name.startswith(APPARMOR) and not is_allowed:
            yield f"annotation {name}", profile


def _of_pod(pod: JsonObject, path: str) -> Iterator[tuple[str, str]]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if text(pod, field) == "true":
            yield f"{path}.{field}", "true"
    context = mapping(pod, "securityContext")
    if text(context, "runAsUser") == "0":
        yield f"{path}.securityContext.runAsUser", "0, which is root"
    if text(context, "runAsNonRoot") == "false":
        yield f"{path}.securityContext.runAsNonRoot", "false, for the pod"
    if text(context, "seccompProfile", "type") not in ("", *SECCOMP):
        profile = text(context, "seccompProfile", "type")
        yield f"{path}.securityContext.seccompProfile.type", f"{profile}, for the pod"
    for index, each in numbered(context, "sysctls"):
        if text(each, "name") not in SYSCTLS:
            yield f"{path}.securityContext.sysctls[{index}]", text(each, "name")
    yield from _of_either(context, f"{path}.securityContext")
    for index, volume in numbered(pod, "volumes"):
        for kind in sorted(volume.keys() - {"name"} - VOLUMES):
            yield f"{path}.volumes[{index}]", f"a volume of kind {kind}"


def _of_container(path: str, container: JsonObject) -> Iterator[tuple[str, str]]:
    context = mapping(container, "securityContext")
    if text(context, "privileged") == "true":
        yield f"{path}.securityContext.privileged", "true"
    if text(context, "allowPrivilegeEscalation") != "false":
        found = text(context, "allowPrivilegeEscalation") or "not set"
        yield f"{path}.securityContext.allowPrivilegeEscalation", f"{found}; expected false"
    if "ALL" not in texts(context, "capabilities", "drop"):
        dropped = ", ".join(texts(context, "capabilities", "drop")) or "nothing"
        yield f"{path}.securityContext.capabilities.drop", f"{dropped}; expected ALL"
    added = [each for each in texts(context, "capabilities", "add") if each != "NET_BIND_SERVICE"]
    if added:
        yield f"{path}.securityContext.capabilities.add", ", ".join(added)
    if text(context, "procMount") not in ("", "Default"):
        yield f"{path}.securityContext.procMount", text(context, "procMount")
    yield from _of_either(context, f"{path}.securityContext")
    for index, port in numbered(container, "ports"):
        if text(port, "hostPort") not in ("", "0"):
            yield f"{path}.ports[{index}].hostPort", text(port, "hostPort")
    for handler in HANDLERS:
        for action in ("httpGet", "tcpSocket"):
            if text(container, *handler, action, "host"):
                yield f"{path}.{'.'.join(handler)}.{action}.host", "a host"


def _of_either(context: JsonObject, path: str) -> Iterator[tuple[str, str]]:
    """What a pod and a container may both say."""
    if text(context, "appArmorProfile", "type") == "Unconfined":
        yield f"{path}.appArmorProfile.type", "Unconfined"
    selinux = mapping(context, "seLinuxOptions")
    if text(selinux, "type") not in ("", *SELINUX_TYPES):
        yield f"{path}.seLinuxOptions.type", text(selinux, "type")
    for field in ("user", "role"):
        if text(selinux, field):
            yield f"{path}.seLinuxOptions.{field}", text(selinux, field)
    if text(context, "windowsOptions", "hostProcess") == "true":
        yield f"{path}.windowsOptions.hostProcess", "true"


def _of_user(pod: JsonObject, path: str, container: JsonObject) -> Iterator[tuple[str, str]]:
    """What a container may leave to its pod; what the pod has wrong is told of the pod."""
    where = f"{path}.securityContext"
    shared, own = (mapping(each, "securityContext") for each in (pod, container))
    for field, allowed in ((("runAsNonRoot",), ("true",)), (("seccompProfile", "type"), SECCOMP)):
        here, above = text(own, *field), text(shared, *field)
        if here and here not in allowed:
            yield (
                f"{where}.{'.'.join(field)}",
                f"{here}, whatever the pod has ({above or 'nothing'})",
            )
        elif not here and not above:
            yield f"{where}.{'.'.join(field)}", "not set, here and for the pod"
    if text(own, "runAsUser") == "0":
        yield f"{where}.runAsUser", "0, which is root"
