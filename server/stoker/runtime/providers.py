"""Execution providers: which ones a session asks ONNX Runtime for, in which order.

`provider_list` decides from the configuration and the device, without ONNX Runtime. Options of the
CUDA provider are `cuda_options.py`'s.
"""

import logging
from collections.abc import Mapping
from typing import Final, TypeAlias

from stoker.errors import InvalidRequest
from stoker.model import ModelConfig
from stoker.runtime.cuda_options import ACCELERATOR, cuda_options
from stoker.runtime.tensorrt_options import NAME as TENSORRT
from stoker.runtime.tensorrt_options import tensorrt_request
from stoker.telemetry.log import event

log = logging.getLogger(__name__)

CPU_PROVIDER: Final = "CPUExecutionProvider"
CUDA_PROVIDER: Final = "CUDAExecutionProvider"
TENSORRT_PROVIDER: Final = "TensorrtExecutionProvider"

ProviderList: TypeAlias = tuple[tuple[str, Mapping[str, str]], ...]


def cuda_index(device: str) -> int | None:
    """The N of `cuda:N`; None for `cpu`."""
    kind, _, index = device.partition(":")
    return int(index or 0) if kind == "cuda" else None


def provider_list(config: ModelConfig, device: str) -> ProviderList:
    """Providers in the order ONNX Runtime shall try them on `device`.

    The CPU provider is always the last: shape computations belong there. TensorRT is none of them:
    its sessions are opened later, beside these. Raises InvalidRequest for an accelerator that
    cannot be had and an option that cannot be obeyed.
    """
    index = cuda_index(device)
    if index is None:
        _check_cpu_accelerators(config)
        # Of no effect here, and as wrong here as on the GPU that the model is written for.
        cuda_options(config, 0)
        return ((CPU_PROVIDER, {}),)
    for accelerator in config.optimization.gpu_accelerators:
        if accelerator.name not in (ACCELERATOR, TENSORRT):
            raise InvalidRequest(
                f"model '{config.name}': gpu_execution_accelerator '{accelerator.name}' is not "
                f"supported; expected '{ACCELERATOR}', '{TENSORRT}', or none"
            )
    tensorrt_request(config)
    return ((CUDA_PROVIDER, cuda_options(config, index)), (CPU_PROVIDER, {}))


def with_stream(providers: ProviderList, stream: int, *, graphs: bool) -> ProviderList:
    """The list with what the server alone sets: the stream of the session, 0 for ONNX Runtime's
    own, and whether CUDA's provider captures CUDA graphs."""
    in_stream = {"user_compute_stream": str(stream)} if stream else {}
    own = {
        CUDA_PROVIDER: {**in_stream, **({"enable_cuda_graph": "1"} if graphs else {})},
        TENSORRT_PROVIDER: in_stream,
    }
    return tuple([(name, {**options, **own.get(name, {})}) for name, options in providers])


def tensorrt_provider_list(
    config: ModelConfig, device: str, options: Mapping[str, str]
) -> ProviderList:
    """Providers of a TensorRT session with these options: CUDA runs what TensorRT does not take."""
    index = device.partition(":")[2]
    first = (TENSORRT_PROVIDER, {"device_id": index, **options})
    return (first, *provider_list(config, device))


def _check_cpu_accelerators(config: ModelConfig) -> None:
    for accelerator in config.optimization.cpu_accelerators:
        if accelerator.name != "openvino":
            raise InvalidRequest(
                f"model '{config.name}': cpu_execution_accelerator '{accelerator.name}' is not "
                "supported; expected 'openvino', or none"
            )
        event(
            log,
            "model_config",
            f"model '{config.name}' asks for the accelerator 'openvino', which this ONNX Runtime "
            "lacks; it runs on the plain CPU provider",
            level=logging.WARNING,
            model=config.name,
        )
