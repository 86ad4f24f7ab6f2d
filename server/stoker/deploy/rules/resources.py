"""CPU, memory and the places that a server writes to.

Source: reference, Kubernetes production practice, sections 7 and 8.2; docs/operating.md, Resources.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Final

from stoker.deploy.container import ServerContainer
from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.image import CACHE_FOLDER
from stoker.deploy.manifest import JsonObject, Manifest, mapping, numbered, objects, text, texts
from stoker.deploy.memory_need import memory_need
from stoker.deploy.quantity import format_memory, parse_quantity
from stoker.deploy.workload import Workload, has_gpu, least_replicas

TMP: Final = "/tmp"


def _servers(subject: Subject) -> Iterator[tuple[Manifest, Workload, ServerContainer]]:
    for workload in subject.workloads:
        for server in workload.servers:
            yield workload.manifest, workload, server


def _no_limit(subject: Subject, resource: str) -> Iterator[Hit]:
    for manifest, _, server in _servers(subject):
        if not text(server.value, "resources", "limits", resource):
            path = f"{server.path}.resources.limits.{resource}"
            yield Hit(manifest, path, f"no {resource} limit")


def _little_memory(subject: Subject) -> Iterator[Hit]:
    for manifest, workload, server in _servers(subject):
        limit = parse_quantity(server.value, "resources", "limits", "memory")
        if limit is None:
            continue
        need = memory_need(
            subject.measured,
            buffered_bytes=server.settings.max_buffered_bytes,
            volume_bytes=_memory_volumes(workload, server),
            for_gpu=has_gpu(workload),
        )
        if need.total > limit:
            parts = " + ".join(f"{part.name} {format_memory(part.nbytes)}" for part in need.parts)
            found = f"{format_memory(int(limit))}; {parts} = {format_memory(need.total)}"
            yield Hit(manifest, f"{server.path}.resources.limits.memory", found)


def _memory_volumes(workload: Workload, server: ServerContainer) -> int:
    """Bytes of memory that the container's mounted emptyDirs in memory may take."""
    mounted = {text(each, "name") for each in objects(server.value, "volumeMounts")}
    total = 0
    for volume in objects(workload.pod, "volumes"):
        directory = mapping(volume, "emptyDir")
        if directory.get("medium") == "Memory" and text(volume, "name") in mounted:
            total += int(parse_quantity(directory, "sizeLimit") or 0)
    return total


def _nowhere_to_write(subject: Subject) -> Iterator[Hit]:
    for manifest, workload, server in _servers(subject):
        is_read_only = text(server.value, "securityContext", "readOnlyRootFilesystem") == "true"
        uses_gpu = has_gpu(workload) or (server.settings.device == "gpu" and server.device_is_known)
        if not is_read_only or not uses_gpu:
            continue
        for folder in _written_folders(server):
            if not _is_writable(server, folder):
                path = f"{server.path}.volumeMounts"
                yield Hit(manifest, path, f"no writable volume holds {folder}")


def _written_folders(server: ServerContainer) -> tuple[str, ...]:
    """What a server with a GPU writes to: graphs that are counted, kernels, engines."""
    kernels = server.environment.get("CUDA_CACHE_PATH", f"{CACHE_FOLDER}/cuda")
    engines = server.settings.trt_cache_dir
    temporary = server.environment.get("TMPDIR", TMP)
    return tuple(dict.fromkeys(each for each in (temporary, kernels, engines) if each))


def _is_writable(server: ServerContainer, folder: str) -> bool:
    return any(
        PurePosixPath(folder).is_relative_to(text(mount, "mountPath") or "/nowhere")
        and text(mount, "readOnly") != "true"
        for mount in objects(server.value, "volumeMounts")
    )


def _sub_path(subject: Subject) -> Iterator[Hit]:
    for manifest, workload, server in _servers(subject):
        volumes = {text(each, "name"): each for each in objects(workload.pod, "volumes")}
        for index, mount in numbered(server.value, "volumeMounts"):
            volume = volumes.get(text(mount, "name"), {})
            kinds = {"configMap", "secret", "projected"} & volume.keys()
            if text(mount, "subPath") and kinds:
                path = f"{server.path}.volumeMounts[{index}].subPath"
                yield Hit(manifest, path, f"{text(mount, 'subPath')} of a {kinds.pop()}")


def _one_node(subject: Subject) -> Iterator[Hit]:
    claims = {
        (each.namespace, each.name): set(texts(each.value, "spec", "accessModes"))
        for each in subject.of_kind("PersistentVolumeClaim")
    }
    for workload in subject.workloads:
        replicas = least_replicas(workload, subject.scalers)
        if workload.manifest.kind not in ("Deployment", "ReplicaSet", "Rollout") or replicas < 2:
            continue
        for index, volume in numbered(workload.pod, "volumes"):
            name = text(volume, "persistentVolumeClaim", "claimName")
            modes = claims.get((workload.manifest.namespace, name), set())
            if modes and modes <= {"ReadWriteOnce", "ReadWriteOncePod"}:
                path = f"{workload.path}.volumes[{index}].persistentVolumeClaim"
                found = f"{name}, {' and '.join(sorted(modes))}, for {replicas} replicas"
                yield Hit(workload.manifest, path, found)


def _unbounded(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for index, volume in numbered(workload.pod, "volumes"):
            directory = volume.get("emptyDir")
            if "emptyDir" in volume and not mapping(volume, "emptyDir").get("sizeLimit"):
                medium = text(directory, "medium")
                path = f"{workload.path}.volumes[{index}].emptyDir"
                what = "of memory " if medium == "Memory" else ""
                yield Hit(workload.manifest, path, f"{text(volume, 'name')} {what}without a limit")


def _evicted(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        limit = pod_storage(workload)
        sizes = [
            parse_quantity(volume, "emptyDir", "sizeLimit") or 0
            for volume in objects(workload.pod, "volumes")
            if mapping(volume, "emptyDir").get("medium") != "Memory"
        ]
        if limit is not None and sum(sizes) > limit:
            may_hold = format_memory(int(sum(sizes)))
            found = f"{format_memory(int(limit))}; its emptyDirs may hold {may_hold}"
            path = f"{workload.servers[0].path}.resources.limits.ephemeral-storage"
            yield Hit(workload.manifest, path, found)


def pod_storage(workload: Workload) -> Fraction | None:
    """The limit of a pod's local storage; None where a container has none.

    The larger of what an init container and what the containers together may take.
    Source: Kubernetes, "Local ephemeral storage: setting requests and limits".
    """
    found = [_storage(each) for each in objects(workload.pod, "containers")]
    together = [each for each in found if each is not None]
    if len(together) < len(found):
        return None
    before = [_storage(each) or Fraction(0) for each in objects(workload.pod, "initContainers")]
    return max(sum(together, Fraction(0)), *before, Fraction(0))


def _storage(container: JsonObject) -> Fraction | None:
    return parse_quantity(container, "resources", "limits", "ephemeral-storage")


RULES = (
    Rule(
        "cpu-limit-missing",
        Severity.WARNING,
        "A server without a CPU limit",
        "The number of threads follows the limit; without one every pod starts as many as the node "
        "has cores, and they stand in each other's way.",
        "A generous limits.cpu: throttling shows as latency.",
        lambda subject: _no_limit(subject, "cpu"),
    ),
    Rule(
        "memory-limit-missing",
        Severity.WARNING,
        "A server without a memory limit",
        "max_buffered_bytes is a quarter of the limit, 2 GiB without one, and no model is refused "
        "for its size: the node runs out, and the kernel chooses whom to kill.",
        "limits.memory from what was measured: `stoker k8s init`.",
        lambda subject: _no_limit(subject, "memory"),
    ),
    Rule(
        "memory-limit-below-estimate",
        Severity.ERROR,
        "A memory limit below what the server may take: the process with its models (measured, or "
        "the least that is known), twice max_buffered_bytes, slabs, emptyDirs in memory",
        "The kernel kills the server under load, with everything in flight.",
        "Raise limits.memory, or set max_buffered_bytes lower.",
        _little_memory,
    ),
    Rule(
        "cache-mount-missing",
        Severity.ERROR,
        "A server with a GPU and a read-only root that has no writable volume for its temporary "
        "folder or caches",
        "CUDA compiles kernels anew at every start, TensorRT's engines cannot be kept, and graphs "
        "cannot be counted.",
        f"emptyDirs at {TMP} and {CACHE_FOLDER}, as base/ has them; components/trt-cache keeps "
        "engines on a volume.",
        _nowhere_to_write,
    ),
    Rule(
        "sub-path-mount",
        Severity.WARNING,
        "A ConfigMap or Secret that is mounted by subPath",
        "Such a file never changes while the pod lives: renewed certificates and keys do not reach "
        "the server.",
        "Mount the whole volume as a folder.",
        _sub_path,
    ),
    Rule(
        "volume-for-one-node",
        Severity.WARNING,
        "A claim of ReadWriteOnce or ReadWriteOncePod for two replicas or more",
        "Pods on other nodes than the first stay in ContainerCreating: the volume is attached "
        "to one.",
        "ReadOnlyMany for models, ReadWriteMany for caches; or a copy for each pod.",
        _one_node,
    ),
    Rule(
        "empty-dir-unbounded",
        Severity.WARNING,
        "An emptyDir without sizeLimit",
        "It takes the node's disk, or in memory the container's limit, until something else fails.",
        "A sizeLimit above what is ever written: a pod that exceeds it is evicted.",
        _unbounded,
    ),
    Rule(
        "ephemeral-storage-short",
        Severity.WARNING,
        "An ephemeral-storage limit below what the pod's emptyDirs may hold",
        "The pod is evicted for what its volumes allow.",
        "limits.ephemeral-storage above the sum of the sizeLimits.",
        _evicted,
    ),
)
