"""Cases of `stoker k8s lint`: Security."""

from typing import Final

from tests.broken_manifests import POD, SERVER, pod, server, take
from tests.lint_cases.case import Case

CASES: Final = (
    Case(
        "token-mounted",
        [pod("automountServiceAccountToken", value=True)],
        "true",
        [take("Deployment", *POD, "automountServiceAccountToken")],
    ),
    Case(
        "service-links",
        [take("Deployment", *POD, "enableServiceLinks")],
        "not set, which means true",
        [pod("enableServiceLinks", value=False)],
    ),
    Case(
        "root-writable",
        [take("Deployment", *SERVER, "securityContext", "readOnlyRootFilesystem")],
        "not set",
        [server("securityContext", "readOnlyRootFilesystem", value=True)],
    ),
    Case(
        "user-unknown",
        [
            server("image", value="registry.example/inference:1@sha256:0"),
            take("Deployment", *POD, "securityContext", "runAsUser"),
        ],
        "not set",
        [take("Deployment", *POD, "securityContext", "runAsUser")],
    ),
    Case(
        "pod-security-restricted",
        [pod("hostNetwork", value=True)],
        "true",
        [pod("hostNetwork", value=False)],
    ),
)
