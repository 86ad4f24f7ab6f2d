"""GPUs: tolerated, used, fed, and large enough. How they are asked for: `gpu_requests.py`.

Source: reference, Kubernetes production practice, sections 2 and 7.
"""

import re
from collections.abc import Iterator
from typing import Final

from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.gpu_sizes import mig_bytes
from stoker.deploy.manifest import JsonObject, mapping, numbered, objects, text
from stoker.deploy.quantity import GIB, parse_quantity
from stoker.deploy.workload import gpus, has_gpu

TAINT: Final = "nvidia.com/gpu"
_GPU_LABEL: Final = re.compile(r"^nvidia\.com/gpu\.|accelerator|instance-gpu-")
"""Labels of nodes with GPUs: of GPU Feature Discovery, of GKE (cloud.google.com/gke-accelerator),
AKS and EKS (.../accelerator), and Karpenter (karpenter.k8s.aws/instance-gpu-name)."""
LEAST_CPUS: Final = 2
"""One for the event loop, one for the threads that launch kernels and copy batches."""


def _visible_devices(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            for index, each in numbered(server.value, "env"):
                if text(each, "name") == "NVIDIA_VISIBLE_DEVICES":
                    path = f"{server.path}.env[{index}]"
                    yield Hit(
                        workload.manifest, path, text(each, "value") or "a value from elsewhere"
                    )


def _cpu_image(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            found = gpus(server.value)
            if found and server.image.is_cpu_variant:
                image = text(server.value, "image")
                yield Hit(workload.manifest, f"{server.path}.image", f"{image} with {_all(found)}")


def _gpu_unused(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            found = gpus(server.value)
            if found and server.settings.device == "cpu":
                yield Hit(workload.manifest, server.path, f"device cpu with {_all(found)}")


def _not_required(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers if has_gpu(workload) else ():
            if server.settings.device == "auto" and "device" in server.mentioned:
                got = _all(gpus(server.value)) or "a claim"
                yield Hit(workload.manifest, server.path, f"device auto with {got}")


def _all(amounts: dict[str, str]) -> str:
    return ", ".join(f"{name}: {amount}" for name, amount in amounts.items())


def _no_toleration(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        if workload.is_kserve or not has_gpu(workload):
            continue
        if not any(_tolerates(each) for each in objects(workload.pod, "tolerations")):
            path = f"{workload.path}.tolerations"
            yield Hit(workload.manifest, path, f"no toleration of the taint {TAINT}")


def _tolerates(toleration: JsonObject) -> bool:
    key, effect = text(toleration, "key"), text(toleration, "effect")
    return key in ("", TAINT) and effect in ("", "NoSchedule")


def _little_cpu(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers if has_gpu(workload) else ():
            for part in ("requests", "limits"):
                amount = parse_quantity(server.value, "resources", part, "cpu")
                if amount is not None and amount < LEAST_CPUS:
                    path = f"{server.path}.resources.{part}.cpu"
                    yield Hit(workload.manifest, path, f"{float(amount):g} for a pod with a GPU")


def _shared(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            shared = [name for name in gpus(server.value) if name.endswith(".shared")]
            if shared and "gpu_memory_share" not in server.mentioned:
                yield Hit(
                    workload.manifest, server.path, f"{shared[0]}, and no share of its memory"
                )


def _small_slice(subject: Subject) -> Iterator[Hit]:
    measured = subject.measured
    taken = measured.gpu_bytes if measured is not None else None
    for workload in subject.workloads if taken is not None else ():
        for server in workload.servers:
            for name in gpus(server.value):
                slice_bytes = mig_bytes(name)
                share = server.settings.gpu_memory_share
                if slice_bytes is not None and taken is not None and taken > share * slice_bytes:
                    found = (
                        f"{name}: {slice_bytes / GIB:.0f} GiB, of which models may take "
                        f"{share:.0%}; they took {taken / GIB:.1f} GiB"
                    )
                    yield Hit(workload.manifest, f"{server.path}.resources.limits", found)


def _hard_spread(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        if not has_gpu(workload) or _keeps_to_gpu_nodes(workload.pod):
            continue
        for index, each in numbered(workload.pod, "topologySpreadConstraints"):
            if text(each, "whenUnsatisfiable") != "ScheduleAnyway":
                path = f"{workload.path}.topologySpreadConstraints[{index}]"
                yield Hit(
                    workload.manifest, path, f"DoNotSchedule over {text(each, 'topologyKey')}"
                )


def _keeps_to_gpu_nodes(pod: JsonObject) -> bool:
    """Whether the node selector, or every term of the node affinity, asks for a label that only
    nodes with GPUs have."""
    if any(_GPU_LABEL.search(key) for key in mapping(pod, "nodeSelector")):
        return True
    terms = objects(
        *(pod, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
        "nodeSelectorTerms",
    )
    return bool(terms) and all(
        any(
            _GPU_LABEL.search(text(each, "key"))
            and text(each, "operator") not in ("NotIn", "DoesNotExist")
            for each in objects(term, "matchExpressions")
        )
        for term in terms
    )


RULES = (
    Rule(
        "visible-devices-set",
        Severity.ERROR,
        "NVIDIA_VISIBLE_DEVICES in the container's variables",
        "The device plugin sets it for the GPUs that the pod was given; written by hand it shows "
        "other pods' GPUs, or none.",
        "Leave it out; ask for GPUs by `resources.limits` or a claim.",
        _visible_devices,
    ),
    Rule(
        "cpu-image-with-gpu",
        Severity.ERROR,
        "A GPU for the image without CUDA",
        "The image `:...-cpu` has ONNX Runtime's CPU package: the GPU is paid for and cannot be "
        "used.",
        "Use the image without `-cpu`, as components/gpu does, or take the GPU away.",
        _cpu_image,
    ),
    Rule(
        "gpu-unused",
        Severity.WARNING,
        "`device: cpu` with a GPU among the limits",
        "The pod holds a GPU that its server never looks at.",
        "Set STOKER_DEVICE to gpu, or take the GPU away.",
        _gpu_unused,
    ),
    Rule(
        "gpu-not-required",
        Severity.WARNING,
        "`device: auto` for a pod that gets a GPU",
        "Where the GPU cannot be used, for its driver say, the server serves from the CPU: ready, "
        "many times slower, and the GPU is paid for.",
        "Set STOKER_DEVICE to gpu: without a usable GPU the pod is not ready, and says why.",
        _not_required,
    ),
    Rule(
        "gpu-without-toleration",
        Severity.WARNING,
        f"A GPU without a toleration of `{TAINT}`",
        "GPU nodes usually carry that taint: the pod stays pending, but for clusters whose "
        "admission adds the toleration.",
        f"tolerations: [{{key: {TAINT}, operator: Exists, effect: NoSchedule}}].",
        _no_toleration,
    ),
    Rule(
        "gpu-with-little-cpu",
        Severity.WARNING,
        f"A pod with a GPU and less than {LEAST_CPUS} CPUs",
        "The front end reads, batches and answers for the whole device: throttled, it starves the "
        "GPU.",
        "requests.cpu 4 and limits.cpu 8, as components/gpu has them.",
        _little_cpu,
    ),
    Rule(
        "shared-gpu-without-share",
        Severity.WARNING,
        "A time-sliced GPU (`nvidia.com/gpu.shared`) without gpu_memory_share",
        "Every pod on it sees all of its memory and lets its models take 90 %: the next one to "
        "grow runs out, whoever's it is.",
        "Set STOKER_GPU_MEMORY_SHARE to the pod's part, 0.4 for two pods say.",
        _shared,
    ),
    Rule(
        "mig-slice-too-small",
        Severity.ERROR,
        "A MIG slice with less memory than the models were measured to take",
        "The models do not load, and the pod is never ready.",
        "Ask for a larger profile; `stoker k8s init` names one.",
        _small_slice,
    ),
    Rule(
        "hard-spread-with-gpus",
        Severity.WARNING,
        "A topology spread constraint of DoNotSchedule for pods with GPUs, whose node selector or "
        "affinity does not keep to nodes that have one",
        "Every node that the pod could go to counts: beside empty nodes without a GPU no node gets "
        "a second pod, and GPUs stay free.",
        "whenUnsatisfiable: ScheduleAnyway; or a node affinity that asks for a label "
        "nvidia.com/gpu.* in every term, as overlays/production has it.",
        _hard_spread,
    ),
)
