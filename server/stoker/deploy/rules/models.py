"""Models: whether the server reads the volume that holds them, and whether they fit into it.

Source: docs/kubernetes.md; Kubernetes, "Local ephemeral storage".
"""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final

from stoker.deploy.container import ServerContainer
from stoker.deploy.download import download_volumes
from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.manifest import mapping, numbered, objects, text
from stoker.deploy.quantity import format_memory, parse_quantity
from stoker.deploy.rules.resources import pod_storage
from stoker.deploy.workload import Workload

_OF_FILES: Final = ("configMap", "secret", "downwardAPI", "projected")
"""Volumes of settings and keys, whatever they are called."""
_OF_MODELS: Final = ("image", "persistentVolumeClaim", "nfs")
"""Volumes that outlive the pod, or came before it."""


def _unread(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            sources = server.settings.sources
            if not all(each.startswith("/") for each in sources):
                continue  # in a store, or relative to a folder that the image sets
            if any("argument" in each for each in server.unread):
                continue
            if server.unread and not sources:
                continue  # what was not given, a file or variables, may name them
            places = [PurePosixPath(each) for each in sources]
            for index, name, place in _model_mounts(workload, server, places):
                if not any(_meet(place, each) for each in places):
                    served = ", ".join(sources) or "its demo models"
                    mend = f"args: [serve, {place}, ...], or mount the volume where it looks."
                    path = f"{server.path}.volumeMounts[{index}]"
                    found = f"{name} at {place}; the server serves {served}"
                    yield Hit(workload.manifest, path, found, mend)


def _model_mounts(
    workload: Workload, server: ServerContainer, sources: Sequence[PurePosixPath]
) -> Iterator[tuple[int, str, PurePosixPath]]:
    """(index, volume, path) of the mounts that hold models, by their name or their kind: those that
    are only read, and all where nothing is mounted where the server looks."""
    volumes = {text(each, "name"): each for each in objects(workload.pod, "volumes")}
    mounts = numbered(server.value, "volumeMounts")
    paths = [PurePosixPath(text(mount, "mountPath")) for _, mount in mounts]
    is_nowhere = bool(sources) and not any(
        _meet(path, source) for path in paths for source in sources
    )
    caches = [PurePosixPath(each) for each in (server.settings.trt_cache_dir,) if each]
    for (index, mount), path in zip(mounts, paths, strict=True):
        volume = volumes.get(text(mount, "name"), {})
        if volume.keys() & set(_OF_FILES) or any(_meet(path, cache) for cache in caches):
            continue
        is_called_so = "models" in f"{text(mount, 'name')} {path}".lower()
        is_only_read = text(mount, "readOnly") == "true" or "image" in volume
        is_large = bool(volume.keys() & set(_OF_MODELS))
        is_theirs = is_only_read or is_nowhere or (is_called_so and not sources)
        if (is_called_so or is_large) and is_theirs:
            yield index, text(mount, "name"), path


def _meet(one: PurePosixPath, other: PurePosixPath) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _too_large(subject: Subject) -> Iterator[Hit]:
    nbytes = subject.measured.download_bytes if subject.measured is not None else 0
    for workload in subject.workloads if nbytes else ():
        downloaded = download_volumes(workload)
        shown = f"the models are {format_memory(nbytes)}"
        for index, volume in numbered(workload.pod, "volumes"):
            size = parse_quantity(mapping(volume, "emptyDir"), "sizeLimit")
            if text(volume, "name") in downloaded and size is not None and size < nbytes:
                found = f"{text(volume, 'name')}: {format_memory(int(size))}; {shown}"
                path = f"{workload.path}.volumes[{index}].emptyDir.sizeLimit"
                yield Hit(workload.manifest, path, found)
        limit = pod_storage(workload)
        if (downloaded or workload.is_runtime) and limit is not None and limit < nbytes:
            path = f"{workload.servers[0].path}.resources.limits.ephemeral-storage"
            yield Hit(workload.manifest, path, f"{format_memory(int(limit))}; {shown}")


RULES = (
    Rule(
        "models-volume-unread",
        Severity.ERROR,
        "A volume of models that the server is not told to serve",
        "Without an argument it serves the demo models: everything is green, and yours are not "
        "there. With another folder it finds none, and is never ready.",
        'The mount\'s path as an argument after "serve".',
        _unread,
    ),
    Rule(
        "models-exceed-storage",
        Severity.ERROR,
        "An emptyDir or an ephemeral-storage limit smaller than the measured models that are "
        "downloaded into it",
        "The kubelet evicts the pod during the download, and every pod after it.",
        "sizeLimit and limits.ephemeral-storage above the models' size, with room to grow: "
        "`stoker k8s init` measures it.",
        _too_large,
    ),
)
