"""Execution providers: which one a session asks ONNX Runtime for, with which options.

`provider_list` decides from the configuration and the device, without ONNX Runtime. `probe_gpus`
asks the NVIDIA driver how many GPUs CUDA can see in this process and, if none, says why.
Source: ONNX Runtime's CUDA provider options; CUDA driver API error numbers.
"""

import ctypes
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from stoker.errors import InvalidRequest
from stoker.model import ModelConfig
from stoker.runtime.options import choice, count, flag

log = logging.getLogger(__name__)

CPU_PROVIDER: Final = "CPUExecutionProvider"
CUDA_PROVIDER: Final = "CUDAExecutionProvider"

ProviderList: TypeAlias = tuple[tuple[str, Mapping[str, str]], ...]

_ARENA_NAMES: Final = {
    "0": "kNextPowerOfTwo",
    "1": "kSameAsRequested",
    "knextpoweroftwo": "kNextPowerOfTwo",
    "ksameasrequested": "kSameAsRequested",
}
_SEARCH_NAMES: Final = {
    "0": "EXHAUSTIVE",
    "1": "HEURISTIC",
    "2": "DEFAULT",
    "exhaustive": "EXHAUSTIVE",
    "heuristic": "HEURISTIC",
    "default": "DEFAULT",
}
_OWNED_BY_SERVER: Final = frozenset(
    {
        "device_id",
        "user_compute_stream",
        "has_user_compute_stream",
        "enable_cuda_graph",
        "gpu_external_alloc",
        "gpu_external_free",
        "gpu_external_empty_cache",
    }
)


def cuda_index(device: str) -> int | None:
    """The N of `cuda:N`; None for `cpu`."""
    kind, _, index = device.partition(":")
    return int(index or 0) if kind == "cuda" else None


def provider_list(config: ModelConfig, device: str) -> ProviderList:
    """Providers in the order ONNX Runtime shall try them on `device`.

    Raises InvalidRequest for an accelerator that cannot be had and an option that is the server's.
    """
    index = cuda_index(device)
    if index is None:
        _check_cpu_accelerators(config)
        return ((CPU_PROVIDER, {}),)
    return ((CUDA_PROVIDER, cuda_options(config, index)), (CPU_PROVIDER, {}))


def cuda_options(config: ModelConfig, index: int) -> dict[str, str]:
    """CUDA options of one session: ours, then the model's parameters, then its accelerator's.

    HEURISTIC: an exhaustive search measures each convolution again for each new batch size.
    kSameAsRequested: doubling the arena wastes up to half of the GPU's memory.
    """
    options = {
        "device_id": str(index),
        "arena_extend_strategy": choice(
            config, "arena_extend_strategy", _ARENA_NAMES, default="kSameAsRequested"
        ),
        "cudnn_conv_algo_search": choice(
            config, "cudnn_conv_algo_search", _SEARCH_NAMES, default="HEURISTIC"
        ),
        "cudnn_conv_use_max_workspace": "1",
        "use_tf32": "1",
    }
    limit = count(config, "gpu_mem_limit")
    if limit:
        options["gpu_mem_limit"] = str(limit)
    if not flag(config, "do_copy_in_default_stream", default=True):
        options["do_copy_in_default_stream"] = "0"
    for accelerator in config.optimization.gpu_accelerators:
        if accelerator.name != "cuda":
            raise InvalidRequest(
                f"model '{config.name}': gpu_execution_accelerator '{accelerator.name}' is not "
                "supported; expected 'cuda', or none"
            )
        for key, value in accelerator.parameters.items():
            options[key] = _cuda_value(config, key, value)
    return options


def _cuda_value(config: ModelConfig, key: str, value: str) -> str:
    if key in _OWNED_BY_SERVER:
        raise InvalidRequest(
            f"model '{config.name}': option '{key}' of accelerator 'cuda' is set by the server "
            "and cannot be configured"
        )
    names = {
        "arena_extend_strategy": _ARENA_NAMES,
        "cudnn_conv_algo_search": _SEARCH_NAMES,
    }.get(key)
    if names is None:
        return {"true": "1", "false": "0"}.get(value.strip().lower(), value.strip())
    named = names.get(value.strip().lower())
    if named is None:
        raise InvalidRequest(
            f"model '{config.name}': option '{key}' of accelerator 'cuda': expected one of "
            f"{', '.join(sorted(set(names.values())))}, got '{value}'"
        )
    return named


def _check_cpu_accelerators(config: ModelConfig) -> None:
    for accelerator in config.optimization.cpu_accelerators:
        if accelerator.name != "openvino":
            raise InvalidRequest(
                f"model '{config.name}': cpu_execution_accelerator '{accelerator.name}' is not "
                "supported; expected 'openvino', or none"
            )
        log.warning(
            "model '%s' asks for the accelerator 'openvino', which this ONNX Runtime lacks; "
            "it runs on the plain CPU provider",
            config.name,
        )


@dataclass(frozen=True, slots=True)
class GpuProbe:
    """GPUs that CUDA sees in this process; `reason` says why there are none."""

    count: int
    reason: str = ""


_DRIVER_REASONS: Final = {
    35: "the NVIDIA driver is too old",
    100: "the driver sees no GPU; give the container one (nvidia.com/gpu) and check "
    "CUDA_VISIBLE_DEVICES",
    803: "the driver and its libcuda.so.1 are of different versions; restart the node's driver",
    804: "the GPU does not allow the forward-compatible driver; update the node's driver",
    999: "the driver failed for an unknown reason; see the node's kernel log",
}


def driver_reason(code: int) -> str:
    """A CUDA driver error in words, with the remedy where there is one."""
    return f"{_DRIVER_REASONS.get(code, 'the NVIDIA driver failed')} (CUDA error {code})"


NO_DRIVER: Final = (
    "libcuda.so.1 was not found: no NVIDIA driver is visible here; use a GPU node and the NVIDIA "
    "container runtime with NVIDIA_DRIVER_CAPABILITIES=compute,utility"
)
NO_PROVIDER: Final = (
    "the installed ONNX Runtime is the CPU package; uninstall `onnxruntime` and install stoker "
    "with the extra `gpu`"
)


CUDA_LIBRARIES: Final = (
    "libcudart.so.13",
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcurand.so.10",
)
"""What the CUDA provider must find to load at all; cuDNN is looked for at its first use."""


def lost_provider_reason(gpus: GpuProbe, missing: Sequence[str]) -> str:
    """Why a session that asked for CUDA did not get it: `missing` are CUDA_LIBRARIES that could
    not be loaded."""
    if gpus.count == 0:
        return gpus.reason
    if missing:
        return (
            f"the CUDA provider could not load {', '.join(missing)}; install stoker with the extra "
            "`gpu`, which brings onnxruntime-gpu[cuda,cudnn]"
        )
    return "ONNX Runtime did not say why; its own log on stderr does"


def missing_libraries() -> tuple[str, ...]:
    """Those of CUDA_LIBRARIES that this process cannot load."""
    return tuple(name for name in CUDA_LIBRARIES if not _loads(name))


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def probe_gpus(library: str = "libcuda.so.1") -> GpuProbe:
    """Asks the driver. Takes no GPU memory: no context is made."""
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return GpuProbe(0, NO_DRIVER)
    code = int(driver.cuInit(0))
    if code != 0:
        return GpuProbe(0, driver_reason(code))
    found = ctypes.c_int(0)
    code = int(driver.cuDeviceGetCount(ctypes.byref(found)))
    if code != 0:
        return GpuProbe(0, driver_reason(code))
    return GpuProbe(found.value, "" if found.value else driver_reason(100))
