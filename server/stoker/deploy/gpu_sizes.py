"""NVIDIA GPUs and MIG slices by memory: what fits a model set, and how Kubernetes names it.

The compute capabilities are those that the GPU image has code for (docs/gpu.md, Supported GPUs).
Memory is what the label `nvidia.com/gpu.memory` of GPU Feature Discovery says, in MiB: less than on
the box where ECC takes its part. A node may tell a few MiB more or less with another driver.
"""

import re
from dataclasses import dataclass
from typing import Final

from stoker.deploy.quantity import MIB


@dataclass(frozen=True, slots=True)
class GpuSize:
    """A GPU, or a slice of one."""

    name: str
    memory_mib: int
    resource: str = "nvidia.com/gpu"


WHOLE: Final = (
    GpuSize("T4", 15_360),
    GpuSize("A10 or L4", 23_028),
    GpuSize("A30", 24_576),
    GpuSize("A100 40 GB", 40_960),
    GpuSize("L40, L40S or A40", 46_068),
    GpuSize("A100 or H100 80 GB", 81_559),
    GpuSize("H200", 143_771),
)
"""Those of data centres, ascending by memory."""

SLICES: Final = (
    GpuSize("MIG 1g.5gb of an A100 40 GB", 4_864, "nvidia.com/mig-1g.5gb"),
    GpuSize("MIG 1g.10gb of an A100 or H100 80 GB", 9_728, "nvidia.com/mig-1g.10gb"),
    GpuSize("MIG 2g.20gb of an A100 or H100 80 GB", 19_968, "nvidia.com/mig-2g.20gb"),
    GpuSize("MIG 3g.40gb of an A100 or H100 80 GB", 40_192, "nvidia.com/mig-3g.40gb"),
)
"""Slices of whole memory parts, ascending. Source: NVIDIA, Multi-Instance GPU user guide."""

_MIG: Final = re.compile(r"nvidia\.com/mig-[0-9]+g\.([0-9]+)gb(\..*)?")


def smallest(needed_bytes: int, sizes: tuple[GpuSize, ...]) -> GpuSize | None:
    """The smallest that has so much memory; None: none has."""
    return next((each for each in sizes if each.memory_mib * MIB >= needed_bytes), None)


def mig_bytes(resource: str) -> int | None:
    """Memory of a MIG slice by its resource's name, from the table or else the name's gigabytes;
    None for other resources."""
    match = _MIG.fullmatch(resource)
    if match is None:
        return None
    known = next((each for each in SLICES if each.resource == resource), None)
    return known.memory_mib * MIB if known is not None else int(match[1]) * 1000**3
