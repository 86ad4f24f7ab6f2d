"""Cases of `stoker k8s lint`: Memory, CPU and volumes."""

from typing import Final

from tests.broken_manifests import SERVER, add, drop, measurement, pod, put, server, take, variable
from tests.lint_cases.case import Case
from tests.lint_cases.pieces import CLAIMED, HPA

CLAIM: Final = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: models}
spec: {accessModes: [%s]}
"""

CASES: Final = (
    Case(
        "cpu-limit-missing",
        [take("Deployment", *SERVER, "resources", "limits", "cpu")],
        "no cpu limit",
        [take("Deployment", *SERVER, "resources", "requests", "cpu")],
    ),
    Case(
        "memory-limit-missing",
        [take("Deployment", *SERVER, "resources", "limits", "memory")],
        "no memory limit",
        [take("Deployment", *SERVER, "resources", "requests", "memory")],
    ),
    Case(
        "memory-limit-missing",
        [server("resources", "limits", "memory", value=None)],
        "no memory limit",
        # Another rule's matter: it is there, and cannot be read.
        [server("resources", "limits", "memory", value="16gb")],
    ),
    Case(
        "memory-limit-below-estimate",
        [variable("STOKER_MAX_BUFFERED_BYTES", "8GiB")],
        "16Gi; process 105Mi + buffered 16Gi = 16489Mi",
        [variable("STOKER_MAX_BUFFERED_BYTES", "7GiB")],
    ),
    Case(
        "memory-limit-below-estimate",
        [server("resources", "limits", "memory", value="6Gi")],
        "6Gi; process 4Gi + buffered 3Gi",
        [server("resources", "limits", "memory", value="9Gi")],
        measured=measurement(peak_bytes=4 << 30),
    ),
    Case(
        "memory-limit-below-estimate",
        [
            pod("volumes", 2, "emptyDir", value={"medium": "Memory", "sizeLimit": "8Gi"}),
        ],
        "volumes 8Gi",
        [pod("volumes", 2, "emptyDir", value={"medium": "Memory", "sizeLimit": "7Gi"})],
    ),
    Case(
        "cache-mount-missing",
        [take("Deployment", *SERVER, "volumeMounts", 2)],
        "no writable volume holds /var/cache/stoker",
        [
            take("Deployment", *SERVER, "volumeMounts", 2),
            server("securityContext", "readOnlyRootFilesystem", value=False),
        ],
    ),
    Case(
        "cache-mount-missing",
        [server("volumeMounts", 1, "readOnly", value=True)],
        "no writable volume holds /tmp",
        [server("volumeMounts", 1, "readOnly", value=False)],
    ),
    Case(
        "cache-mount-missing",
        [variable("STOKER_TRT_CACHE_DIR", "/engines")],
        "no writable volume holds /engines",
        [variable("STOKER_TRT_CACHE_DIR", "/var/cache/stoker/engines")],
    ),
    Case(
        "sub-path-mount",
        [
            server("volumeMounts", 0, "subPath", value="stoker.yaml"),
            server("volumeMounts", 0, "mountPath", value="/etc/stoker/stoker.yaml"),
        ],
        "stoker.yaml of a configMap",
        [server("volumeMounts", 1, "subPath", value="tmp")],
    ),
    Case(
        "volume-for-one-node",
        [pod("volumes", 3, value=CLAIMED), add(CLAIM % "ReadWriteOnce")],
        "models, ReadWriteOnce, for 2 replicas",
        [pod("volumes", 3, value=CLAIMED), add(CLAIM % "ReadOnlyMany, ReadWriteOnce")],
    ),
    Case(
        "volume-for-one-node",
        [pod("volumes", 3, value=CLAIMED), add(CLAIM % "ReadWriteOncePod")],
        "ReadWriteOncePod",
        [
            pod("volumes", 3, value=CLAIMED),
            add(CLAIM % "ReadWriteOncePod"),
            drop(HPA),
            put("Deployment", "spec", "replicas", value=1),
        ],
    ),
    Case(
        "empty-dir-unbounded",
        [pod("volumes", 1, "emptyDir", value={})],
        "tmp without a limit",
        [pod("volumes", 1, "emptyDir", value={"sizeLimit": "1Gi"})],
    ),
    Case(
        "ephemeral-storage-short",
        [server("resources", "limits", "ephemeral-storage", value="8Gi")],
        "8Gi; its emptyDirs may hold 9Gi",
        [server("resources", "limits", "ephemeral-storage", value="9Gi")],
    ),
    Case(
        "ephemeral-storage-short",
        [
            pod("volumes", 1, "emptyDir", "sizeLimit", value="20Gi"),
            pod("initContainers", 0, "resources", "limits", "ephemeral-storage", value="27Gi"),
        ],
        "27Gi; its emptyDirs may hold 28Gi",
        [
            pod("volumes", 1, "emptyDir", "sizeLimit", value="20Gi"),
            pod("initContainers", 0, "resources", "limits", "ephemeral-storage", value="28Gi"),
        ],
    ),
)
