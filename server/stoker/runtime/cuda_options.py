"""Options of the CUDA provider: every one by name, with the values it takes and who decides it.

A model sets them in its `parameters` or in a `gpu_execution_accelerator` named `cuda`, which wins.
What is wrong is refused here, by name: ONNX Runtime reports a wrong value with the default's text,
and reads no option at all while a CUDA library is missing. `tests/stub/` proves on the real
provider that each name and value given here is one that it knows. Pure.
Source: ONNX Runtime 1.31's CUDA provider options.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from stoker.errors import InvalidRequest
from stoker.model import ModelConfig


class OptionKind(Enum):
    """What a value may be."""

    FLAG = "0 or 1"
    COUNT = "a whole number"
    CHOICE = "a name"
    SERVER = "set by the server alone"


@dataclass(frozen=True, slots=True)
class CudaOption:
    """One option. `ours` is what the server passes where a model says nothing, `default` what ONNX
    Runtime takes without it."""

    key: str
    kind: OptionKind
    default: str
    meaning: str
    ours: str = ""
    """Empty: not passed, so ONNX Runtime's default holds."""
    names: tuple[str, ...] = ()
    """Of a CHOICE, in the order of ONNX Runtime's numbers for them."""
    most: int = (1 << 31) - 1
    """Of a COUNT."""

    def parse(self, text: str) -> str | None:
        """The value as ONNX Runtime reads it; None where it takes no such value.

        Flags may be true and false, choices may be in any case or by number: configurations for
        Triton have these forms, and ONNX Runtime's parser refuses the latter two.
        """
        text = text.strip()
        if self.kind is OptionKind.FLAG:
            return {"0": "0", "1": "1", "false": "0", "true": "1"}.get(text.lower())
        if self.kind is OptionKind.COUNT:
            is_count = text.isascii() and text.isdigit() and int(text) <= self.most
            return str(int(text)) if is_count else None
        numbered = {str(number): name for number, name in enumerate(self.names)}
        return ({name.lower(): name for name in self.names} | numbered).get(text.lower())

    @property
    def values(self) -> str:
        """What it takes, for messages."""
        if self.kind is OptionKind.COUNT:
            return f"a whole number from 0 to {self.most}"
        return ", ".join(self.names) if self.names else "0 or 1"


_FLAG: Final = OptionKind.FLAG
_COUNT: Final = OptionKind.COUNT
_CHOICE: Final = OptionKind.CHOICE
_SERVER: Final = OptionKind.SERVER

CUDA_OPTIONS: Final = (
    CudaOption("device_id", _SERVER, "0", "The GPU: placement decides, see `instance_group`."),
    CudaOption(
        "gpu_mem_limit",
        _COUNT,
        "no limit",
        "Bytes of the session's arena; context, cuBLAS and cuDNN come on top. 0: no limit.",
        most=(1 << 64) - 1,
    ),
    CudaOption(
        "arena_extend_strategy",
        _CHOICE,
        "kNextPowerOfTwo",
        "How the arena grows: doubling wastes up to half of the memory.",
        ours="kSameAsRequested",
        names=("kNextPowerOfTwo", "kSameAsRequested"),
    ),
    CudaOption(
        "cudnn_conv_algo_search",
        _CHOICE,
        "EXHAUSTIVE",
        "How convolutions choose an algorithm: exhaustively each measures all of them again for "
        "each new shape, so for each batch size.",
        ours="HEURISTIC",
        names=("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    ),
    CudaOption(
        "cudnn_conv_use_max_workspace",
        _FLAG,
        "1",
        "0 holds the workspace of convolutions to 32 MB: slower, and far less memory.",
        ours="1",
    ),
    CudaOption(
        "use_tf32",
        _FLAG,
        "1",
        "FP32 products in TF32 on compute capability 8.0 and later: much faster, and other "
        "results from about the fourth digit on. 0 for full FP32.",
        ours="1",
    ),
    CudaOption("do_copy_in_default_stream", _FLAG, "1", "Leave it: ONNX Runtime uses it no more."),
    CudaOption("prefer_nhwc", _FLAG, "0", "1: convolutions in NHWC; may help FP16. Measure."),
    CudaOption("fuse_conv_bias", _FLAG, "0", "1: bias inside of the convolution. Measure."),
    CudaOption("sdpa_kernel", _COUNT, "0", "Bit mask of attention kernels; 0: ONNX Runtime's."),
    CudaOption("use_ep_level_unified_stream", _FLAG, "0", "1: one stream for the whole session."),
    CudaOption("enable_cudnn", _FLAG, "1", "0: cuDNN is never loaded; convolutions then fail."),
    CudaOption("cudnn_conv1d_pad_to_nc1d", _FLAG, "0", "1 may help 1-D convolutions. Measure."),
    CudaOption("tunable_op_enable", _FLAG, "0", "Leave it: tuned kernels."),
    CudaOption("tunable_op_tuning_enable", _FLAG, "0", "Leave it: 1 tunes inside of requests."),
    CudaOption("tunable_op_max_tuning_duration_ms", _COUNT, "0", "Limit of such tuning; 0: none."),
    CudaOption(
        "enable_skip_layer_norm_strict_mode", _FLAG, "0", "Deprecated in ONNX Runtime 1.28."
    ),
    CudaOption(
        "external_data_loader_reading_threads", _COUNT, "4", "Of direct weight loading.", most=64
    ),
    CudaOption("enable_cuda_graph", _SERVER, "0", "Graphs come from `optimization.cuda.graphs`."),
    CudaOption("has_user_compute_stream", _SERVER, "0", "The stream is the server's."),
    CudaOption("user_compute_stream", _SERVER, "0", "The stream is the server's."),
    CudaOption("gpu_external_alloc", _SERVER, "0", "An address: never from a file."),
    CudaOption("gpu_external_free", _SERVER, "0", "An address: never from a file."),
    CudaOption("gpu_external_empty_cache", _SERVER, "0", "An address: never from a file."),
)
"""All that ONNX Runtime's parser knows. Those that a model may set come first."""

BY_KEY: Final[Mapping[str, CudaOption]] = {option.key: option for option in CUDA_OPTIONS}
_OF_MODELS: Final = tuple(
    option.key for option in CUDA_OPTIONS if option.kind is not OptionKind.SERVER
)
_UNLIMITED: Final = "0"

ACCELERATOR: Final = "cuda"


def cuda_options(config: ModelConfig, index: int) -> dict[str, str]:
    """What a session on GPU `index` passes: ours, then the model's parameters, then those of its
    accelerator `cuda`.

    Raises InvalidRequest for an option that is unknown, that is the server's, or has a value that
    it does not take. Parameters that are no option are other readers'.
    """
    options = {"device_id": str(index)}
    options |= {option.key: option.ours for option in CUDA_OPTIONS if option.ours}
    for key, value in config.parameters.items():
        if key in _OF_MODELS:
            options[key] = _parsed(BY_KEY[key], value, f"model '{config.name}': parameter '{key}'")
    for accelerator in config.optimization.gpu_accelerators:
        if accelerator.name != ACCELERATOR:
            continue
        for key, value in accelerator.parameters.items():
            where = f"model '{config.name}': option '{key}' of accelerator '{ACCELERATOR}'"
            options[key] = _parsed(_known(key, where), value, where)
    if options.get("gpu_mem_limit") == _UNLIMITED:
        del options["gpu_mem_limit"]  # ONNX Runtime would take 0 by its word
    return options


def _known(key: str, where: str) -> CudaOption:
    option = BY_KEY.get(key)
    if option is None:
        near = nearest(key, _OF_MODELS)
        meant = f"did you mean '{near}'?" if near else f"known are {', '.join(_OF_MODELS)}"
        raise InvalidRequest(f"{where}: ONNX Runtime's CUDA provider has no such option; {meant}")
    if option.kind is OptionKind.SERVER:
        raise InvalidRequest(f"{where} is set by the server and cannot be configured")
    return option


def _parsed(option: CudaOption, text: str, where: str) -> str:
    value = option.parse(text)
    if value is None:
        expected = f"one of {option.values}" if option.names else option.values
        raise InvalidRequest(f"{where}: expected {expected}, got '{text}'")
    return value


def nearest(key: str, known: tuple[str, ...]) -> str | None:
    """The known name that a misspelt one most likely means."""
    found = difflib.get_close_matches(key.lower(), known, n=1)
    return found[0] if found else None
