"""What the NVIDIA driver and the libraries of this process say about GPUs; nothing is concluded.

Asks the driver API through ctypes and makes no context, so no GPU memory is taken and a later fork
is not disturbed. Free memory comes from NVML, which the driver brings along. What the facts mean
is `gpu_diagnosis.py`'s.
Source: CUDA driver API (cuInit, cuDriverGetVersion, cuDevice*); NVML (nvmlDeviceGetMemoryInfo).
"""

import ctypes
import uuid
from dataclasses import dataclass
from typing import Final

DRIVER: Final = "libcuda.so.1"
NVML: Final = "libnvidia-ml.so.1"

_NO_DEVICE: Final = 100
_MAJOR: Final = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
_MINOR: Final = 76


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one MIG slice, as CUDA shows it to this process."""

    index: int
    """The N of `cuda:N`, counted after CUDA_VISIBLE_DEVICES."""
    name: str = ""
    capability: tuple[int, int] = (0, 0)
    """Compute capability; (0, 0) where the driver did not say."""
    memory_bytes: int = 0
    """All of its memory; 0 where the driver did not say."""
    uuid: str = ""
    """`GPU-...`, as nvidia-smi prints it; of a MIG slice the slice's own."""

    @property
    def capability_text(self) -> str:
        """`9.0`; empty where it is unknown."""
        return f"{self.capability[0]}.{self.capability[1]}" if any(self.capability) else ""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What could be found out. `gpu_diagnosis.py` puts it into words."""

    has_driver: bool = False
    """libcuda.so.1 could be loaded."""
    code: int = 0
    """What the driver answered when it was asked for GPUs; 0 is success."""
    driver_version: int = 0
    """CUDA's version of the driver, 1000 x major + 10 x minor; 0 where it is unknown."""
    gpus: tuple[Gpu, ...] = ()
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES; None where it is not set."""

    @property
    def count(self) -> int:
        """GPUs that CUDA sees in this process."""
        return len(self.gpus)


def read_gpu_facts(
    *, visible: str | None = None, library: str = DRIVER, take_gpus: bool = True
) -> GpuFacts:
    """Asks the driver. `visible` is passed on; without `take_gpus` no GPU is asked for details."""
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return GpuFacts(visible=visible)
    version = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        version.value = 0
    count = ctypes.c_int(0)
    code = int(driver.cuInit(0)) or int(driver.cuDeviceGetCount(ctypes.byref(count)))
    if code == 0 and count.value == 0:
        code = _NO_DEVICE
    if code != 0:
        return GpuFacts(True, code, version.value, visible=visible)
    gpus = tuple(_gpu(driver, index) if take_gpus else Gpu(index) for index in range(count.value))
    return GpuFacts(True, 0, version.value, gpus, visible)


def _gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    """Details of one GPU; what the driver does not tell stays unknown."""
    device = ctypes.c_int(0)
    if driver.cuDeviceGet(ctypes.byref(device), index) != 0:
        return Gpu(index)
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)
    major = _attribute(driver, _MAJOR, device)
    minor = _attribute(driver, _MINOR, device)
    total = ctypes.c_size_t(0)
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    return Gpu(
        index,
        name.value.decode(errors="replace"),
        (major, minor),
        total.value,
        _uuid(driver, device),
    )


def _attribute(driver: ctypes.CDLL, key: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int(0)
    return value.value if driver.cuDeviceGetAttribute(ctypes.byref(value), key, device) == 0 else 0


def _uuid(driver: ctypes.CDLL, device: ctypes.c_int) -> str:
    raw = ctypes.create_string_buffer(16)
    # The second form, which knows MIG slices, came with CUDA 11.4.
    ask = getattr(driver, "cuDeviceGetUuid_v2", None)
    if ask is None or ask(raw, device) != 0:
        return ""
    return f"GPU-{uuid.UUID(bytes=raw.raw)}"


class _NvmlMemory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def read_free_memory(gpus: tuple[Gpu, ...], *, library: str = NVML) -> tuple[int | None, ...]:
    """Free bytes of each GPU, whoever uses the rest; None where NVML does not say.

    Takes some milliseconds. CUDA's own figure would need a context, which costs memory on each GPU.
    """
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return (None,) * len(gpus)
    if nvml.nvmlInit_v2() != 0:
        return (None,) * len(gpus)
    try:
        return tuple(_free(nvml, gpu) for gpu in gpus)
    finally:
        nvml.nvmlShutdown()


def _free(nvml: ctypes.CDLL, gpu: Gpu) -> int | None:
    handle = ctypes.c_void_p()
    if not gpu.uuid:
        return None
    for name in (gpu.uuid, gpu.uuid.replace("GPU-", "MIG-", 1)):
        if nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle)) == 0:
            memory = _NvmlMemory()
            if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0:
                return int(memory.free)
    return None


def loads(library: str) -> bool:
    """Whether this process can load a library; it stays loaded."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
