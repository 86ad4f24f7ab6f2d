"""Why models cannot run on a GPU here, in a sentence with the remedy.

Pure: facts in, words out. `onnx.py` asks before a session is opened (a driver that is too old, no
GPU, a GPU that ONNX Runtime has no code for) and again where a session lost its provider (libraries
that do not load), since ONNX Runtime itself says neither to its caller.
Source: onnxruntime-gpu 1.31's list of architectures; CUDA driver API error numbers; CUDA's minor
version compatibility.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stoker.runtime.gpu_facts import Gpu, GpuFacts

INSTALL: Final = "install stoker with the extra `gpu`, which brings onnxruntime-gpu[cuda,cudnn]"
NO_PROVIDER: Final = (
    "the installed ONNX Runtime is the CPU package; uninstall `onnxruntime` and install stoker "
    "with the extra `gpu`"
)
NO_DRIVER: Final = (
    "libcuda.so.1 was not found: no NVIDIA driver is visible here; use a GPU node and the NVIDIA "
    "container runtime with NVIDIA_DRIVER_CAPABILITIES=compute,utility"
)

CAPABILITIES: Final = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0))
"""Compute capabilities that the package has code for; it has no PTX to compile for others."""
CAPABILITIES_TEXT: Final = ", ".join(f"{major}.{minor}" for major, minor in CAPABILITIES)
_ALSO_LATER_MINORS: Final = 8
"""Code for 8.x runs on every later 8.y. That for 9.0 and 12.0 is built for these alone."""

_DRIVER_BRANCH: Final = {13: "R580", 12: "R525"}
"""First driver branch of each CUDA major."""


@dataclass(frozen=True, slots=True)
class CudaNeeds:
    """What the installed ONNX Runtime needs of CUDA."""

    major: int
    """CUDA's major version that it was built for."""
    libraries: tuple[str, ...]
    """What the CUDA provider must find to load at all."""
    cudnn: str = "libcudnn.so.9"
    """Looked for at its first use: convolutions, pooling, recurrent layers."""


def cuda_needs(version: str) -> CudaNeeds | None:
    """Of an ONNX Runtime whose `cuda_version` this is (`13.0`); None for the CPU package."""
    digits = version.partition(".")[0]
    if not digits.isdigit():
        return None
    major = int(digits)
    names = [f"lib{name}.so.{major}" for name in ("cudart", "cublas", "cublasLt")]
    return CudaNeeds(major, (*names, "libcurand.so.10"))


TENSORRT_LIBRARIES: Final = ("libnvinfer.so.10", "libnvonnxparser.so.10")
"""What the TensorRT provider of this ONNX Runtime links: TensorRT 10, and no other major."""
TENSORRT_OTHERS: Final = ("libnvinfer.so.11", "libnvinfer.so.9", "libnvinfer.so.8")


def gpu_absence(facts: GpuFacts, needs: CudaNeeds | None) -> str | None:
    """Why no GPU can be used at all; None where there is one."""
    if not facts.has_driver:
        return NO_DRIVER
    if needs is None:
        return NO_PROVIDER if facts.count else driver_reason(facts)
    if 0 < facts.driver_version < needs.major * 1000:
        branch = _DRIVER_BRANCH.get(needs.major, "for it")
        return (
            f"the NVIDIA driver is too old: it is for CUDA {version_text(facts.driver_version)}, "
            f"and this ONNX Runtime is built for CUDA {needs.major}; "
            f"install a driver of branch {branch} or later on the node"
        )
    return None if facts.count else driver_reason(facts)


def gpu_unfitness(facts: GpuFacts, index: int) -> str | None:
    """Why GPU `index` cannot run this ONNX Runtime's code; None where it can."""
    gpu = gpu_of(facts, index)
    if gpu is None or not any(gpu.capability) or has_code_for(gpu.capability):
        return None
    name = f" ({gpu.name})" if gpu.name else ""
    return (
        f"GPU {index}{name} has compute capability {gpu.capability_text}, and onnxruntime-gpu has "
        f"code for {CAPABILITIES_TEXT} only; use another GPU, or build ONNX Runtime for this one"
    )


def gpu_of(facts: GpuFacts, index: int) -> Gpu | None:
    """The GPU that CUDA has under this index."""
    return facts.gpus[index] if 0 <= index < facts.count else None


def has_code_for(capability: tuple[int, int]) -> bool:
    """Whether the package has code that runs on this compute capability."""
    major, minor = capability
    return capability in CAPABILITIES or (major == _ALSO_LATER_MINORS and minor > 0)


def lost_provider_reason(
    facts: GpuFacts, needs: CudaNeeds | None, loads: Callable[[str], bool]
) -> str:
    """Why a session that asked for CUDA came without it: `loads` tells whether a library does."""
    absence = gpu_absence(facts, needs)
    if absence is not None:
        return absence
    missing = [name for name in needs.libraries if not loads(name)] if needs else []
    if missing:
        return f"the CUDA provider could not load {', '.join(missing)}; {INSTALL}"
    return "ONNX Runtime did not say why; its own log on stderr does"


def missing_cudnn(needs: CudaNeeds | None, loads: Callable[[str], bool]) -> str | None:
    """What will not load for want of cuDNN; None where it is there."""
    if needs is None or loads(needs.cudnn):
        return None
    return (
        f"{needs.cudnn} could not be loaded: models with convolutions, pooling or recurrent layers "
        f"will fail; {INSTALL}"
    )


def lost_tensorrt_reason(loads: Callable[[str], bool]) -> str:
    """Why a session that asked for TensorRT came without it."""
    missing = [name for name in TENSORRT_LIBRARIES if not loads(name)]
    if not missing:
        return "ONNX Runtime did not say why; its own log on stderr does"
    other = next((name for name in TENSORRT_OTHERS if loads(name)), None)
    found = f"{other} is there, but the" if other else "the"
    return (
        f"{', '.join(missing)} could not be loaded: {found} TensorRT provider of this ONNX Runtime "
        "needs TensorRT 10; use an image with it"
    )


_DRIVER_REASONS: Final = {
    3: "the driver was not initialised",
    34: "libcuda.so.1 is the stub of CUDA's development kit; take its folder from the library path",
    35: "the NVIDIA driver is too old",
    46: "the GPU is busy or in prohibited mode; see nvidia-smi on the node",
    100: "the driver sees no GPU; give the container one (resource nvidia.com/gpu)",
    101: "the driver does not know the GPU that CUDA_VISIBLE_DEVICES names",
    802: "the system is not ready: on NVSwitch machines the fabric manager must run on the node",
    803: "the driver and its libcuda.so.1 are of different versions; restart the node's driver",
    804: "the GPU does not allow the forward-compatible driver; update the node's driver",
    999: "the driver failed for an unknown reason; see the node's kernel log",
}


def driver_reason(facts: GpuFacts) -> str:
    """What the driver answered, in words."""
    words = _DRIVER_REASONS.get(facts.code, "the NVIDIA driver failed")
    if facts.code in (100, 101) and facts.visible is not None:
        words = (
            f"CUDA_VISIBLE_DEVICES is '{facts.visible}' and leaves no GPU to this process; unset "
            "it, or name GPUs that are there"
        )
    return f"{words} (CUDA error {facts.code})"


def version_text(number: int) -> str:
    """CUDA's number of a version, 13050, as people write it: 13.5."""
    return f"{number // 1000}.{number % 1000 // 10}"
