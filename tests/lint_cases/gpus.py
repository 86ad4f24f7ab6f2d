"""Cases of `stoker k8s lint`: GPUs."""

from typing import Final

from stoker.deploy.manifest import JsonValue

from tests.broken_manifests import (
    POD,
    SERVER,
    add,
    measurement,
    pod,
    put,
    server,
    setting,
    take,
    variable,
)
from tests.lint_cases.case import Case
from tests.lint_cases.pieces import AFFINITY, NO_GPU

GPU_TERM: Final[JsonValue] = {
    "matchExpressions": [{"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["1000"]}]
}
OTHER_TERM: Final[JsonValue] = {
    "matchExpressions": [{"key": "nvidia.com/gpu.memory", "operator": "DoesNotExist"}]
}
HARD_SPREAD: Final = (
    pod("topologySpreadConstraints", 0, "whenUnsatisfiable", value="DoNotSchedule"),
)
TEMPLATE: Final = """
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: stoker-gpu}
spec: {spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: %s}}]}}}
"""
CLAIMED_CARD: Final[JsonValue] = {"name": "card", "resourceClaimName": "network-card"}
CLAIMED_GPU: Final = (
    pod("resourceClaims", 0, value={"name": "gpu", "resourceClaimTemplateName": "stoker-gpu"}),
)

CASES: Final = (
    Case(
        "visible-devices-set",
        [variable("NVIDIA_VISIBLE_DEVICES", "all")],
        "all",
        [variable("CUDA_VISIBLE_DEVICES", "0")],
    ),
    Case(
        "cpu-image-with-gpu",
        [server("image", value="registry.example/stoker:0.1.0-cpu")],
        "stoker:0.1.0-cpu with nvidia.com/gpu: 1",
        [server("image", value="registry.example/stoker-cpu-tools/stoker:0.1.0")],
    ),
    Case(
        "gpu-request-differs",
        [server("resources", "requests", "nvidia.com/gpu", value="2")],
        "request 2, limit 1",
        [server("resources", "requests", "nvidia.com/gpu", value=1)],
    ),
    Case(
        "gpu-required-and-missing",
        [take("Deployment", *SERVER, "resources", "limits", "nvidia.com/gpu")],
        "device gpu",
        [
            take("Deployment", *SERVER, "resources", "limits", "nvidia.com/gpu"),
            pod("resourceClaims", value=[{"name": "gpu", "resourceClaimTemplateName": "gpu"}]),
        ],
    ),
    Case(
        "gpu-required-and-missing",
        [
            take("Deployment", *SERVER, "env", 0),
            take("Deployment", *SERVER, "resources", "limits", "nvidia.com/gpu"),
        ],
        "device gpu",
        [
            server("image", value="registry.example/stoker@sha256:0123"),
            take("Deployment", *SERVER, "env", 0),
            take("Deployment", *SERVER, "resources", "limits", "nvidia.com/gpu"),
        ],
    ),
    Case(
        "gpu-unused",
        [server("env", 0, "value", value="cpu")],
        "device cpu with nvidia.com/gpu: 1",
        [server("env", 0, "value", value="auto")],
    ),
    Case(
        "gpu-not-required",
        [server("env", 0, "value", value="auto")],
        "device auto with nvidia.com/gpu: 1",
        [*NO_GPU, server("env", 0, "value", value="auto")],
    ),
    Case(
        "gpu-not-required",
        [*NO_GPU, *CLAIMED_GPU, server("env", 0, "value", value="auto")],
        "device auto with a claim",
        [*NO_GPU, *CLAIMED_GPU, server("env", 0, "value", value="gpu")],
    ),
    Case(
        "gpu-asked-twice",
        [server("resources", "limits", "nvidia.com/mig-1g.10gb", value="1")],
        "nvidia.com/gpu: 1 and nvidia.com/mig-1g.10gb: 1",
        [server("resources", "limits", "nvidia.com/mig-1g.10gb", value="0")],
    ),
    Case(
        "gpu-asked-twice",
        [*CLAIMED_GPU, add(TEMPLATE % "gpu.nvidia.com")],
        "nvidia.com/gpu: 1 and the claim gpu",
        [*CLAIMED_GPU, add(TEMPLATE % "rdma.example")],
    ),
    Case(
        "claim-template-missing",
        [*CLAIMED_GPU],
        "stoker-gpu is not among these manifests",
        [*CLAIMED_GPU, add(TEMPLATE % "gpu.nvidia.com")],
    ),
    Case(
        "gpu-without-toleration",
        [pod("tolerations", 0, "key", value="dedicated")],
        "no toleration of the taint nvidia.com/gpu",
        [pod("tolerations", 0, value={"operator": "Exists"})],
    ),
    Case(
        "gpu-with-little-cpu",
        [server("resources", "limits", "cpu", value="1500m")],
        "1.5 for a pod with a GPU",
        [server("resources", "limits", "cpu", value=2)],
    ),
    Case(
        "shared-gpu-without-share",
        [server("resources", "limits", "nvidia.com/gpu.shared", value=1)],
        "nvidia.com/gpu.shared",
        [
            server("resources", "limits", "nvidia.com/gpu.shared", value=1),
            setting("gpu_memory_share: 0.4"),
        ],
    ),
    Case(
        "mig-slice-too-small",
        [server("resources", "limits", value={"nvidia.com/mig-1g.5gb": 1})],
        "nvidia.com/mig-1g.5gb: 5 GiB, of which models may take 90%; they took 4.5 GiB",
        [server("resources", "limits", value={"nvidia.com/mig-1g.10gb": 1})],
        measured=measurement(loaded_bytes=7 << 29),
    ),
    Case(
        "hard-spread-with-gpus",
        [pod("topologySpreadConstraints", 0, "whenUnsatisfiable", value="DoNotSchedule")],
        "DoNotSchedule over kubernetes.io/hostname",
        [*NO_GPU, pod("topologySpreadConstraints", 0, "whenUnsatisfiable", value="DoNotSchedule")],
    ),
    Case(
        "hard-spread-with-gpus",
        [*HARD_SPREAD, put("Deployment", *AFFINITY, value=[GPU_TERM, OTHER_TERM])],
        "DoNotSchedule over kubernetes.io/hostname",
        [*HARD_SPREAD, put("Deployment", *AFFINITY, value=[GPU_TERM, GPU_TERM])],
    ),
    Case(
        "hard-spread-with-gpus",
        [*HARD_SPREAD, pod("nodeSelector", value={"kubernetes.io/os": "linux"})],
        "DoNotSchedule over kubernetes.io/hostname",
        [
            *HARD_SPREAD,
            pod("nodeSelector", value={"cloud.google.com/gke-accelerator": "nvidia-l4"}),
        ],
    ),
    Case(
        "gpu-without-toleration",
        [pod("resourceClaims", 0, value=CLAIMED_CARD), take("Deployment", *POD, "tolerations")],
        "no toleration of the taint nvidia.com/gpu",
        [
            *NO_GPU,
            pod("resourceClaims", 0, value=CLAIMED_CARD),
            take("Deployment", *POD, "tolerations"),
        ],
    ),
)
