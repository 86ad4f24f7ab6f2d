"""The kustomization of an overlay: which base, components, names, images and models.

Text in, nothing read or written: `init_command.py` writes the files. The patches with the measured
numbers are `overlay_patches.py`'s.
"""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from stoker import __version__
from stoker.deploy.base_location import BaseLocation
from stoker.deploy.gpu_sizes import GpuSize
from stoker.deploy.image import CPU_TAG, parse_image
from stoker.deploy.models_volume import claim, download_volume_patch
from stoker.deploy.overlay_patches import (
    deployment_patch,
    gpu_claim_patch,
    gpu_memory_patch,
    hpa_patch,
    keda_patch,
    mig_patch,
    models_argument_patch,
    no_budget_patch,
    quoted,
)
from stoker.deploy.sizing import Sizing, Wishes

Autoscaler: TypeAlias = Literal["hpa", "keda", "none"]
ModelsKind: TypeAlias = Literal["demo", "baked", "pvc", "s3", "image"]
GpuBy: TypeAlias = Literal["limit", "mig", "dra"]
Monitoring: TypeAlias = Literal["operator", "scrape", "annotations"]
"""The Prometheus Operator scrapes, and loads rules and a dashboard; it scrapes, and has those from
another deployment; annotations are left for who follows them."""

BASE_NAME: Final = "stoker"
"""The name of the base's objects."""
CLAIM_NAME: Final = "stoker-models"
"""The claim that components/models-pvc mounts."""
CLAIM_FILE: Final = "claim.yaml"
_GPU_CLAIM: Final = "stoker-gpu"
"""The ResourceClaimTemplate of components/dra."""
_MODELS_COMPONENT: Final[Mapping[ModelsKind, str]] = {
    "pvc": "models-pvc",
    "s3": "models-s3",
    "image": "models-image-volume",
}


_MONITORING_COMPONENT: Final[Mapping[Monitoring, str]] = {
    "operator": "monitoring",
    "scrape": "scrape",
}


@dataclass(frozen=True, slots=True)
class ModelsPlace:
    """Where the pods get the models from."""

    kind: ModelsKind
    place: str = ""
    """A claim's name, BUCKET/PREFIX, or an image; empty: the component's own."""


@dataclass(frozen=True, slots=True)
class OverlayOptions:
    """What goes into an overlay beside the numbers."""

    models: ModelsPlace
    name: str = BASE_NAME
    namespace: str = ""
    image: str = BASE_NAME
    model_name: str = ""
    """Of the one model, where the source is a model and no repository."""
    autoscaler: Autoscaler = "hpa"
    monitoring: Monitoring = "operator"
    gpu_by: GpuBy = "limit"
    prometheus: str = ""
    """For KEDA; empty: the component's address."""


def components(options: OverlayOptions, wishes: Wishes) -> list[str]:
    """The components that an overlay needs, in the order in which they are laid."""
    found = []
    if wishes.device == "gpu":
        found.append({"limit": "gpu", "mig": "mig", "dra": "dra"}[options.gpu_by])
    model_component = _MODELS_COMPONENT.get(options.models.kind)
    if model_component:
        found.append(model_component)
    monitoring_component = _MONITORING_COMPONENT.get(options.monitoring)
    if monitoring_component:
        found.append(monitoring_component)
    if options.autoscaler != "none":
        found.append(f"autoscaling-{options.autoscaler}")
    return found


def overlay_files(
    options: OverlayOptions,
    wishes: Wishes,
    sizing: Sizing,
    base: BaseLocation,
    *,
    gpu_terms: list[int],
) -> dict[str, str]:
    """The files of the overlay by name. `gpu_terms` are the terms of components/gpu's node affinity
    that ask for labels of GPU Feature Discovery."""
    patches: dict[str, tuple[str, str]] = {
        "deployment.yaml": ("", deployment_patch(options.model_name, wishes, sizing))
    }
    if options.models.kind == "baked":
        patches["models.yaml"] = ("Deployment", models_argument_patch())
    if options.models.kind == "s3":
        patches["models.yaml"] = ("", download_volume_patch(sizing.volume))
    if sizing.gpu is not None and options.gpu_by == "limit" and gpu_terms:
        patches["gpu-memory.yaml"] = ("Deployment", gpu_memory_patch(sizing.gpu, gpu_terms))
    if sizing.gpu is not None and options.gpu_by == "dra":
        patches["gpu-memory.yaml"] = ("ResourceClaimTemplate", gpu_claim_patch(sizing.gpu))
    if options.gpu_by == "mig" and wishes.device == "gpu" and sizing.gpu is not None:
        patches["mig.yaml"] = ("Deployment", mig_patch(_slice(sizing)))
    if options.autoscaler == "hpa":
        patches["autoscaler.yaml"] = ("HorizontalPodAutoscaler", hpa_patch(wishes))
    elif options.autoscaler == "keda":
        patches["autoscaler.yaml"] = (
            "ScaledObject",
            keda_patch(wishes, options.namespace, _workload_name(options), options.prometheus),
        )
    if not sizing.has_budget:
        patches["budget.yaml"] = ("", no_budget_patch())
    files = {name: text for name, (_, text) in patches.items()}
    targets = {name: kind for name, (kind, _) in patches.items()}
    if options.name != BASE_NAME:
        files["names.yaml"] = _names()
    if options.models.kind == "pvc":
        name = options.models.place or CLAIM_NAME
        namespace = quoted(options.namespace) if options.namespace else ""
        files[CLAIM_FILE] = claim(sizing.volume, quoted(name), namespace)
    files["kustomization.yaml"] = _kustomization(options, wishes, sizing, base, targets)
    return files


def _slice(sizing: Sizing) -> GpuSize:
    if sizing.gpu is None or sizing.gpu.slice is None:
        raise ValueError("expected a MIG slice that has room for the models")
    return sizing.gpu.slice


def _workload_name(options: OverlayOptions) -> str:
    return BASE_NAME if options.name == BASE_NAME else f"{options.name}-{BASE_NAME}"


def _kustomization(
    options: OverlayOptions,
    wishes: Wishes,
    sizing: Sizing,
    base: BaseLocation,
    targets: Mapping[str, str],
) -> str:
    lines = [
        f"# Written by `stoker k8s init` {__version__} for the models of measured.json; to measure",
        "# again: the same command with --force. Each number has its origin beside it.",
        *_wrapped(sizing.notes),
        "apiVersion: kustomize.config.k8s.io/v1beta1",
        "kind: Kustomization",
    ]
    if options.namespace:
        lines.append(f"namespace: {quoted(options.namespace)}")
    if options.name != BASE_NAME:
        lines += [
            "# Several deployments in one namespace: names and selectors tell them apart.",
            f"namePrefix: {options.name}-",
            "labels:",
            "  - pairs:",
            f"      app.kubernetes.io/instance: {quoted(options.name)}",
            "    includeSelectors: true",
            "    includeTemplates: true",
            "    fields:",
            "      - {path: spec/selector/matchLabels, kind: PodMonitor, create: false}",
            "# Fields of custom kinds that name another object.",
            "configurations: [names.yaml]",
        ]
    lines += [f"# {base.origin[0].upper()}{base.origin[1:]}.", "resources:"]
    lines += [f"  - {base.entry('base')}"]
    names = components(options, wishes)
    if names:
        lines.append("components:")
        lines += [f"  - {base.entry(f'components/{name}')}" for name in names]
    lines += ["images:", *_image(BASE_NAME, _with_variant(options.image, wishes))]
    if options.autoscaler == "none":
        lines += ["replicas:", f"  - {{name: {BASE_NAME}, count: {wishes.least}}}"]
    lines.append("patches:")
    for name, kind in targets.items():
        lines.append(f"  - path: {name}")
        if kind:
            target = _GPU_CLAIM if kind == "ResourceClaimTemplate" else BASE_NAME
            lines.append(f"    target: {{kind: {kind}, name: {target}}}")
    if options.models.kind == "pvc" and options.models.place:
        lines += _claim(options.models.place)
    if options.models.kind == "image" and options.models.place:
        lines += _image_volume(options.models.place)
    if options.models.kind == "s3" and options.models.place:
        lines += _bucket(options.models.place)
    return "\n".join(lines) + "\n"


def _wrapped(sentences: tuple[str, ...]) -> list[str]:
    """Comments of at most 100 columns, an item each."""
    return [
        line
        for sentence in sentences
        for line in textwrap.wrap(
            sentence, 100, initial_indent="# - ", subsequent_indent="#   ", break_on_hyphens=False
        )
    ]


def _with_variant(reference: str, wishes: Wishes) -> str:
    """The image, with this version's tag where none is written."""
    image = parse_image(reference)
    if image.tag or image.digest:
        return reference
    return f"{reference}:{__version__}{CPU_TAG if wishes.device == 'cpu' else ''}"


def _image(name: str, reference: str) -> list[str]:
    image = parse_image(reference)
    lines = [f"  - name: {name}"]
    if image.repository != name:
        lines.append(f"    newName: {quoted(image.repository)}")
    if image.digest:
        lines.append(f"    digest: {quoted(image.digest)}")
    elif image.tag:
        lines.append(f"    newTag: {quoted(image.tag)}")
    return lines


def _claim(name: str) -> list[str]:
    return _models_volume(f"persistentVolumeClaim: {{claimName: {quoted(name)}}}")


def _image_volume(reference: str) -> list[str]:
    # A patch: `images` of kustomize before 5.8 does not look at volumes.
    return _models_volume(f"image: {{reference: {quoted(reference)}}}")


def _models_volume(source: str) -> list[str]:
    """A patch of the volume that holds the models."""
    return [
        f"  - target: {{kind: Deployment, name: {BASE_NAME}}}",
        "    patch: |-",
        "      apiVersion: apps/v1",
        "      kind: Deployment",
        f"      metadata: {{name: {BASE_NAME}}}",
        "      spec:",
        "        template:",
        "          spec:",
        "            volumes:",
        "              - name: models",
        f"                {source}",
    ]


def _bucket(place: str) -> list[str]:
    # A patch: a generator of this kustomization runs before the component's.
    return [
        "  - target: {kind: ConfigMap, name: stoker-models-s3}",
        "    patch: |-",
        "      - op: replace",
        "        path: /data/MODELS_SOURCE",
        f"        value: {quoted(f'models:{place}')}",
    ]


def _names() -> str:
    return """\
# Which fields of custom kinds hold the name of another object, so that a prefix reaches them.
nameReference:
  - kind: Deployment
    fieldSpecs:
      - {path: spec/scaleTargetRef/name, kind: ScaledObject}
  - kind: ResourceClaimTemplate
    fieldSpecs:
      - {path: spec/template/spec/resourceClaims/resourceClaimTemplateName, kind: Deployment}
"""
