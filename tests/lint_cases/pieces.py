"""Manifests, paths and edits that cases of several sections are made of."""

from typing import Final

import yaml
from stoker.deploy.manifest import JsonObject, JsonValue

from tests.broken_manifests import POD, SERVER, Edit, add, drop, pod, put, server, take

SCALED_OBJECT: Final = """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: stoker
spec:
  scaleTargetRef: {name: stoker}
  minReplicaCount: 2
  triggers:
    - type: prometheus
      metadata:
        query: sum(stoker_demand_ratio{namespace="stoker"})
        threshold: "0.65"
        ignoreNullValues: "false"
"""
KEDA: Final = (drop("HorizontalPodAutoscaler"), add(SCALED_OBJECT))
HPA: Final = "HorizontalPodAutoscaler"
METRIC: Final = ("spec", "metrics", 0)
RUNTIME: Final = """
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata:
  name: onnx
spec:
  containers:
    - name: %s
      image: registry.example/stoker:0.1.0@sha256:0123
      args: [serve, /mnt/models]
"""
AFFINITY: Final = (
    *(*POD, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
    "nodeSelectorTerms",
)
CLAIMED: Final[JsonValue] = {
    "name": "models",
    "persistentVolumeClaim": {"claimName": "models", "readOnly": True},
}
DOWNLOADED: Final = (
    pod("volumes", 3, value={"name": "models", "emptyDir": {"sizeLimit": "1Gi"}}),
    server("volumeMounts", 3, value={"name": "models", "mountPath": "/models", "readOnly": True}),
    pod(
        *("initContainers", 0),
        value={"name": "fetch", "volumeMounts": [{"name": "models", "mountPath": "/models"}]},
    ),
)
"""An init container that fills what the server reads."""
NO_GPU: Final = (
    take("Deployment", *SERVER, "resources", "limits", "nvidia.com/gpu"),
    server("env", 0, "value", value="cpu"),
)


def runtime(*, arguments: str = "--drain-timeout=20s") -> str:
    """A runtime for the format onnx, of priority 2, beside KServe's own."""
    return (
        RUNTIME % "kserve-container"
        + """\
      env: [{name: STOKER_DRAIN_DELAY, value: 5s}]
  protocolVersions: [v2]
  supportedModelFormats: [{name: onnx, autoSelect: true, priority: 2}]
---
apiVersion: serving.kserve.io/v1alpha1
kind: ClusterServingRuntime
metadata: {name: triton}
spec:
  containers: [{name: kserve-container, image: tritonserver:26.10}]
  protocolVersions: [v1, v2]
  supportedModelFormats: [{name: onnx, autoSelect: true, priority: 3}]
"""
    ).replace("[serve, /mnt/models]", f"[serve, /mnt/models, {arguments}]")


def inference_service(
    *,
    name: str = "onnx",
    grace: int | None = None,
    timeout: int | None = None,
    mode: str = "Standard",
    protocol: str = "v2",
    arguments: str = "",
) -> str:
    """One whose pods run in the runtime `name`; empty: in the one that KServe takes."""
    predictor: JsonObject = {
        "terminationGracePeriodSeconds": grace,
        "timeout": timeout,
        "model": {
            "modelFormat": {"name": "onnx"},
            "runtime": name,
            "protocolVersion": protocol,
            "args": [arguments] if arguments else [],
        },
    }
    return yaml.safe_dump(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {
                "name": "digits",
                "annotations": {"serving.kserve.io/deploymentMode": mode},
            },
            "spec": {"predictor": predictor},
        }
    )


def notes(annotations: JsonObject) -> Edit:
    """Other annotations of the Deployment's pods."""
    return put("Deployment", "spec", "template", "metadata", "annotations", value=annotations)
