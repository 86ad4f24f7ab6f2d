"""The names of TensorRT's parameters, and what the value of each may be: a vocabulary, no policy.

Every parameter of Triton's ONNX Runtime backend and every `trt_*` option of ONNX Runtime 1.31 is
here: those that pass, those that a model must not set, those that are ours. `tensorrt_options.py`
reads a model's parameters by it.
Source: Triton's ONNX Runtime backend, "ONNX Runtime with TensorRT optimization"; option names in
`libonnxruntime_providers_tensorrt.so` 1.31.1.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

ON, OFF = "True", "False"
"""The only words for a flag that ONNX Runtime's Python layer takes for this provider; CUDA's takes
1 and 0 as well (tests/stub/test_tensorrt.py)."""
FLAGS: Final = {"1": ON, "0": OFF, "true": ON, "false": OFF}

WORKSPACE: Final = "trt_max_workspace_size"
TRITON_NAMES: Final = {
    "max_workspace_size_bytes": WORKSPACE,
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
"""Triton's keys that differ from ONNX Runtime's."""

_CACHE_REMEDY: Final = "engines lie where the server's setting --trt-cache-dir says"
_SERVER: Final = "the server sets it itself"
_CONTEXT_REMEDY: Final = (
    "the server keeps engines in its own cache (--trt-cache-dir), which saves the same build"
)
NEVER_SET: Final = {
    "device_id": _SERVER,
    "user_compute_stream": _SERVER,
    "has_user_compute_stream": _SERVER,
    "trt_engine_cache_path": _CACHE_REMEDY,
    "trt_engine_cache_prefix": _CACHE_REMEDY,
    "trt_timing_cache_path": _CACHE_REMEDY,
    "trt_extra_plugin_lib_paths": (
        "it loads native code, which only the operator may do: the server's setting "
        "--trt-plugin-libraries"
    ),
    "trt_engine_decryption_lib_path": "it loads native code, and encrypted engines are not served",
    "trt_onnx_model_folder_path": _SERVER,
    "trt_onnx_bytestream": _SERVER,
    "trt_onnx_bytestream_size": _SERVER,
    "trt_external_data_bytestream": _SERVER,
    "trt_external_data_bytestream_size": _SERVER,
    "trt_ep_context_file_path": _CONTEXT_REMEDY,
    "trt_ep_context_embed_mode": _CONTEXT_REMEDY,
}
REFUSED_WHERE_ON: Final = {
    "trt_engine_decryption_enable": "encrypted engines are not served",
    "trt_dump_subgraphs": "it writes files into the working directory",
    "trt_dump_ep_context_model": _CONTEXT_REMEDY,
    "trt_cuda_graph_enable": "a captured engine gives empty outputs when several threads run it",
    "trt_weight_stripped_engine_enable": "engines are cached with their weights",
    "trt_load_user_initializer": _SERVER,
}
"""Flags that are known and must stay off."""

SHAPE_KEYS: Final = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")


@dataclass(frozen=True, slots=True)
class Kind:
    """What the value of an option may be."""

    expected: str
    read: Callable[[str], str | None]
    """The value as ONNX Runtime takes it; None for any other kind of text."""


def _whole(least: int, most: int | None, text: str) -> str | None:
    if not re.fullmatch(r"-?\d{1,18}", text):
        return None
    number = int(text)
    return str(number) if number >= least and (most is None or number <= most) else None


def _number(least: int, most: int | None = None) -> Kind:
    upper = f" to {most}" if most is not None else " or more"
    return Kind(f"a whole number, {least}{upper}", partial(_whole, least, most))


def _matches(pattern: re.Pattern[str], text: str) -> str | None:
    return text if pattern.fullmatch(text) else None


def _pattern(expected: str, pattern: str) -> Kind:
    return Kind(expected, partial(_matches, re.compile(pattern)))


_FLAG: Final = Kind("1, true, 0 or false", lambda text: FLAGS.get(text.lower()))
KINDS: Final[Mapping[str, Kind]] = {
    "trt_fp16_enable": _FLAG,
    "trt_bf16_enable": _FLAG,
    "trt_int8_enable": _FLAG,
    "trt_layer_norm_fp32_fallback": _FLAG,
    WORKSPACE: _number(0),
    "trt_min_subgraph_size": _number(1),
    "trt_max_partition_iterations": _number(1),
    "trt_op_types_to_exclude": _pattern(
        "operator types with commas between", r"[A-Za-z0-9_.]+(,[A-Za-z0-9_.]+)*"
    ),
    "trt_int8_use_native_calibration_table": _FLAG,
    # Never a path: the file is looked for in the model's own folder.
    "trt_int8_calibration_table_name": _pattern(
        "the plain name of a file in the model's folder", r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
    ),
    "trt_dla_enable": _FLAG,
    "trt_dla_core": _number(0),
    "trt_timing_cache_enable": _FLAG,
    "trt_force_timing_cache": _FLAG,
    "trt_detailed_build_log": _FLAG,
    "trt_build_heuristics_enable": _FLAG,
    "trt_sparsity_enable": _FLAG,
    "trt_builder_optimization_level": _number(0, 5),
    "trt_auxiliary_streams": _number(-1),
    "trt_tactic_sources": _pattern("such as '-CUDNN,+CUBLAS'", r"[+-][A-Z0-9_]+(,[+-][A-Z0-9_]+)*"),
    "trt_preview_features": _pattern(
        "names of features with commas between", r"[A-Za-z0-9_]+(,[A-Za-z0-9_]+)*"
    ),
    "trt_context_memory_sharing_enable": _FLAG,
    "trt_engine_hw_compatible": _FLAG,
}
"""Options that pass to ONNX Runtime as they are, once their value is of the kind."""

OURS: Final = ("trt_tolerance", "trt_dimension_ranges")
"""Keys that neither Triton nor ONNX Runtime has."""

KNOWN: Final = tuple(
    sorted(
        {
            *KINDS,
            *TRITON_NAMES,
            *SHAPE_KEYS,
            *OURS,
            "precision_mode",
            "trt_engine_cache_enable",
            "trt_force_sequential_engine_build",
        }
    )
)
"""Every key that a model may write."""
REFUSED: Final = tuple(sorted({*NEVER_SET, *REFUSED_WHERE_ON}))
"""Every key that is known and that a model may not turn on or set."""
