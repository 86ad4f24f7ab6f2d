"""InferenceServices that run in a runtime of KServe: which, and what their pods' server is set to.

A runtime holds containers and no life cycle; the InferenceService adds arguments and variables of
its own, and says how long a pod may take to end. KServe makes the pod of both.  Source: KServe,
"Serving Runtimes" and MergeRuntimeContainers; Knative Serving, revision timeout.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from stoker.deploy.container import ServerContainer, server_container
from stoker.deploy.manifest import (
    JsonObject,
    Manifest,
    mapping,
    number,
    objects,
    text,
    texts,
)
from stoker.deploy.workload import CLUSTER_RUNTIME, RUNTIMES, Workload, same_namespace

PREDICTOR: Final = ("spec", "predictor")
MODE: Final = "serving.kserve.io/deploymentMode"
_KNATIVE: Final = ("Knative", "Serverless")
"""The mode's name, and the one that it had before."""
STANDARD: Final = ("Standard", "RawDeployment")
"""The mode without Knative, likewise."""
KNATIVE_TIMEOUT_S: Final = 300
"""Of a revision that names none. It is its pods' grace period too, for which it has no field."""
_OF_THE_CONTAINER: Final = ("command", "lifecycle")
"""What a model's fields take the place of."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """The pods of one InferenceService in a runtime."""

    manifest: Manifest
    servers: tuple[ServerContainer, ...]
    """The runtime's, with what the InferenceService adds."""

    @property
    def grace_s(self) -> int | None:
        """How long its pods may take to end; None: as Kubernetes has it."""
        predictor = mapping(self.manifest.value, *PREDICTOR)
        if self.is_knative:
            return number(predictor, "timeout") or KNATIVE_TIMEOUT_S
        return number(predictor, "terminationGracePeriodSeconds")

    @property
    def grace_field(self) -> str:
        """The field that says it."""
        return "timeout" if self.is_knative else "terminationGracePeriodSeconds"

    @property
    def is_knative(self) -> bool:
        """Whether Knative makes its pods."""
        return self.manifest.annotations.get(MODE) in _KNATIVE


def predictors(runtime: Workload, manifests: Sequence[Manifest]) -> Iterator[Predictor]:
    """The InferenceServices among the manifests that run in that runtime."""
    runtimes = [each for each in manifests if each.kind in RUNTIMES]
    for service in manifests:
        model = mapping(service.value, *PREDICTOR, "model")
        if service.kind == "InferenceService" and _chosen(service, runtimes) is runtime.manifest:
            found = [_merged(runtime, each, service, model, manifests) for each in runtime.servers]
            yield Predictor(service, tuple(each for each in found if each is not None))


def _chosen(service: Manifest, runtimes: Sequence[Manifest]) -> Manifest | None:
    """The runtime that KServe takes: the one that is named, else of those that may be chosen for
    the format the one of highest priority; those of the namespace before those of the cluster."""
    model = mapping(service.value, *PREDICTOR, "model")
    within_reach = [
        each for each in runtimes if each.kind == CLUSTER_RUNTIME or same_namespace(each, service)
    ]
    named = text(model, "runtime")
    if named:
        suitable = [each for each in within_reach if each.name == named]
    else:
        suitable = [each for each in within_reach if _priority(each, model) >= 0]
    return max(
        suitable,
        key=lambda each: (each.kind != CLUSTER_RUNTIME, _priority(each, model)),
        default=None,
    )


def _priority(runtime: Manifest, model: JsonObject) -> int:
    """How much a runtime wants a model; below 0 where it is not chosen by itself."""
    protocol = text(model, "protocolVersion") or "v1"
    if protocol not in texts(runtime.value, "spec", "protocolVersions"):
        return -1
    wanted = text(model, "modelFormat", "name")
    return max(
        (
            number(each, "priority") or 0
            for each in objects(runtime.value, "spec", "supportedModelFormats")
            if text(each, "name") == wanted and mapping(each).get("autoSelect") is True
        ),
        default=-1,
    )


def _merged(
    runtime: Workload,
    server: ServerContainer,
    service: Manifest,
    model: JsonObject,
    manifests: Sequence[Manifest],
) -> ServerContainer | None:
    """The container as KServe makes it: arguments one after the other, variables by their name."""
    names = {text(each, "name") for each in objects(model, "env")}
    kept = [each for each in objects(server.value, "env") if text(each, "name") not in names]
    container: JsonObject = {
        **server.value,
        **{key: model[key] for key in _OF_THE_CONTAINER if key in model},
        "args": [*texts(server.value, "args"), *texts(model, "args")],
        "env": [*kept, *objects(model, "env")],
    }
    return server_container(
        container,
        server.path,
        labels=runtime.labels,
        volumes=objects(runtime.pod, "volumes"),
        config_maps=[
            each for each in manifests if each.kind == "ConfigMap" and same_namespace(each, service)
        ],
        is_alone=len(objects(runtime.pod, "containers")) == 1,
    )
