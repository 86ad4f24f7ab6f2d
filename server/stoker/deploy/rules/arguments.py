"""What the server is started with: settings that it would refuse, the image, the first process.

Settings are read by the server's own code (`container.py`), so what is found here is what it would
say at its start.
"""

from collections.abc import Iterator
from typing import Final

from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.image import parse_image
from stoker.deploy.kserve import PREDICTOR, predictors
from stoker.deploy.manifest import numbered, text
from stoker.deploy.workload import Workload


def _refused(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            for problem in server.problems:
                yield Hit(workload.manifest, server.path, str(problem))
        if workload.is_runtime:
            yield from _refused_of_services(workload, subject)


def _refused_of_services(runtime: Workload, subject: Subject) -> Iterator[Hit]:
    """What an InferenceService adds to its runtime, and the server refuses."""
    known = {problem for server in runtime.servers for problem in server.problems}
    for end in predictors(runtime, subject.manifests):
        for server in end.servers:
            for problem in server.problems:
                if problem not in known:
                    yield Hit(end.manifest, f"{'.'.join(PREDICTOR)}.model", str(problem))


def _elsewhere(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            for sentence in server.unread:
                yield Hit(workload.manifest, server.path, sentence)


def _hidden(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            for sentence in server.hidden:
                yield Hit(workload.manifest, server.path, sentence)


def _shell(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            if server.runs_in_a_shell:
                yield Hit(
                    workload.manifest, f"{server.path}.command", f"`{' '.join(server.words[:3])}`"
                )


def _unpinned(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            image = server.image
            if not image.digest and image.tag in ("", "latest"):
                written = text(server.value, "image") or "no image"
                yield Hit(workload.manifest, f"{server.path}.image", written)
        for index, container in numbered(workload.pod, "initContainers"):
            image = parse_image(text(container, "image"))
            if image.repository and not image.digest and image.tag in ("", "latest"):
                path = f"{workload.path}.initContainers[{index}].image"
                yield Hit(workload.manifest, path, text(container, "image"))
        for path, written in _image_volumes(workload):
            image = parse_image(written)
            if not image.digest and image.tag in ("", "latest"):
                yield Hit(workload.manifest, path, written)


def _image_volumes(workload: Workload) -> Iterator[tuple[str, str]]:
    """(path, reference) of the images that a pod mounts as volumes."""
    for index, volume in numbered(workload.pod, "volumes"):
        written = text(volume, "image", "reference")
        if written:
            yield f"{workload.path}.volumes[{index}].image.reference", written


def _no_digest(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            image = server.image
            has_registry = "/" in image.repository
            if has_registry and not image.digest and image.tag not in ("", "latest"):
                written = text(server.value, "image")
                yield Hit(workload.manifest, f"{server.path}.image", written)


def _no_registry(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            name = server.image.repository
            is_loaded = text(server.value, "imagePullPolicy") == "Never"
            if name and "/" not in name and not is_loaded:
                written = text(server.value, "image")
                found = f"{written}, which names no registry"
                yield Hit(workload.manifest, f"{server.path}.image", found)
        for path, written in _image_volumes(workload):
            if "/" not in parse_image(written).repository:
                yield Hit(workload.manifest, path, f"{written}, which names no registry", _VOLUME)


def _kserve_name(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers if workload.is_kserve else ():
            name = text(server.value, "name")
            if name != "kserve-container":
                yield Hit(workload.manifest, f"{server.path}.name", repr(name))


_VOLUME: Final = (
    "`images: [{name: stoker-models, newName: your-registry/models}]` in the kustomization."
)

RULES = (
    Rule(
        "settings-refused",
        Severity.ERROR,
        "An argument, `STOKER_*` variable or key of the settings' file that the server refuses",
        "The server ends with exit code 2 at every start: unknown names and wrong values are never "
        "ignored.",
        "Write the setting as docs/configuration.md has it.",
        _refused,
    ),
    Rule(
        "settings-elsewhere",
        Severity.INFO,
        "A setting whose value is not in these manifests",
        "It comes from a Secret or a ConfigMap that was not given, so defaults were judged in its "
        "place.",
        "Render the ConfigMap together with the rest, or look at the setting yourself.",
        _elsewhere,
    ),
    Rule(
        "setting-hidden",
        Severity.INFO,
        "A key of the settings' file in a ConfigMap that a flag or a variable, of the image too, "
        "has another value for",
        "Flags win over variables, variables over the file: whoever reads or changes the file is "
        "misled.",
        "One place for each setting.",
        _hidden,
    ),
    Rule(
        "shell-first-process",
        Severity.ERROR,
        "A shell as the first process of the server's container",
        "SIGTERM reaches the shell, which does not pass it on: nothing drains, and SIGKILL ends "
        "what is in flight.",
        "Give the server's words as `args`, without `command`; or begin with `exec`.",
        _shell,
    ),
    Rule(
        "image-not-pinned",
        Severity.WARNING,
        "An image without a tag, or with `latest`: the server's, an init container's, or that of a "
        "volume",
        "Pods that start later run another version than those beside them, and a rollback does "
        "not bring the old one back.",
        "Name the version, best by digest: `images:` of the kustomization.",
        _unpinned,
    ),
    Rule(
        "image-without-digest",
        Severity.INFO,
        "The server's image from a registry by tag alone",
        "A tag can be moved to another image; a digest is one image for ever.",
        "`images: [{name: stoker, newName: ..., digest: sha256:...}]`.",
        _no_digest,
    ),
    Rule(
        "image-without-registry",
        Severity.WARNING,
        "The server's image, or that of a volume, without the registry that it is in",
        "Nodes look for it in their default registry, where nobody put it: ImagePullBackOff, but "
        "where it was loaded onto every node by hand, as on a laptop's cluster.",
        "`images: [{name: stoker, newName: your-registry/stoker}]` in the kustomization; or accept "
        "it: docs/k8s-lint.md, Accepting a finding.",
        _no_registry,
    ),
    Rule(
        "kserve-container-name",
        Severity.ERROR,
        "The serving container of a KServe runtime that is not called `kserve-container`",
        "KServe finds the serving container by that name: model arguments, probes and ports would "
        "go nowhere.",
        "`name: kserve-container`.",
        _kserve_name,
    ),
)
