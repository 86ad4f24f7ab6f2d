"""Cases of `stoker k8s lint`: Pods that never run."""

from typing import Final

from stoker.deploy.manifest import JsonObject

from tests.broken_manifests import add, pod, put, server, variable
from tests.lint_cases.case import Case
from tests.lint_cases.pieces import AFFINITY, HPA, METRIC

SOURCE: Final = """
apiVersion: v1
kind: ConfigMap
metadata: {name: from}
data: {MODELS_SOURCE: "models:%s/models"}
"""


def on_arch(operator: str, value: str) -> JsonObject:
    """A term of node affinity about the nodes' architecture."""
    key = "kubernetes.io/arch"
    return {"matchExpressions": [{"key": key, "operator": operator, "values": [value]}]}


CASES: Final = (
    Case(
        "quantity-malformed",
        [server("resources", "limits", "memory", value="16gb")],
        "'16gb' is not a quantity",
        [server("resources", "limits", "memory", value="16e9")],
    ),
    Case(
        "quantity-malformed",
        [pod("volumes", 1, "emptyDir", "sizeLimit", value="1GB")],
        "'1GB' is not a quantity",
        [pod("volumes", 1, "emptyDir", "sizeLimit", value="1G")],
    ),
    Case(
        "quantity-malformed",
        [put(HPA, *METRIC, "pods", "target", "averageValue", value="65%")],
        "'65%' is not a quantity",
        [put(HPA, *METRIC, "pods", "target", "averageValue", value=0.65)],
    ),
    Case(
        "pod-refused",
        [server("resources", "requests", "memory", value="17Gi")],
        "request 17Gi, limit 16Gi",
        [server("resources", "requests", "memory", value="16384Mi")],
    ),
    Case(
        "pod-refused",
        [
            pod("initContainers", 0, "resources", "requests", "cpu", value="500m"),
            pod("initContainers", 0, "resources", "limits", "cpu", value="0.2"),
        ],
        "request 500m, limit 0.2",
        [pod("initContainers", 0, "resources", "requests", "cpu", value="500m")],
    ),
    Case(
        "pod-refused",
        [server("resources", "limits", "nvidia.com/gpu", value="0.5")],
        "0.5 of a device",
        [server("resources", "limits", "nvidia.com/gpu", value="2")],
    ),
    Case(
        "pod-refused",
        [server("volumeMounts", 2, "mountPath", value="/tmp")],
        "two mounts at /tmp",
        [server("volumeMounts", 2, "mountPath", value="/tmp/cache")],
    ),
    Case(
        "pod-refused",
        [server("volumeMounts", 2, "name", value="caches")],
        "caches, and the pod has no volume of that name",
        [
            server("volumeMounts", 2, "name", value="caches"),
            pod("volumes", 2, "name", value="caches"),
        ],
    ),
    Case(
        "pod-refused",
        [server("resources", "claims", value=[{"name": "gpu"}])],
        "gpu, and the pod has no claim of that name",
        [
            server("resources", "claims", value=[{"name": "gpu"}]),
            pod("resourceClaims", value=[{"name": "gpu", "resourceClaimTemplateName": "gpu"}]),
        ],
    ),
    Case(
        "pod-refused",
        [pod("volumes", 1, "persistentVolumeClaim", value={"claimName": "tmp"})],
        "tmp is of 2 kinds: emptyDir, persistentVolumeClaim",
        [pod("volumes", 1, "persistentVolumeClaim", value=None)],
    ),
    Case(
        "pod-refused",
        [pod("volumes", 3, value={"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}})],
        "two are called tmp",
        [pod("volumes", 3, value={"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}})],
    ),
    Case(
        "node-arch-wrong",
        [pod("nodeSelector", value={"kubernetes.io/arch": "arm64"})],
        "kubernetes.io/arch: arm64",
        [pod("nodeSelector", value={"kubernetes.io/arch": "amd64", "disk": "arm64"})],
    ),
    Case(
        "node-arch-wrong",
        [put("Deployment", *AFFINITY, value=[on_arch("In", "arm64"), on_arch("NotIn", "amd64")])],
        "kubernetes.io/arch In arm64, kubernetes.io/arch NotIn amd64",
        [put("Deployment", *AFFINITY, value=[on_arch("In", "arm64"), on_arch("NotIn", "arm64")])],
    ),
    Case(
        "placeholder-left",
        [variable("MODELS_SOURCE", "models:your-bucket/models")],
        "models:your-bucket/models",
        [variable("MODELS_SOURCE", "models:all-your-models/models")],
    ),
    Case(
        "placeholder-left",
        [
            pod("initContainers", 0, value={"name": "fetch", "image": "rclone:1"}),
            pod("initContainers", 0, "envFrom", 0, "configMapRef", "name", value="from"),
            add(SOURCE % "your-bucket"),
        ],
        "models:your-bucket/models",
        [
            pod("initContainers", 0, value={"name": "fetch", "image": "rclone:1"}),
            pod("initContainers", 0, "envFrom", 0, "configMapRef", "name", value="from"),
            add(SOURCE % "ours"),
        ],
    ),
    Case(
        "placeholder-left",
        [server("image", value="your-registry/stoker:0.1.0")],
        "your-registry/stoker:0.1.0",
        [server("image", value="registry.example/yours/stoker:0.1.0")],
    ),
)
