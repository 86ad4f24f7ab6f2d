"""Cases of every rule of `stoker k8s lint`: what fires it, and what looks like it and does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import yaml
from stoker.deploy.manifest import JsonObject, JsonValue
from stoker.deploy.measurement import Measurement
from stoker.deploy.rules.acceptance import ACCEPTED
from stoker.deploy.rules.eviction import SAFE_TO_EVICT, SAFE_VOLUMES
from stoker.deploy.rules.scaling import LAST_APPLIED, METRICS_OF_V1

from tests.broken_manifests import (
    POD,
    SERVER,
    Edit,
    add,
    drop,
    measurement,
    pod,
    put,
    server,
    setting,
    take,
    variable,
)


@dataclass(frozen=True, slots=True)
class Case:
    """One way to break a rule, and a near miss."""

    rule: str
    fires: Sequence[Edit]
    found: str
    """What the finding says stands there, in part."""
    misses: Sequence[Edit]
    measured: Measurement | None = None
    start_s: float | None = None


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
IN_ML: Final = [
    put(kind, "metadata", "namespace", value="ml")
    for kind in ("Deployment", "ConfigMap", "ScaledObject", "Service")
]
TRIGGER: Final = ("spec", "triggers", 0, "metadata")
SURGE: Final = ("spec", "strategy", "rollingUpdate", "maxSurge")
UNAVAILABLE: Final = ("spec", "strategy", "rollingUpdate", "maxUnavailable")
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
ALERT: Final = """
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: %s
spec:
  groups:
    - name: of one alert
      rules:
        - {alert: %s, expr: stoker_ready == 0}
"""
RULE: Final = """
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: stoker
spec:
  groups:
    - name: stoker
      rules:
        - {record: stoker_recorded, expr: sum(stoker_demand_ratio)}
        - {alert: A, expr: '%s > 1'}
"""
SERVICE_MONITOR: Final = """
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: stoker
spec:
  selector: {matchLabels: {scraped: "yes"}}
  endpoints: [{port: %s}]
"""
OTHER_SERVICE: Final = """
apiVersion: v1
kind: Service
metadata:
  name: stoker-headless
  labels: {app.kubernetes.io/name: stoker}
spec:
  selector: {app.kubernetes.io/name: %s}
  ports: [{port: 8000, targetPort: http}]
"""
AFFINITY: Final = (
    *(*POD, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
    "nodeSelectorTerms",
)
GPU_TERM: Final[JsonValue] = {
    "matchExpressions": [{"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["1000"]}]
}
OTHER_TERM: Final[JsonValue] = {
    "matchExpressions": [{"key": "nvidia.com/gpu.memory", "operator": "DoesNotExist"}]
}
HARD_SPREAD: Final = (
    pod("topologySpreadConstraints", 0, "whenUnsatisfiable", value="DoNotSchedule"),
)
POLICY_LABELS: Final = ("spec", "podSelector", "matchLabels")
LIVE: Final = (
    put("Deployment", "metadata", "uid", value="7b1c"),
    put("Deployment", "spec", "replicas", value=2),
)
"""From a cluster: the autoscaler's number is in it."""
APPLIED: Final = ("metadata", "annotations", LAST_APPLIED)
CLAIMED: Final[JsonValue] = {
    "name": "models",
    "persistentVolumeClaim": {"claimName": "models", "readOnly": True},
}
CLAIM: Final = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: models}
spec: {accessModes: [%s]}
"""
DOWNLOADED: Final = (
    pod("volumes", 3, value={"name": "models", "emptyDir": {"sizeLimit": "1Gi"}}),
    server("volumeMounts", 3, value={"name": "models", "mountPath": "/models", "readOnly": True}),
    pod(
        *("initContainers", 0),
        value={"name": "fetch", "volumeMounts": [{"name": "models", "mountPath": "/models"}]},
    ),
)
"""An init container that fills what the server reads."""
SOURCE: Final = """
apiVersion: v1
kind: ConfigMap
metadata: {name: from}
data: {MODELS_SOURCE: "models:%s/models"}
"""
EGRESS: Final = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out}
spec:
  podSelector: {matchLabels: {app.kubernetes.io/name: stoker}}
  policyTypes: [Egress]
  egress:
    - to: [%s]
      ports: [{port: %s}]
"""
OBSERVED: Final = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: observability}}}"
INGRESS: Final = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: front}
spec:
  rules:
    - http:
        paths:
          - path: /
            pathType: Prefix
            backend: {service: {name: %s, port: {number: %d}}}
"""
NGINX_PROTOCOL: Final = "nginx.ingress.kubernetes.io/backend-protocol"
ALB_PROTOCOL: Final = "alb.ingress.kubernetes.io/backend-protocol-version"
TEMPLATE: Final = """
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: stoker-gpu}
spec: {spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: %s}}]}}}
"""
CLAIMED_GPU: Final = (
    pod("resourceClaims", 0, value={"name": "gpu", "resourceClaimTemplateName": "stoker-gpu"}),
)
HTTP_PROBE: Final = "httpGet"
DATA_PROBE: Final[JsonObject] = {"port": 8000, "path": "/v2/health/ready"}
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


def route(kind: str, service: str, port: int) -> str:
    """A route of a Gateway to that port."""
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: routed, labels: {{app.kubernetes.io/name: stoker}}}}
spec: {{rules: [{{backendRefs: [{{name: {service}, port: {port}}}]}}]}}
"""


def external(kind: str, target: str) -> JsonObject:
    """An External metric of an autoscaler: the adapter sums up the pods' series."""
    key = "value" if kind == "Value" else "averageValue"
    return {
        "type": "External",
        "external": {
            "metric": {"name": "stoker_demand_ratio"},
            "target": {"type": kind, key: target},
        },
    }


def asked(query: str, *, kind: str = "") -> Sequence[Edit]:
    """KEDA with that query, and that metricType."""
    return (
        *KEDA,
        put("ScaledObject", *TRIGGER, "query", value=query),
        put("ScaledObject", *TRIGGER[:-1], "metricType", value=kind or None),
    )


def scaled_service(operator: str) -> str:
    """An InferenceService that KServe has KEDA scale."""
    service = yaml.safe_load(inference_service())
    metric: JsonObject = {"query": f'{operator}(stoker_demand_ratio{{namespace="models"}})'}
    target: JsonObject = {"type": "AverageValue", "averageValue": "0.65"}
    scaling: JsonObject = {"metrics": [{"external": {"metric": metric, "target": target}}]}
    service["spec"]["predictor"]["autoScaling"] = scaling
    return yaml.safe_dump(service)


def replicated(least: int, most: int) -> str:
    """An InferenceService of so many replicas."""
    service = yaml.safe_load(inference_service())
    service["spec"]["predictor"].update({"minReplicas": least, "maxReplicas": most})
    return yaml.safe_dump(service)


def traced(peer: str, port: str) -> Sequence[Edit]:
    """Tracing to the namespace observability, and what a policy lets out."""
    return (
        variable("STOKER_TRACING", "true"),
        variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.observability:4317"),
        add(EGRESS % (peer, port)),
    )


def image_volume(reference: str) -> JsonObject:
    """Models in an image, as a volume."""
    return {"name": "models", "image": {"reference": reference}}


def on_arch(operator: str, value: str) -> JsonObject:
    """A term of node affinity about the nodes' architecture."""
    key = "kubernetes.io/arch"
    return {"matchExpressions": [{"key": key, "operator": operator, "values": [value]}]}


def hook(*command: str) -> Edit:
    """A preStop that runs a command."""
    return server("lifecycle", value={"preStop": {"exec": {"command": list(command)}}})


def notes(annotations: JsonObject) -> Edit:
    """Other annotations of the Deployment's pods."""
    return put("Deployment", "spec", "template", "metadata", "annotations", value=annotations)


CASES: Final = (
    # Settings and image
    Case(
        "settings-refused",
        [server("args", value=["serve", "--drain-dely", "5s"])],
        "--drain-dely: unknown flag; did you mean --drain-delay",
        [server("args", value=["serve", "--drain-delay", "5s"])],
    ),
    Case(
        "settings-refused",
        [variable("STOKER_HTP_PORT", "8000")],
        "STOKER_HTP_PORT: unknown variable",
        [variable("OTHER_HTP_PORT", "8000")],
    ),
    Case(
        "settings-refused",
        [setting("idle_timeout: soon")],
        "/etc/stoker/stoker.yaml:7: idle_timeout: expected a duration",
        [setting("idle_timeout: 700s")],
    ),
    Case(
        "settings-refused",
        [variable("PORT", "many"), server("args", value=["serve", "--http-port", "$(PORT)"])],
        "--http-port: expected a port from 0 to 65535, got 'many'",
        [variable("PORT", "8000"), server("args", value=["serve", "--http-port", "$(PORT)"])],
    ),
    Case(
        "settings-refused",
        [add(runtime()), add(inference_service(arguments="--drain-timout=20s"))],
        "--drain-timout: unknown flag; did you mean --drain-timeout",
        [add(runtime()), add(inference_service(arguments="--drain-timout=20s", name="triton"))],
    ),
    Case(
        "settings-elsewhere",
        [drop("ConfigMap")],
        "the file /etc/stoker/stoker.yaml is in no ConfigMap",
        [put("Deployment", *POD, "volumes", 0, "configMap", "name", value="stoker-7h9k")],
    ),
    Case(
        "settings-elsewhere",
        [server("envFrom", value=[{"secretRef": {"name": "settings", "optional": True}}])],
        "variables come from the Secret settings",
        [server("envFrom", value=[{"configMapRef": {"name": "stoker-7h9k"}}])],
    ),
    Case(
        "settings-elsewhere",
        [server("envFrom", value=[{"configMapRef": {"name": "settings"}}])],
        "variables come from the ConfigMap settings",
        [server("envFrom", value=[])],
    ),
    Case(
        "settings-elsewhere",
        [
            server(
                "env",
                0,
                value={"name": "STOKER_HTTP_PORT", "valueFrom": {"secretKeyRef": {"name": "s"}}},
            )
        ],
        "the variable STOKER_HTTP_PORT comes from elsewhere",
        [
            server(
                "env",
                0,
                value={"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata"}}},
            )
        ],
    ),
    Case(
        "setting-hidden",
        [variable("STOKER_DRAIN_DELAY", "1s")],
        "STOKER_DRAIN_DELAY 1s hides 5s at /etc/stoker/stoker.yaml:4",
        [variable("STOKER_DRAIN_DELAY", "5000ms")],
    ),
    Case(
        "setting-hidden",
        [server("args", 4, value="--http-port=80"), variable("STOKER_HTTP_PORT", "8000")],
        "--http-port 80 hides 8000 at /etc/stoker/stoker.yaml:1",
        [server("args", 4, value="--idle-timeout=700s"), variable("STOKER_HTTP_PORT", "8000")],
    ),
    Case(
        "setting-hidden",
        # The image has a variable of its own.
        [take("Deployment", *SERVER, "env", 0), setting("device: auto")],
        "STOKER_DEVICE gpu hides auto at /etc/stoker/stoker.yaml:7",
        [take("Deployment", *SERVER, "env", 0), setting("device: gpu")],
    ),
    Case(
        "shell-first-process",
        [server("command", value=["/bin/sh", "-c"]), server("args", value=["stoker serve /m"])],
        "/bin/sh -c",
        [
            server("command", value=["/bin/sh", "-c"]),
            server("args", value=["mkdir /tmp/x; exec stoker serve /m"]),
        ],
    ),
    Case(
        "image-not-pinned",
        [server("image", value="registry.example/stoker:latest")],
        "stoker:latest",
        [server("image", value="registry.example/stoker:latest@sha256:0123")],
    ),
    Case(
        "image-not-pinned",
        [server("image", value="registry.example:5000/stoker")],
        "registry.example:5000/stoker",
        [server("image", value="registry.example:5000/stoker:0.1.0")],
    ),
    Case(
        "image-without-digest",
        [server("image", value="registry.example/stoker:0.1.0")],
        "stoker:0.1.0",
        [server("image", value="registry.example/stoker@sha256:0123")],
    ),
    Case(
        "image-without-registry",
        [server("image", value="stoker:0.1.0")],
        "stoker:0.1.0, which names no registry",
        [server("image", value="team/stoker:0.1.0")],
    ),
    Case(
        "image-without-registry",
        [server("image", value="stoker@sha256:0123")],
        "stoker@sha256:0123",
        [server("image", value="stoker:0.1.0"), server("imagePullPolicy", value="Never")],
    ),
    Case(
        "kserve-container-name",
        [add(RUNTIME % "stoker")],
        "'stoker'",
        [add(RUNTIME % "kserve-container")],
    ),
    Case(
        "image-not-pinned",
        [pod("initContainers", 0, value={"name": "fetch", "image": "rclone/rclone:latest"})],
        "rclone/rclone:latest",
        [pod("initContainers", 0, value={"name": "fetch", "image": "rclone/rclone:1.75.1"})],
    ),
    Case(
        "image-not-pinned",
        [pod("volumes", 3, value=image_volume("r.example/models"))],
        "r.example/models",
        [pod("volumes", 3, value=image_volume("r.example/models@sha256:0123"))],
    ),
    Case(
        "image-without-registry",
        [pod("volumes", 3, value=image_volume("stoker-models:1"))],
        "stoker-models:1, which names no registry",
        [pod("volumes", 3, value=image_volume("r.example/stoker-models:1"))],
    ),
    # Pods that never run
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
    # Models
    Case(
        "models-volume-unread",
        [
            pod("volumes", 3, value=CLAIMED),
            server("volumeMounts", 3, value={"name": "models", "mountPath": "/models"}),
            server("args", value=["serve", "--config", "/etc/stoker/stoker.yaml"]),
        ],
        "models at /models; the server serves its demo models",
        [
            pod("volumes", 3, value=CLAIMED),
            server("volumeMounts", 3, value={"name": "models", "mountPath": "/models"}),
        ],
    ),
    Case(
        "models-volume-unread",
        [
            pod("volumes", 3, value={"name": "data", "image": {"reference": "r.example/m:1"}}),
            server("volumeMounts", 3, value={"name": "data", "mountPath": "/data"}),
        ],
        "data at /data; the server serves /models",
        [
            pod("volumes", 3, value={"name": "data", "image": {"reference": "r.example/m:1"}}),
            server("volumeMounts", 3, value={"name": "data", "mountPath": "/models/vision"}),
        ],
    ),
    Case(
        "models-volume-unread",
        [
            pod("volumes", 3, value={"name": "data", "persistentVolumeClaim": {"claimName": "d"}}),
            server("volumeMounts", 3, value={"name": "data", "mountPath": "/d", "readOnly": True}),
        ],
        "data at /d; the server serves /models",
        [
            pod("volumes", 3, value={"name": "data", "persistentVolumeClaim": {"claimName": "d"}}),
            server("volumeMounts", 3, value={"name": "data", "mountPath": "/d"}),
            variable("STOKER_TRT_CACHE_DIR", "/d/engines"),
        ],
    ),
    Case(
        "models-volume-unread",
        [
            pod("volumes", 3, value={"name": "data", "persistentVolumeClaim": {"claimName": "d"}}),
            server("volumeMounts", 3, value={"name": "data", "mountPath": "/d"}),
        ],
        "data at /d; the server serves /models",
        # Where the models are mounted too, it is for something else.
        [
            pod("volumes", 3, value={"name": "data", "persistentVolumeClaim": {"claimName": "d"}}),
            server("volumeMounts", 3, value={"name": "data", "mountPath": "/d"}),
            server("volumeMounts", 4, value={"name": "tmp", "mountPath": "/models"}),
        ],
    ),
    Case(
        "models-volume-unread",
        [
            pod("volumes", 3, value=CLAIMED),
            server("volumeMounts", 3, value={"name": "models", "mountPath": "/mine"}),
        ],
        "models at /mine; the server serves /models",
        # Beside the models' own, a folder to write to is for something else, whatever its name.
        [
            pod("volumes", 3, value=CLAIMED),
            server("volumeMounts", 3, value={"name": "models", "mountPath": "/models"}),
            server("volumeMounts", 4, value={"name": "tmp", "mountPath": "/models-scratch"}),
        ],
    ),
    Case(
        "models-volume-unread",
        [
            pod("volumes", 3, value=CLAIMED),
            server("volumeMounts", 3, value={"name": "models", "mountPath": "/models"}),
            server("args", value=["serve"]),
        ],
        "models at /models; the server serves its demo models",
        [
            pod("volumes", 3, value=CLAIMED),
            server("volumeMounts", 3, value={"name": "models", "mountPath": "/models"}),
            server("args", value=["serve", "--config", "/run/secrets/with-sources.yaml"]),
        ],
    ),
    Case(
        "models-exceed-storage",
        [*DOWNLOADED],
        "models: 1Gi; the models are 2Gi",
        # It is filled elsewhere, and only read here.
        [*DOWNLOADED, take("Deployment", *POD, "initContainers", 0)],
        measured=measurement(files_bytes=2 << 30),
    ),
    Case(
        "models-exceed-storage",
        [*DOWNLOADED, pod("volumes", 3, "emptyDir", "sizeLimit", value="20Gi")],
        "10Gi; the models are 11Gi",
        [
            *DOWNLOADED,
            pod("volumes", 3, "emptyDir", "sizeLimit", value="11Gi"),
            server("resources", "limits", "ephemeral-storage", value="11Gi"),
        ],
        measured=measurement(files_bytes=11 << 30),
    ),
    # Probes
    Case(
        "startup-probe-missing",
        [take("Deployment", *SERVER, "startupProbe")],
        "no startupProbe",
        [server("startupProbe", "failureThreshold", value=60)],
    ),
    Case(
        "readiness-probe-missing",
        [take("Deployment", *SERVER, "readinessProbe")],
        "no readinessProbe",
        [server("readinessProbe", "periodSeconds", value=1)],
    ),
    Case(
        "liveness-probe-missing",
        [take("Deployment", *SERVER, "livenessProbe")],
        "no livenessProbe",
        [server("livenessProbe", "periodSeconds", value=30)],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("readinessProbe", HTTP_PROBE, "port", value=8000)],
        "path /readyz; port 8000 has /v2/health/live, /v2/health/ready",
        [server("readinessProbe", HTTP_PROBE, value={"port": 8000, "path": "/v2/health/ready"})],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("startupProbe", HTTP_PROBE, "path", value="/health")],
        "path /health; port 8002 has /livez, /readyz, /startupz",
        [server("startupProbe", HTTP_PROBE, "path", value="/readyz")],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("livenessProbe", HTTP_PROBE, "port", value="metrics")],
        "port metrics: no port of the container has that name",
        [server("livenessProbe", HTTP_PROBE, "port", value="8002")],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("livenessProbe", HTTP_PROBE, "port", value=9000)],
        "port 9000: nobody listens there",
        [
            server("livenessProbe", HTTP_PROBE, "port", value=9000),
            variable("STOKER_METRICS_PORT", "9000"),
            server("readinessProbe", HTTP_PROBE, "port", value=9000),
            server("startupProbe", HTTP_PROBE, "port", value=9000),
        ],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("livenessProbe", HTTP_PROBE, "scheme", value="HTTPS")],
        "port 8002 speaks plain HTTP",
        [server("livenessProbe", HTTP_PROBE, "scheme", value="HTTP")],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("readinessProbe", value={"httpGet": {**DATA_PROBE, "scheme": "HTTPS"}})],
        "scheme HTTPS; port 8000 speaks HTTP",
        [server("readinessProbe", value={"httpGet": DATA_PROBE})],
    ),
    Case(
        "probe-endpoint-wrong",
        [
            server("readinessProbe", value={"httpGet": DATA_PROBE}),
            variable("STOKER_TLS_CERT", "/tls/tls.crt"),
        ],
        "scheme HTTP; port 8000 speaks HTTPS",
        [
            server("readinessProbe", value={"httpGet": {**DATA_PROBE, "scheme": "HTTPS"}}),
            variable("STOKER_TLS_CERT", "/tls/tls.crt"),
        ],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("readinessProbe", value={"grpc": {"port": 8002}})],
        "port 8002; gRPC is on 8001",
        [server("readinessProbe", value={"grpc": {"port": 8001}})],
    ),
    Case(
        "readiness-asks-liveness",
        [server("readinessProbe", HTTP_PROBE, "path", value="/livez")],
        "/livez",
        [server("startupProbe", HTTP_PROBE, "path", value="/livez")],
    ),
    Case(
        "readiness-not-strict",
        [setting("strict_readiness: false")],
        "strict_readiness false",
        [setting("strict_readiness: true"), setting("exit_on_error: true")],
    ),
    Case(
        "liveness-asks-readiness",
        [server("livenessProbe", HTTP_PROBE, "path", value="/readyz")],
        "/readyz",
        [server("startupProbe", HTTP_PROBE, "path", value="/readyz")],
    ),
    Case(
        "liveness-asks-readiness",
        [server("livenessProbe", value={"grpc": {"port": 8001}})],
        "gRPC health",
        [server("readinessProbe", value={"grpc": {"port": 8001}})],
    ),
    Case(
        "probe-tcp",
        [server("readinessProbe", value={"tcpSocket": {"port": 8000}})],
        "port 8000",
        [server("readinessProbe", value={"grpc": {"port": 8001}})],
    ),
    Case(
        "probe-exec",
        [server("livenessProbe", value={"exec": {"command": ["true"]}})],
        "a command",
        [server("lifecycle", value={"preStop": {"exec": {"command": ["true"]}}})],
    ),
    Case(
        "probe-grpc-tls",
        [
            server("readinessProbe", value={"grpc": {"port": 8001}}),
            variable("STOKER_TLS_CERT", "/tls/tls.crt"),
        ],
        "gRPC probe",
        [server("readinessProbe", value={"grpc": {"port": 8001}})],
    ),
    Case(
        "liveness-too-tight",
        [server("livenessProbe", "timeoutSeconds", value=1)],
        "timeout 1 s, 3 failures, 30 s in all",
        [server("livenessProbe", "timeoutSeconds", value=2)],
    ),
    Case(
        "liveness-too-tight",
        [server("livenessProbe", "failureThreshold", value=2)],
        "2 failures",
        [server("readinessProbe", "failureThreshold", value=2)],
    ),
    Case(
        "liveness-too-tight",
        [server("livenessProbe", "periodSeconds", value=5)],
        "15 s in all",
        [server("livenessProbe", "periodSeconds", value=7)],
    ),
    Case(
        "readiness-too-tight",
        [server("readinessProbe", "failureThreshold", value=1)],
        "timeout 1 s, 1 failure",
        [
            server("readinessProbe", "failureThreshold", value=1),
            server("readinessProbe", "timeoutSeconds", value=2),
        ],
    ),
    Case(
        "startup-budget-short",
        [server("startupProbe", "failureThreshold", value=5)],
        "25 s",
        [server("startupProbe", "failureThreshold", value=6)],
    ),
    Case(
        "startup-budget-below-measured",
        [server("startupProbe", "failureThreshold", value=7)],
        "35 s; a start took 20.0 s, a machine of the tests",
        [server("startupProbe", "failureThreshold", value=8)],
        measured=measurement(start_s=20.0),
    ),
    Case(
        "startup-budget-below-measured",
        [server("startupProbe", "failureThreshold", value=7)],
        "35 s; a start took 20.0 s",
        [server("startupProbe", "initialDelaySeconds", value=5)],
        start_s=20.0,
    ),
    Case(
        "startup-hides-hung-load",
        [server("startupProbe", "failureThreshold", value=60)],
        "300 s; hung_load_timeout 300 s",
        [server("startupProbe", "failureThreshold", value=61)],
    ),
    Case(
        "startup-hides-hung-load",
        [setting("hung_load_timeout: 10m")],
        "600 s; hung_load_timeout 600 s",
        [setting("hung_load_timeout: 0")],
    ),
    # Life cycle
    Case(
        "grace-shorter-than-drain",
        [pod("terminationGracePeriodSeconds", value=39)],
        "39 s; preStop 0 s + drain_delay 5 s + drain_timeout 30 s + 5 s = 40 s",
        [pod("terminationGracePeriodSeconds", value=40)],
    ),
    Case(
        "grace-shorter-than-drain",
        [take("Deployment", *POD, "terminationGracePeriodSeconds")],
        "30 s, Kubernetes' default",
        [
            take("Deployment", *POD, "terminationGracePeriodSeconds"),
            variable("STOKER_DRAIN_TIMEOUT", "20s"),
        ],
    ),
    Case(
        "grace-shorter-than-drain",
        [server("lifecycle", value={"preStop": {"sleep": {"seconds": 21}}})],
        "preStop 21 s",
        [server("lifecycle", value={"preStop": {"sleep": {"seconds": 20}}})],
    ),
    Case(
        "grace-shorter-than-drain",
        [hook("/bin/sleep", "40")],
        "preStop 40 s",
        [hook("/bin/sleep", "20")],
    ),
    Case(
        "grace-shorter-than-drain",
        [hook("sh", "-c", "flush; exec sleep 1m")],
        "preStop 60 s",
        [hook("sh", "-c", "flush; exec sleep 20s")],
    ),
    Case(
        "grace-shorter-than-drain",
        [server("args", 4, value="--drain-timeout=51s")],
        "drain_timeout 51 s",
        [server("args", 4, value="--drain-timeout=50s")],
    ),
    Case(
        "grace-shorter-than-drain",
        # A runtime alone: its pods get what an InferenceService says, 30 s else.
        [add(runtime(arguments="--drain-timeout=21s"))],
        "30 s, Kubernetes' default",
        [add(runtime(arguments="--drain-timeout=21s")), add(inference_service(grace=31))],
    ),
    Case(
        "grace-shorter-than-drain",
        [add(runtime(arguments="--drain-timeout=21s")), add(inference_service(grace=30))],
        "30 s; preStop 0 s",
        # One that runs elsewhere tells nothing of the runtime, nor the runtime of it.
        [add(runtime()), add(inference_service(grace=5, name="triton"))],
    ),
    Case(
        "grace-shorter-than-drain",
        [add(runtime()), add(inference_service(grace=45, arguments="--drain-timeout=36s"))],
        "45 s; preStop 0 s + drain_delay 5 s + drain_timeout 36 s",
        [add(runtime()), add(inference_service(grace=45, arguments="--drain-timeout=35s"))],
    ),
    Case(
        "grace-shorter-than-drain",
        # Not named: chosen by the format, for its priority.
        [add(runtime()), add(inference_service(grace=29, name=""))],
        "29 s; preStop 0 s",
        [add(runtime()), add(inference_service(grace=29, name="", protocol="v1"))],
    ),
    Case(
        "grace-shorter-than-drain",
        # Knative gives pods the time that a request may take.
        [add(runtime()), add(inference_service(timeout=29, mode="Knative"))],
        "29 s; preStop 0 s",
        [add(runtime(arguments="--drain-timeout=290s")), add(inference_service(mode="Knative"))],
    ),
    Case(
        "no-drain-delay",
        [variable("STOKER_DRAIN_DELAY", "0")],
        "drain_delay 0",
        [
            variable("STOKER_DRAIN_DELAY", "0"),
            server("lifecycle", value={"preStop": {"sleep": {"seconds": 5}}}),
        ],
    ),
    Case(
        "no-drain-delay",
        [variable("STOKER_DRAIN_DELAY", "0"), hook("sleep", "0")],
        "drain_delay 0",
        [variable("STOKER_DRAIN_DELAY", "0"), hook("leave-the-mesh")],
    ),
    Case(
        "two-drain-delays",
        [hook("sleep", "2.5")],
        "preStop 2.5 s, then drain_delay 5 s",
        [hook("echo", "sleep", "2.5")],
    ),
    Case(
        "pre-stop-length-unknown",
        [hook("/bin/bash", "-ec", "sleep 5 && leave-the-mesh --now")],
        "`leave-the-mesh --now`, of unknown length",
        [hook("/bin/bash", "-ec", "sleep 5 && sleep '1'")],
    ),
    Case(
        "pre-stop-length-unknown",
        [server("lifecycle", value={"preStop": {"httpGet": {"path": "/quit", "port": 15020}}})],
        "a request of /quit",
        [server("lifecycle", value={"preStop": {"sleep": {"seconds": 5}}})],
    ),
    Case(
        "two-drain-delays",
        [server("lifecycle", value={"preStop": {"sleep": {"seconds": 5}}})],
        "preStop 5 s, then drain_delay 5 s",
        [
            variable("STOKER_DRAIN_DELAY", "0"),
            server("lifecycle", value={"preStop": {"sleep": {"seconds": 5}}}),
        ],
    ),
    Case(
        "progress-deadline-short",
        [take("Deployment", "spec", "progressDeadlineSeconds")],
        "600 s; the startup probe bears 600 s",
        [put("Deployment", "spec", "progressDeadlineSeconds", value=601)],
    ),
    Case(
        "progress-deadline-short",
        [*DOWNLOADED, put("Deployment", "spec", "progressDeadlineSeconds", value=900)],
        "900 s; the startup probe bears 600 s, and the download by fetch may take 300 s before it",
        [*DOWNLOADED, put("Deployment", "spec", "progressDeadlineSeconds", value=901)],
    ),
    Case(
        "progress-deadline-short",
        [*DOWNLOADED],
        "1200 s; the startup probe bears 600 s, and the download by fetch may take 600 s before it",
        # A sidecar that downloads does not hold the server up.
        [*DOWNLOADED, pod("initContainers", 0, "restartPolicy", value="Always")],
        measured=measurement(files_bytes=12_000 << 20),
    ),
    Case(
        "surge-without-spare-gpu",
        [put("Deployment", *SURGE, value=1), put("Deployment", *UNAVAILABLE, value=0)],
        "maxSurge 1, maxUnavailable 0 at 2 replicas",
        [*NO_GPU, put("Deployment", *SURGE, value=1), put("Deployment", *UNAVAILABLE, value=0)],
    ),
    Case(
        "surge-without-spare-gpu",
        [take("Deployment", "spec", "strategy")],
        "maxSurge 1, maxUnavailable 0 at 2 replicas",
        [take("Deployment", "spec", "strategy"), put(HPA, "spec", "minReplicas", value=4)],
    ),
    Case(
        "rollout-gap",
        [drop(HPA), put("Deployment", "spec", "replicas", value=1)],
        "maxUnavailable 1 at 1 replica",
        [drop(HPA), put("Deployment", "spec", "replicas", value=2)],
    ),
    Case(
        "rollout-gap",
        [put(HPA, "spec", "minReplicas", value=1)],
        "maxUnavailable 1 at 1 replica",
        [
            put(HPA, "spec", "minReplicas", value=1),
            put("Deployment", *SURGE, value=1),
            put("Deployment", *UNAVAILABLE, value=0),
        ],
    ),
    Case(
        "rollout-gap",
        [put("Deployment", "spec", "strategy", value={"type": "Recreate"})],
        "Recreate at 2 replicas",
        [put("Deployment", "spec", "strategy", value={"type": "RollingUpdate"})],
    ),
    Case(
        "min-ready-missing",
        [take("Deployment", "spec", "minReadySeconds")],
        "none, at 2 replicas",
        [take("Deployment", "spec", "minReadySeconds"), put(HPA, "spec", "minReplicas", value=1)],
    ),
    Case(
        "min-ready-missing",
        [put("Deployment", "spec", "minReadySeconds", value=0)],
        "none, at 2 replicas",
        [put("Deployment", "spec", "minReadySeconds", value=1)],
    ),
    Case(
        "budget-blocks-drains",
        [
            take("PodDisruptionBudget", "spec", "maxUnavailable"),
            put("PodDisruptionBudget", "spec", "minAvailable", value=2),
        ],
        "minAvailable 2 at 2 replicas",
        [
            take("PodDisruptionBudget", "spec", "maxUnavailable"),
            put("PodDisruptionBudget", "spec", "minAvailable", value=1),
        ],
    ),
    Case(
        "budget-blocks-drains",
        [
            take("PodDisruptionBudget", "spec", "maxUnavailable"),
            put("PodDisruptionBudget", "spec", "minAvailable", value="51%"),
        ],
        "minAvailable 51% at 2 replicas",
        [
            take("PodDisruptionBudget", "spec", "maxUnavailable"),
            put("PodDisruptionBudget", "spec", "minAvailable", value="50%"),
        ],
    ),
    Case(
        "budget-blocks-drains",
        [put("PodDisruptionBudget", "spec", "maxUnavailable", value=0)],
        "maxUnavailable 0 at 2 replicas",
        [put("PodDisruptionBudget", "spec", "maxUnavailable", value="1%")],
    ),
    Case(
        "budget-keeps-broken-pods",
        [take("PodDisruptionBudget", "spec", "unhealthyPodEvictionPolicy")],
        "IfHealthyBudget",
        [drop("PodDisruptionBudget")],
    ),
    Case(
        "budget-missing",
        [drop("PodDisruptionBudget")],
        "2 replicas without a budget",
        [
            drop("PodDisruptionBudget"),
            drop(HPA),
            put("Deployment", "spec", "replicas", value=1),
        ],
    ),
    Case(
        "local-volumes-keep-node",
        [notes({})],
        "tmp, cache not in the annotation cluster-autoscaler",
        [notes({SAFE_TO_EVICT: "true"})],
    ),
    Case(
        "local-volumes-keep-node",
        # The space is a part of the name that the autoscaler looks for.
        [notes({SAFE_VOLUMES: "tmp, cache"})],
        "cache not in the annotation",
        [notes({SAFE_VOLUMES: "models,cache,tmp"})],
    ),
    Case(
        "local-volumes-keep-node",
        [pod("volumes", 3, value={"name": "host", "hostPath": {"path": "/models"}})],
        "host not in the annotation",
        [pod("volumes", 3, value={"name": "shm", "emptyDir": {"medium": "Memory"}})],
    ),
    Case(
        "local-volumes-keep-node",
        [add(RUNTIME % "kserve-container")],
        "kserve-provision-location not in the annotation",
        # A user's own decision to keep the node.
        [
            add(RUNTIME % "kserve-container"),
            put("ServingRuntime", "spec", "annotations", value={SAFE_TO_EVICT: "false"}),
        ],
    ),
    # GPUs
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
    # Memory, CPU and volumes
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
    # Autoscaling
    Case(
        "scaled-on-utilisation",
        [
            put(
                HPA,
                *METRIC,
                value={"type": "Resource", "resource": {"name": "cpu", "target": {}}},
            )
        ],
        "cpu",
        [put(HPA, *METRIC, "pods", "metric", "name", value="stoker_queue_delay_seconds")],
    ),
    Case(
        "scaled-on-utilisation",
        [*KEDA, put("ScaledObject", "spec", "triggers", 0, "type", value="memory")],
        "memory",
        [*KEDA],
    ),
    Case(
        "scaled-on-utilisation",
        [
            put(HPA, "apiVersion", value="autoscaling/v1"),
            take(HPA, "spec", "metrics"),
            put(HPA, "spec", "targetCPUUtilizationPercentage", value=60),
        ],
        "cpu at 60 %",
        [
            put(HPA, "apiVersion", value="autoscaling/v1"),
            take(HPA, "spec", "metrics"),
            put(HPA, "metadata", "annotations", METRICS_OF_V1, value="[]"),
        ],
    ),
    Case(
        "scaled-on-utilisation",
        [take(HPA, "spec", "metrics")],
        "none, which means cpu at 80 %",
        # Whatever it scales is not ours.
        [take(HPA, "spec", "metrics"), put(HPA, "spec", "scaleTargetRef", "name", value="web")],
    ),
    Case(
        "scaled-on-utilisation",
        [put(HPA, "spec", "metrics", value=[])],
        "none, which means cpu at 80 %",
        [*KEDA],
    ),
    Case(
        "scaled-on-utilisation",
        [add(runtime()), add(replicated(2, 3))],
        "cpu, KServe's default, up to 3 replicas",
        [add(runtime()), add(replicated(3, 3))],
    ),
    Case(
        "scaled-on-utilisation",
        [add(runtime()), add(replicated(1, 2))],
        "cpu, KServe's default",
        [add(runtime()), add(replicated(1, 2).replace("Standard", "Knative"))],
    ),
    Case(
        "scaled-on-gpu-utilisation",
        [put(HPA, *METRIC, "pods", "metric", "name", value="DCGM_FI_DEV_GPU_UTIL")],
        "DCGM_FI_DEV_GPU_UTIL",
        [put(HPA, *METRIC, "pods", "metric", "name", value="stoker_demand_ratio")],
    ),
    Case(
        "scaled-on-gpu-utilisation",
        [*KEDA, put("ScaledObject", *TRIGGER, "query", value="avg(nv_gpu_utilization)")],
        "nv_gpu_utilization",
        [*KEDA, put("ScaledObject", *TRIGGER, "query", value="avg(stoker_queue_delay_seconds)")],
    ),
    Case(
        "replicas-beside-autoscaler",
        [put("Deployment", "spec", "replicas", value=2)],
        "replicas 2 beside HorizontalPodAutoscaler/stoker",
        [
            put("Deployment", "spec", "replicas", value=2),
            put(HPA, "spec", "scaleTargetRef", "name", value="other"),
        ],
    ),
    Case(
        "replicas-beside-autoscaler",
        [
            *LIVE,
            put("Deployment", *APPLIED, value='{"kind": "Deployment", "spec": {"replicas": 3}}'),
        ],
        "replicas 3 beside HorizontalPodAutoscaler/stoker",
        [*LIVE, put("Deployment", *APPLIED, value='{"kind": "Deployment", "spec": {}}')],
    ),
    Case(
        "replicas-beside-autoscaler",
        [put("Deployment", "spec", "replicas", value=0)],
        "replicas 0 beside",
        LIVE,
    ),
    Case(
        "two-autoscalers",
        [add(SCALED_OBJECT)],
        "HorizontalPodAutoscaler/stoker scales Deployment/stoker as well",
        [*KEDA],
    ),
    Case(
        "autoscaler-target-missing",
        [put(HPA, "spec", "scaleTargetRef", "name", value="stocker")],
        "Deployment 'stocker' is not among these manifests",
        [
            put(HPA, "spec", "scaleTargetRef", "name", value="web"),
            put(HPA, *METRIC, "pods", "metric", "name", value="requests_per_second"),
        ],
    ),
    Case(
        "keda-ignores-lost-series",
        [*KEDA, take("ScaledObject", *TRIGGER, "ignoreNullValues")],
        "true, KEDA's default",
        [*KEDA, put("ScaledObject", *TRIGGER, "ignoreNullValues", value=False)],
    ),
    Case(
        "zero-on-own-metric",
        [*KEDA, take("ScaledObject", "spec", "minReplicaCount")],
        "every metric comes from the pods themselves",
        [
            *KEDA,
            take("ScaledObject", "spec", "minReplicaCount"),
            put(
                "ScaledObject",
                *("spec", "triggers", 1),
                value={
                    "type": "prometheus",
                    "metadata": {"query": "sum(envoy_requests)", "ignoreNullValues": "false"},
                },
            ),
        ],
    ),
    Case(
        "zero-on-own-metric",
        [*KEDA, put("ScaledObject", "spec", "idleReplicaCount", value=0)],
        "every metric comes from the pods themselves",
        [
            *KEDA,
            put("ScaledObject", "spec", "idleReplicaCount", value=0),
            put("ScaledObject", "spec", "triggers", 1, value={"type": "kafka", "metadata": {}}),
        ],
    ),
    Case(
        "zero-on-own-metric",
        [put(HPA, "spec", "minReplicas", value=0)],
        "every metric comes from the pods themselves",
        [
            put(HPA, "spec", "minReplicas", value=0),
            put(HPA, *METRIC, value={"external": {"metric": {"name": "queue_messages"}}}),
        ],
    ),
    Case(
        "metric-unknown",
        [put(HPA, *METRIC, "pods", "metric", "name", value="stoker_demand")],
        "stoker_demand",
        [put(HPA, *METRIC, "pods", "metric", "name", value="custom_stoker_demand")],
    ),
    Case(
        "metric-unknown",
        [add(RULE % "rate(stoker_batches[5m])")],
        "stoker_batches",
        [add(RULE % "stoker_recorded + stoker:x + rate(stoker_batch_rows_bucket[5m])")],
    ),
    Case(
        "demand-target-high",
        [put(HPA, *METRIC, "pods", "target", "averageValue", value="1")],
        "target 1",
        [put(HPA, *METRIC, "pods", "target", "averageValue", value="900m")],
    ),
    Case(
        "demand-target-high",
        [*KEDA, put("ScaledObject", *TRIGGER, "threshold", value="65")],
        "target 65",
        [*KEDA, put("ScaledObject", *TRIGGER, "threshold", value="0.9")],
    ),
    Case(
        "demand-target-high",
        [put(HPA, *METRIC, value=external("Value", "1"))],
        "target 1",
        [put(HPA, *METRIC, value=external("Value", "0.5"))],
    ),
    Case(
        "demand-target-low",
        [put(HPA, *METRIC, "pods", "target", "averageValue", value="65m")],
        "target 0.065",
        [put(HPA, *METRIC, "pods", "target", "averageValue", value="200m")],
    ),
    Case(
        "demand-target-low",
        [*KEDA, put("ScaledObject", *TRIGGER, "threshold", value="0.065")],
        "target 0.065",
        [
            *KEDA,
            put("ScaledObject", *TRIGGER, "query", value="sum(stoker_queue_delay_seconds)"),
            put("ScaledObject", *TRIGGER, "threshold", value="0.065"),
        ],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("avg(stoker_demand_ratio)")],
        "avg with the type AverageValue, which divides by the pods once more",
        [*asked("avg(stoker_demand_ratio)", kind="Value")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("max by (namespace) (stoker_queue_delay_seconds)", kind="AverageValue")],
        "max with the type AverageValue",
        [*asked("max(stoker_queue_delay_seconds) * count(stoker_demand_ratio)")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("sum(stoker_demand_ratio)", kind="Value")],
        "sum with the type Value, which compares it with the target undivided",
        [*asked("sum(stoker_demand_ratio) / count(stoker_demand_ratio)", kind="Value")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked('stoker_demand_ratio{pod=~"sum (by)"}')],
        "not aggregated: as many values as there are pods",
        [*asked("scalar(stoker_demand_ratio)")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("sum by (namespace, pod) (stoker_demand_ratio)")],
        "a value for each pod, of which an autoscaler can take none",
        [*asked("SUM by (namespace) (stoker_demand_ratio)")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("sum without (namespace) (stoker_demand_ratio)")],
        "a value for each pod",
        [*asked("sum(avg_over_time(stoker_demand_ratio[1m]))")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("max by (pod) (sum(stoker_demand_ratio) by (pod))")],
        "a value for each pod",
        [*asked("sum(max by (pod) (stoker_demand_ratio))")],
    ),
    Case(
        "metric-aggregated-wrong",
        [*asked("sum by (le) (stoker_batch_rows_bucket)", kind="Value")],
        "sum with the type Value",
        [*asked("histogram_quantile(0.9, sum by (le) (stoker_batch_rows_bucket))", kind="Value")],
    ),
    Case(
        "metric-aggregated-wrong",
        [put(HPA, *METRIC, value=external("Value", "0.65"))],
        "an External metric, the sum over all pods, with the type Value",
        [put(HPA, *METRIC, value=external("AverageValue", "0.65"))],
    ),
    Case(
        "metric-aggregated-wrong",
        [add(scaled_service("avg"))],
        "avg with the type AverageValue",
        [add(scaled_service("sum"))],
    ),
    Case(
        "metric-of-another-namespace",
        [*asked('sum(stoker_demand_ratio{namespace="other"})'), *IN_ML],
        "stoker_demand_ratio of namespace='other', from ml",
        [*asked('sum(stoker_demand_ratio{namespace=~"ml|other"})'), *IN_ML],
    ),
    Case(
        "metric-of-another-namespace",
        [*asked('sum(stoker_model_demand{model="resnet"})')],
        "stoker_model_demand of every namespace",
        [*asked("sum(stoker_model_demand{pod=~'stoker-.*'})")],
    ),
    Case(
        "metric-of-another-namespace",
        [
            *asked("sum(stoker_demand_ratio)"),
            put("ScaledObject", *TRIGGER, "namespace", value="x"),
            *IN_ML,
        ],
        "stoker_demand_ratio of the namespace 'x', from ml",
        [
            *asked("sum(stoker_demand_ratio)"),
            put("ScaledObject", *TRIGGER, "namespace", value="ml"),
            *IN_ML,
        ],
    ),
    Case(
        "shrinks-eagerly",
        [put(HPA, "spec", "behavior", "scaleDown", "stabilizationWindowSeconds", value=60)],
        "60 s for pods with GPUs",
        [put(HPA, "spec", "behavior", "scaleDown", "stabilizationWindowSeconds", value=120)],
    ),
    Case(
        "shrinks-eagerly",
        [
            *KEDA,
            put(
                "ScaledObject",
                *("spec", "advanced", "horizontalPodAutoscalerConfig"),
                value={"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}},
            ),
        ],
        "0 s for pods with GPUs",
        [*KEDA],
    ),
    # Services and connections
    Case(
        "service-port-wrong",
        [put("Service", "spec", "ports", 0, "targetPort", value="web")],
        "web, which leads to no port of the server (8000, 8001, 8002)",
        [put("Service", "spec", "ports", 0, "targetPort", value=8000)],
    ),
    Case(
        "service-port-wrong",
        [
            take("Service", "spec", "ports", 0, "targetPort"),
            put("Service", "spec", "ports", 0, "port", value=80),
        ],
        "80, which leads to no port",
        [take("Service", "spec", "ports", 0, "targetPort")],
    ),
    Case(
        "management-port-published",
        [put("Service", "spec", "ports", 2, value={"port": 80, "targetPort": "management"})],
        "the management port 8002",
        [put("Service", "spec", "ports", 2, value={"port": 8002, "targetPort": "http"})],
    ),
    Case(
        "app-protocol-missing",
        [take("Service", "spec", "ports", 1, "appProtocol")],
        "none on the gRPC port",
        [put("Service", "spec", "ports", 1, "appProtocol", value="grpc")],
    ),
    Case(
        "session-affinity",
        [put("Service", "spec", "sessionAffinity", value="ClientIP")],
        "ClientIP",
        [put("Service", "spec", "sessionAffinity", value="None")],
    ),
    Case(
        "publishes-unready-pods",
        [put("Service", "spec", "publishNotReadyAddresses", value=True)],
        "true",
        [put("Service", "spec", "publishNotReadyAddresses", value=False)],
    ),
    Case(
        "container-port-unserved",
        [server("ports", 0, "containerPort", value=8080)],
        "8080; the server listens on 8000, 8001, 8002",
        [
            server("ports", 0, "containerPort", value=8080),
            server("args", 4, value="--http-port=8080"),
        ],
    ),
    Case(
        "connection-age-missing",
        [variable("STOKER_MAX_CONNECTION_AGE", "0")],
        "max_connection_age 0: never",
        [variable("STOKER_MAX_CONNECTION_AGE", "30m")],
    ),
    Case(
        "connection-age-missing",
        [server("args", 4, value="--max-connection-age=31m")],
        "max_connection_age 1860 s",
        [server("args", 4, value="--max-connection-age=1m")],
    ),
    Case(
        "idle-timeout-short",
        [setting("idle_timeout: 1m")],
        "idle_timeout 60 s",
        [setting("idle_timeout: 61s")],
    ),
    Case(
        "selector-matches-nothing",
        [put("PodDisruptionBudget", "spec", "selector", "matchLabels", "app", value="stoker")],
        "no pod of these manifests has these labels",
        [
            put(
                "PodDisruptionBudget",
                *("spec", "selector"),
                value={
                    "matchExpressions": [
                        {
                            "key": "app.kubernetes.io/name",
                            "operator": "In",
                            "values": ["stoker", "x"],
                        }
                    ]
                },
            )
        ],
    ),
    Case(
        "selector-matches-nothing",
        [put("NetworkPolicy", *POLICY_LABELS, "app.kubernetes.io/instance", value="other")],
        "no pod",
        [put("NetworkPolicy", *POLICY_LABELS, "models-from", value="object-store")],
    ),
    Case(
        "selector-matches-nothing",
        [add(OTHER_SERVICE % "stocker")],
        "no pod",
        [add(OTHER_SERVICE % "stoker")],
    ),
    Case(
        "route-service-missing",
        [add(route("HTTPRoute", "stocker", 8000))],
        "no Service 'stocker' among these manifests",
        # Another application's.
        [add(route("HTTPRoute", "web", 80).replace("/name: stoker", "/name: web"))],
    ),
    Case(
        "route-service-missing",
        [add(INGRESS % ("stoker-old", 8000))],
        "no Service 'stoker-old' among these manifests",
        [add(INGRESS % ("shop", 80))],
    ),
    Case(
        "route-port-wrong",
        [add(route("GRPCRoute", "stoker", 8000))],
        "port 8000, which is for HTTP; gRPC is on 8001",
        [add(route("GRPCRoute", "stoker", 8001))],
    ),
    Case(
        "route-port-wrong",
        [add(route("HTTPRoute", "stoker", 80))],
        "port 80; Service/stoker has 8000, 8001",
        [add(route("HTTPRoute", "stoker", 8000))],
    ),
    Case(
        "route-port-wrong",
        [add(INGRESS % ("stoker", 8002))],
        "port 8002; Service/stoker has 8000, 8001",
        [add(INGRESS % ("stoker", 8000))],
    ),
    Case(
        "route-port-wrong",
        [
            add(INGRESS % ("stoker", 9000)),
            put("Service", "spec", "ports", 2, value={"port": 9000, "targetPort": "management"}),
        ],
        "port 9000, the management port 8002",
        [
            add(INGRESS % ("stoker", 9000)),
            put("Service", "spec", "ports", 2, value={"port": 9000, "targetPort": "http"}),
        ],
    ),
    Case(
        "route-port-wrong",
        [add(INGRESS % ("stoker", 8001))],
        "port 8001, which is for gRPC; HTTP is on 8000",
        [
            add(INGRESS % ("stoker", 8001)),
            put("Ingress", "metadata", "annotations", NGINX_PROTOCOL, value="GRPC"),
        ],
    ),
    Case(
        "route-port-wrong",
        [
            add(INGRESS % ("stoker", 8000)),
            put("Ingress", "metadata", "annotations", ALB_PROTOCOL, value="GRPC"),
            put("Service", "spec", "ports", 0, "appProtocol", value="http"),
        ],
        "port 8000, which is for HTTP; gRPC is on 8001",
        [
            add(INGRESS % ("stoker", 8001)),
            put("Ingress", "metadata", "annotations", ALB_PROTOCOL, value="GRPC"),
        ],
    ),
    Case(
        "route-port-wrong",
        [
            add(INGRESS % ("stoker", 8001)),
            put("Ingress", "spec", "ingressClassName", value="nginx"),
        ],
        "port 8001, which is for gRPC",
        [
            add(INGRESS % ("stoker", 8001)),
            put("Ingress", "spec", "ingressClassName", value="traefik"),
        ],
    ),
    # Monitoring and network
    Case(
        "monitor-port-wrong",
        [put("PodMonitor", "spec", "podMetricsEndpoints", 0, "port", value="metrics")],
        "port metrics: no such port; metrics are on 8002",
        [put("PodMonitor", "spec", "podMetricsEndpoints", value=[{"portNumber": 8002}])],
    ),
    Case(
        "monitor-port-wrong",
        [put("PodMonitor", "spec", "podMetricsEndpoints", 0, "path", value="/stats")],
        "path /stats",
        [take("PodMonitor", "spec", "podMetricsEndpoints", 0, "path")],
    ),
    Case(
        "monitor-port-wrong",
        [
            drop("PodMonitor"),
            put(
                "Deployment",
                *("spec", "template", "metadata", "annotations"),
                value={"prometheus.io/scrape": "true", "prometheus.io/port": "8000"},
            ),
        ],
        "port 8000; metrics are on 8002",
        [
            drop("PodMonitor"),
            put(
                "Deployment",
                *("spec", "template", "metadata", "annotations"),
                value={"prometheus.io/scrape": "false", "prometheus.io/port": "8000"},
            ),
        ],
    ),
    Case(
        "monitor-port-wrong",
        [
            drop("PodMonitor"),
            put("Service", "metadata", "labels", value={"scraped": "yes"}),
            add(SERVICE_MONITOR % "http"),
        ],
        "port http; metrics are on 8002",
        [
            drop("PodMonitor"),
            put("Service", "metadata", "labels", value={"scraped": "yes"}),
            put("Service", "spec", "ports", 2, value={"name": "metrics", "port": 8002}),
            add(SERVICE_MONITOR % "metrics"),
        ],
    ),
    Case(
        "scraped-twice",
        [
            put(
                "Deployment",
                *("spec", "template", "metadata", "annotations"),
                value={"prometheus.io/scrape": "true", "prometheus.io/port": "8002"},
            )
        ],
        "PodMonitor/stoker and annotations",
        [
            put(
                "Deployment",
                *("spec", "template", "metadata", "annotations"),
                value={"prometheus.io/scrape": "false"},
            )
        ],
    ),
    Case(
        "rules-loaded-twice",
        [
            add(
                ALERT % ("vision-stoker", "StokerNotReady")
                + "---"
                + ALERT % ("a", "StokerNotReady")
            )
        ],
        "StokerNotReady is in PrometheusRule/vision-stoker and in PrometheusRule/a",
        [add(ALERT % ("vision-stoker", "StokerNotReady") + "---" + ALERT % ("a", "NotReady"))],
    ),
    Case(
        "policy-shuts-clients-out",
        [take("NetworkPolicy", "spec", "ingress", 0)],
        "nobody may reach 8000 or 8001",
        [put("NetworkPolicy", "spec", "ingress", 0, "ports", value=[{"port": 8001}])],
    ),
    Case(
        "policy-shuts-clients-out",
        [
            put("NetworkPolicy", "spec", "ingress", 0, "ports", 0, value={"port": 80}),
            put("NetworkPolicy", "spec", "ingress", 0, "ports", 1, "protocol", value="UDP"),
        ],
        "nobody may reach",
        [
            put(
                "NetworkPolicy",
                "spec",
                "ingress",
                0,
                "ports",
                value=[{"port": 80, "endPort": 9000}],
            )
        ],
    ),
    Case(
        "policy-shuts-monitoring-out",
        [take("NetworkPolicy", "spec", "ingress", 1)],
        "nobody may reach 8002",
        [put("NetworkPolicy", "spec", "ingress", value=[{}])],
    ),
    Case(
        "policy-shuts-tracing-out",
        [*traced(OBSERVED, "4318")],
        "nothing may leave to collector.observability:4317",
        [*traced(OBSERVED, "4317")],
    ),
    Case(
        "policy-shuts-tracing-out",
        [*traced(OBSERVED.replace("observability", "monitoring"), "4317")],
        "nothing may leave to collector.observability:4317",
        [*traced("{ipBlock: {cidr: 10.0.0.0/8}}", "4317")],
    ),
    Case(
        "policy-shuts-tracing-out",
        [*traced(OBSERVED, "80"), variable("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")],
        "nothing may leave",
        [*traced(OBSERVED, "80"), variable("OTEL_TRACES_EXPORTER", "none")],
    ),
    # Security
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
    # Accepted findings
    Case(
        "acceptance-unknown",
        [
            put(
                "Service",
                "metadata",
                "annotations",
                ACCEPTED,
                value="service-links, sesion-affinity",
            )
        ],
        "sesion-affinity; did you mean session-affinity?",
        [
            put(
                "Service",
                "metadata",
                "annotations",
                ACCEPTED,
                value="service-links, token-mounted,",
            )
        ],
    ),
    Case(
        "acceptance-unknown",
        [put("Deployment", "metadata", "annotations", "stoker/lint-acept", value="token-mounted")],
        "stoker/lint-acept; did you mean stoker/lint-accept?",
        [put("Deployment", "metadata", "annotations", "other/lint-acept", value="token-mounted")],
    ),
    Case(
        "acceptance-unknown",
        [notes({ACCEPTED: "token-mounted", SAFE_TO_EVICT: "true"})],
        "stoker/lint-accept of the pods; it is read of the Deployment",
        [put("Deployment", "metadata", "annotations", ACCEPTED, value="token-mounted")],
    ),
)
