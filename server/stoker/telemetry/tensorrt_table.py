"""The metrics of TensorRT, a part of `metric_table.py`; absent where no model asks for it."""

from typing import Final

from stoker.telemetry.metric import Metric, MetricType

_MODEL: Final = ("model", "version")

STATE: Final = Metric(
    "stoker_tensorrt_state",
    MetricType.GAUGE,
    "boolean",
    "1 for what TensorRT is at for the version: waiting, building, comparing, serving, failed, "
    "stopped. Absent for models that do not ask for it.",
    ("model", "version", "state"),
)
HITS: Final = Metric(
    "stoker_tensorrt_cache_hits_total",
    MetricType.COUNTER,
    "engines",
    "TensorRT engines that were loaded from the cache.",
    _MODEL,
)
MISSES: Final = Metric(
    "stoker_tensorrt_cache_misses_total",
    MetricType.COUNTER,
    "engines",
    "TensorRT engines that had to be built.",
    _MODEL,
)
BUILD_SECONDS: Final = Metric(
    "stoker_tensorrt_build_seconds_total",
    MetricType.COUNTER,
    "seconds",
    "Time that building TensorRT engines took, while the version served without them.",
    _MODEL,
)
ENGINE_BYTES: Final = Metric(
    "stoker_tensorrt_engine_bytes",
    MetricType.GAUGE,
    "bytes",
    "Size of the version's TensorRT engine in the cache.",
    _MODEL,
)
DEVICE_BYTES: Final = Metric(
    "stoker_tensorrt_device_bytes",
    MetricType.GAUGE,
    "bytes",
    "Device memory that opening and comparing the version's TensorRT sessions took: engine, "
    "contexts and tensors, beside stoker_model_memory_bytes; with what others took meanwhile.",
    _MODEL,
)
CRASHED_BUILDS: Final = Metric(
    "stoker_tensorrt_crashed_builds",
    MetricType.GAUGE,
    "attempts",
    "Attempts to build the version's TensorRT engine that ended with their process, as the cache "
    "remembers them. After 2 it is not tried again.",
    _MODEL,
)

TENSORRT_METRICS: Final = (
    STATE,
    HITS,
    MISSES,
    BUILD_SECONDS,
    ENGINE_BYTES,
    DEVICE_BYTES,
    CRASHED_BUILDS,
)
"""All of them, in the order of the text."""
