"""Pod Security's level "restricted", and what we ask beside it.

Source: reference, Kubernetes production practice, section 8.1.
"""

from collections.abc import Iterator

from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.manifest import at, strings, text
from stoker.deploy.restricted import annotation_violations, violations


def _restricted(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        refused = violations(workload.pod, workload.path)
        for path, found in (*refused, *annotation_violations(workload.annotations)):
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
