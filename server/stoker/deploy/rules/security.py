"""Pod Security's level "restricted", field by field, and what we ask beside it.

A namespace that enforces the level refuses the whole pod, so all of its containers are looked at,
not only the server's.  Source: Kubernetes, "Pod Security Standards"; reference, Kubernetes
production practice, section 8.1.
"""

from collections.abc import Iterator
from typing import Final

from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.manifest import JsonObject, at, mapping, numbered, strings, text, texts
from stoker.deploy.workload import Workload

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
HANDLERS: Final = (
    *(("startupProbe",), ("readinessProbe",), ("livenessProbe",)),
    *(("lifecycle", "preStop"), ("lifecycle", "postStart")),
)


def all_containers(workload: Workload) -> Iterator[tuple[str, JsonObject]]:
    """(path, container) of every container of the pods, init containers included."""
    for part in ("initContainers", "containers", "ephemeralContainers"):
        for index, each in numbered(workload.pod, part):
            yield f"{workload.path}.{part}[{index}]", each


def restricted_violations(workload: Workload) -> Iterator[tuple[str, str]]:
    """(path, what stands there) of everything that the level "restricted" refuses."""
    yield from _of_pod(workload)
    for path, container in all_containers(workload):
        yield from _of_container(path, container)
        yield from _of_user(workload, path, container)


def _of_pod(workload: Workload) -> Iterator[tuple[str, str]]:
    pod, path = workload.pod, workload.path
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if text(pod, field) == "true":
            yield f"{path}.{field}", "true"
    if text(pod, "securityContext", "runAsUser") == "0":
        yield f"{path}.securityContext.runAsUser", "0, which is root"
    for index, each in numbered(pod, "securityContext", "sysctls"):
        if text(each, "name") not in SYSCTLS:
            yield f"{path}.securityContext.sysctls[{index}]", text(each, "name")
    if text(pod, "securityContext", "appArmorProfile", "type") == "Unconfined":
        yield f"{path}.securityContext.appArmorProfile.type", "Unconfined"
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
    if text(context, "appArmorProfile", "type") == "Unconfined":
        yield f"{path}.securityContext.appArmorProfile.type", "Unconfined"
    for index, port in numbered(container, "ports"):
        if text(port, "hostPort") not in ("", "0"):
            yield f"{path}.ports[{index}].hostPort", text(port, "hostPort")
    for handler in HANDLERS:
        for action in ("httpGet", "tcpSocket"):
            if text(container, *handler, action, "host"):
                yield f"{path}.{'.'.join(handler)}.{action}.host", "a host"


def _of_user(workload: Workload, path: str, container: JsonObject) -> Iterator[tuple[str, str]]:
    """What a container may leave to its pod."""
    where = f"{path}.securityContext"
    shared, own = (mapping(each, "securityContext") for each in (workload.pod, container))
    non_root = text(own, "runAsNonRoot") or text(shared, "runAsNonRoot")
    if non_root != "true":
        yield f"{where}.runAsNonRoot", f"{non_root or 'not set'}, here and for the pod"
    if text(own, "runAsUser") == "0":
        yield f"{where}.runAsUser", "0, which is root"
    profile = text(own, "seccompProfile", "type") or text(shared, "seccompProfile", "type")
    if profile not in ("RuntimeDefault", "Localhost"):
        yield f"{where}.seccompProfile.type", f"{profile or 'not set'}, here and for the pod"


def _restricted(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for path, found in restricted_violations(workload):
            yield Hit(workload.manifest, path, found)


def _token(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        if workload.is_runtime:
            continue  # a runtime of KServe has no such field
        written = text(workload.pod, "automountServiceAccountToken")
        account = text(workload.pod, "serviceAccountName")
        accounts = [
            text(each.value, "automountServiceAccountToken")
            for each in subject.of_kind("ServiceAccount")
            if each.name == account and each.namespace == workload.manifest.namespace
        ]
        if written == "false" or (not written and "false" in accounts):
            continue
        path = f"{workload.path}.automountServiceAccountToken"
        yield Hit(workload.manifest, path, written or "not set")


def _service_links(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        written = text(workload.pod, "enableServiceLinks")
        if not workload.is_runtime and written != "false":
            path = f"{workload.path}.enableServiceLinks"
            yield Hit(workload.manifest, path, written or "not set, which means true")


def _writable_root(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            context = strings(server.value, "securityContext")
            if context.get("readOnlyRootFilesystem") != "true":
                path = f"{server.path}.securityContext.readOnlyRootFilesystem"
                found = context.get("readOnlyRootFilesystem") or "not set"
                yield Hit(workload.manifest, path, found)


def _numeric_user(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            if server.image.is_ours or workload.is_runtime:
                continue  # the image has a numeric user
            own = at(server.value, "securityContext", "runAsUser")
            if own is None and at(workload.pod, "securityContext", "runAsUser") is None:
                yield Hit(workload.manifest, f"{server.path}.securityContext.runAsUser", "not set")


RULES = (
    Rule(
        "pod-security-restricted",
        Severity.ERROR,
        "A field that Pod Security's level `restricted` refuses",
        "A namespace that enforces the level does not admit the pod. Nothing that the server does, "
        "GPUs included, needs more.",
        "As base/deployment.yaml has it.",
        _restricted,
    ),
    Rule(
        "token-mounted",
        Severity.WARNING,
        "A pod with a token of its service account",
        "The server never talks to the API server; whoever gets into it could.",
        "automountServiceAccountToken: false, in the pod.",
        _token,
    ),
    Rule(
        "service-links",
        Severity.WARNING,
        "enableServiceLinks not false",
        "Every Service of the namespace adds variables; those of one called stoker-... begin like "
        "the server's settings.",
        "enableServiceLinks: false.",
        _service_links,
    ),
    Rule(
        "root-writable",
        Severity.WARNING,
        "A server whose root file system is not read-only",
        "What gets into the server can stay; the image needs no write but to its volumes.",
        "readOnlyRootFilesystem: true, with volumes for /tmp and /var/cache/stoker.",
        _writable_root,
    ),
    Rule(
        "user-unknown",
        Severity.WARNING,
        "No runAsUser for an image that is not ours by name",
        "The kubelet cannot tell whether a user given by name is root, and does not start the "
        "container under runAsNonRoot.",
        "runAsUser: 10001, or an image with a numeric user.",
        _numeric_user,
    ),
)
