"""The disk that the models need where pods read them from a volume, and how an overlay says it.

For `stoker k8s init`: the emptyDir that components/models-s3 downloads into, and the claim that
components/models-pvc mounts. Pure. A volume that is too small evicts the pod in the middle of its
download; a claim that is too small refuses the last model. What sits beside it, the volumes of the
server and its log, stands in the components.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

from stoker.deploy.measurement import Measurement
from stoker.deploy.quantity import GIB, MIB, format_memory

MARGIN: Final = 1.5
"""Of the volume over the files: the next version beside the last, and what a file system takes."""
LEAST_BYTES: Final = 20 * GIB
"""What components/models-s3 and claim.yaml of components/models-pvc have; a limit costs nothing."""
BESIDE_BYTES: Final = 12 * GIB
"""In the whole pod's limit beside the models: the volumes of components/gpu and the log. Source:
components/models-s3, whose limit is 32Gi beside a volume of 20Gi."""


@dataclass(frozen=True, slots=True)
class ModelsVolume:
    """Sizes for one repository."""

    files_bytes: int
    """What it holds now; where nobody looked, the weights that were loaded from it."""
    nbytes: int
    """Of the volume."""
    origin: str
    is_known: bool
    """Whether somebody looked at the files."""

    @property
    def requested_bytes(self) -> int:
        """What a node must have free for the files as they are."""
        return max(GIB, _whole(self.files_bytes))

    @property
    def pod_limit_bytes(self) -> int:
        """The ephemeral storage of a pod that has them in an emptyDir."""
        return self.nbytes + BESIDE_BYTES


def models_volume(measured: Measurement) -> ModelsVolume:
    """The volume for what was measured."""
    files = measured.download_bytes
    is_known = measured.files_bytes > 0
    nbytes = max(LEAST_BYTES, _whole(ceil(files * MARGIN)))
    what = "the files" if is_known else "the weights, for the size of the files is not known"
    origin = (
        f"{MARGIN:g} times {what}, {files / MIB:.0f} MiB; at least {format_memory(LEAST_BYTES)}"
    )
    return ModelsVolume(files, nbytes, origin, is_known)


def download_volume_patch(volume: ModelsVolume) -> str:
    """The emptyDir of components/models-s3, and the storage of the pod that has it."""
    beside = format_memory(BESIDE_BYTES)
    return f"""\
# The volume of the models: {volume.origin}.
# The limit is the whole pod's: {beside} beside it, for its other volumes and its log.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: stoker
spec:
  template:
    spec:
      initContainers:
        - name: models
          resources:
            requests:
              ephemeral-storage: {format_memory(volume.requested_bytes)}
            limits:
              ephemeral-storage: {format_memory(volume.pod_limit_bytes)}
      volumes:
        - name: models
          emptyDir:
            sizeLimit: {format_memory(volume.nbytes)}
"""


def claim(volume: ModelsVolume, name: str, namespace: str) -> str:
    """A claim for these models, to be applied once by hand: it outlives the Deployment. `name` and
    `namespace` are YAML; an empty namespace stays out."""
    within = f"  namespace: {namespace}\n" if namespace else ""
    return f"""\
# Applied once, by hand, and no resource of the overlay: it outlives the Deployment. ReadWriteMany
# needs a network file system; components/models-pvc says how it is filled, and what a block volume
# takes.
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {name}
{within}spec:
  accessModes: [ReadWriteMany]
  resources:
    requests:
      # {volume.origin[0].upper()}{volume.origin[1:]}.
      storage: {format_memory(volume.nbytes)}
"""


def _whole(nbytes: int) -> int:
    """Up to a whole GiB."""
    return -(-nbytes // GIB) * GIB
