"""GPUs as they are asked for: by a limit or by a claim, once, and where the server needs one.

Source: reference, Kubernetes production practice, section 2; Kubernetes, "Dynamic resource
allocation".
"""

from collections.abc import Iterator

from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.manifest import JsonObject, Manifest, numbered, objects, text
from stoker.deploy.workload import GPU_RESOURCES, Workload, gpus, same_namespace


def _request_differs(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            limits = gpus(server.value)
            requests = gpus(server.value, "requests")
            for name in sorted(requests):
                if requests[name] != limits.get(name):
                    path = f"{server.path}.resources.requests.{name}"
                    limit = limits.get(name, "none")
                    yield Hit(workload.manifest, path, f"request {requests[name]}, limit {limit}")


def _gpu_missing(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        if workload.is_runtime or workload.claims_devices:
            continue  # an InferenceService adds the resource, a claim the device
        for server in workload.servers:
            settings = server.settings
            if not server.device_is_known or gpus(server.value):
                continue
            if settings.device == "gpu":
                resources = f"{server.path}.resources.limits"
                yield Hit(workload.manifest, resources, "device gpu, and no GPU among the limits")


def _asked_twice(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        claims = [
            f"the claim {text(each, 'name')}"
            for each in objects(workload.pod, "resourceClaims")
            if _may_be_gpu(subject, workload, each)
        ]
        for server in workload.servers:
            found = gpus(server.value)
            if len(found) > 1 or (found and claims):
                shown = " and ".join(
                    [*(f"{name}: {each}" for name, each in found.items()), *claims]
                )
                yield Hit(workload.manifest, f"{server.path}.resources.limits", shown)


def _template(subject: Subject, workload: Workload, name: str) -> Manifest | None:
    for each in subject.of_kind("ResourceClaimTemplate"):
        if each.name == name and same_namespace(each, workload.manifest):
            return each
    return None


def _may_be_gpu(subject: Subject, workload: Workload, claim: JsonObject) -> bool:
    """Whether a pod's claim is for a GPU, as far as its template is known."""
    template = _template(subject, workload, text(claim, "resourceClaimTemplateName"))
    if template is None:
        return True
    requests = objects(template.value, "spec", "spec", "devices", "requests")
    classes = [
        text(each, "exactly", "deviceClassName") or text(each, "deviceClassName")
        for each in requests
    ]
    return any("gpu" in each or "mig" in each for each in classes)


def _no_template(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        if text(workload.manifest.value, "metadata", "uid"):
            continue  # from a cluster, whose other objects were perhaps not asked for
        for index, claim in numbered(workload.pod, "resourceClaims"):
            name = text(claim, "resourceClaimTemplateName")
            if name and _template(subject, workload, name) is None:
                path = f"{workload.path}.resourceClaims[{index}]"
                found = f"{name} is not among these manifests"
                yield Hit(workload.manifest, path, found)


RULES = (
    Rule(
        "gpu-request-differs",
        Severity.ERROR,
        f"A request for `{GPU_RESOURCES[0]}` (or a MIG slice) that is not its limit",
        "Extended resources cannot be overcommitted: the API server refuses the pod.",
        "Leave the request out; the limit stands for both.",
        _request_differs,
    ),
    Rule(
        "gpu-required-and-missing",
        Severity.ERROR,
        "`device: gpu` without a GPU among the limits and without a claim",
        "The server insists on a GPU that the pod does not get, and is never ready.",
        "Add components/gpu (or mig, dra), or set `device` to cpu.",
        _gpu_missing,
    ),
    Rule(
        "gpu-asked-twice",
        Severity.ERROR,
        "Two kinds of GPU for one container: a GPU and a MIG slice, or a limit and a claim",
        "The pod waits for a node that has both, for ever where none has; else it holds two "
        "devices.",
        "One of components/gpu, mig and dra: the latter two take the limit of the first away, but "
        "not each other's.",
        _asked_twice,
    ),
    Rule(
        "claim-template-missing",
        Severity.WARNING,
        "A claim whose ResourceClaimTemplate is not among the manifests",
        "The pod stays pending until there is one of that name in its namespace.",
        "Apply it together with the pod, as components/dra does.",
        _no_template,
    ),
)
