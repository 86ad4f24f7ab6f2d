"""The hardware that the checks run on, and why they cannot run where there is none."""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Final

from stoker.runtime.onnx import library
from stoker.runtime.providers import CUDA_PROVIDER, probe_gpus

_CAPABILITY_MAJOR: Final = 75
_CAPABILITY_MINOR: Final = 76


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or slice of one, as CUDA shows it."""

    name: str
    capability: str
    """`9.0`."""
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the report says of the machine."""

    absence: str
    """Why nothing can run on a GPU here; empty where something can."""
    gpus: tuple[Gpu, ...]
    driver: str
    """What CUDA the driver is for, `13.0`; empty without one."""
    onnxruntime: str
    """`onnxruntime-gpu 1.31.1 (CUDA 13.0)`."""

    def lines(self) -> tuple[tuple[str, str], ...]:
        """Name and value of each fact, for a report."""
        names = ", ".join(
            f"{gpu.name} (compute capability {gpu.capability}, {gpu.memory_bytes / 2**30:.1f} GiB)"
            for gpu in self.gpus
        )
        return (
            ("GPUs", names or f"none: {self.absence}"),
            ("driver is for CUDA", self.driver or "no driver"),
            ("ONNX Runtime", self.onnxruntime),
        )


@cache
def hardware() -> Hardware:
    """Looks once. Makes no context."""
    ort = library()
    cuda = str(getattr(ort, "cuda_version", "") or "")
    package = str(getattr(ort, "package_name", "") or "onnxruntime")
    described = f"{package} {ort.__version__}" + (f" (CUDA {cuda})" if cuda else "")
    probe = probe_gpus()
    absence = probe.reason
    if not absence and CUDA_PROVIDER not in ort.get_available_providers():
        absence = (
            f"{probe.count} GPU(s) are here, and the installed ONNX Runtime is the CPU package; "
            "set ONNXRUNTIME=gpu for make"
        )
    return Hardware(absence, _gpus(probe.count), _driver_version(), described)


def _driver_version() -> str:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    version = ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _gpus(count: int) -> tuple[Gpu, ...]:
    gpus = []
    for index in range(count):
        driver = ctypes.CDLL("libcuda.so.1")
        device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
        name, total = ctypes.create_string_buffer(256), ctypes.c_size_t(0)
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
        text = name.value.decode(errors="replace")
        gpus.append(Gpu(text, f"{major.value}.{minor.value}", total.value))
    return tuple(gpus)
