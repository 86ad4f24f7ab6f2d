"""The download of models before a server starts: which pods have one, and how long it may take.

For `init`, which writes a rollout's deadline, and for `lint`, which compares one with it. An init
container runs before the startup probe counts, so its time stands in no probe; the deadline of the
rollout counts from the pod's creation all the same.  Source: Kubernetes, "Deployments: Failed
Deployment"; docs/k8s-init.md, The numbers.
"""

from collections.abc import Iterator
from math import ceil
from typing import Final

from stoker.deploy.manifest import JsonObject, at, mapping, objects, text
from stoker.deploy.measurement import Measurement
from stoker.deploy.quantity import MIB
from stoker.deploy.workload import Workload

BYTES_PER_S: Final = 20 * MIB
"""An assumption, on the slow side: several pods share a store, a proxy and a disk, and every file
is read once more to be verified."""
LEAST_S: Final = 300
"""Of what nobody measured, and of small models: names are looked up, a store is slow to answer, and
rclone tries five times."""


def download_s(measured: Measurement | None) -> int:
    """Seconds that a download of these models may take."""
    nbytes = measured.download_bytes if measured is not None else 0
    return max(LEAST_S, ceil(nbytes / BYTES_PER_S))


def downloads_models(workload: Workload) -> str:
    """The init container that fills a volume which a server only reads; empty where none does."""
    return next((text(each, "name") for each, _ in _downloads(workload)), "")


def download_volumes(workload: Workload) -> frozenset[str]:
    """The volumes that are filled so, by name."""
    return frozenset(name for _, volumes in _downloads(workload) for name in volumes)


def _downloads(workload: Workload) -> Iterator[tuple[JsonObject, set[str]]]:
    empty = {text(each, "name") for each in objects(workload.pod, "volumes") if "emptyDir" in each}
    read = {
        text(mount, "name")
        for server in workload.servers
        for mount in objects(server.value, "volumeMounts")
        if at(mount, "readOnly") is True
    }
    for container in objects(workload.pod, "initContainers"):
        filled = _written(container) & read & empty
        if filled and not _stays(container):
            yield container, filled


def _written(container: JsonObject) -> set[str]:
    mounts = objects(container, "volumeMounts")
    return {text(each, "name") for each in mounts if not mapping(each).get("readOnly")}


def _stays(container: JsonObject) -> bool:
    """Whether it is a sidecar: the server starts beside it, not after it."""
    return text(container, "restartPolicy") == "Always"
