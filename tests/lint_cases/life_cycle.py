"""Cases of `stoker k8s lint`: Life cycle."""

from typing import Final

from stoker.deploy.rules.eviction import SAFE_TO_EVICT, SAFE_VOLUMES

from tests.broken_manifests import (
    POD,
    Edit,
    add,
    drop,
    measurement,
    pod,
    put,
    server,
    take,
    variable,
)
from tests.lint_cases.case import Case
from tests.lint_cases.pieces import (
    DOWNLOADED,
    HPA,
    NO_GPU,
    RUNTIME,
    inference_service,
    notes,
    runtime,
)

SURGE: Final = ("spec", "strategy", "rollingUpdate", "maxSurge")
UNAVAILABLE: Final = ("spec", "strategy", "rollingUpdate", "maxUnavailable")


def hook(*command: str) -> Edit:
    """A preStop that runs a command."""
    return server("lifecycle", value={"preStop": {"exec": {"command": list(command)}}})


CASES: Final = (
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
)
