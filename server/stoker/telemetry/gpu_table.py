"""The metrics of GPUs, a part of `metric_table.py`; absent where NVML tells nothing."""

from typing import Final

from stoker.telemetry.metric import Metric, MetricType

_COUNTER: Final = MetricType.COUNTER
_GAUGE: Final = MetricType.GAUGE

_GPU: Final = ("gpu_uuid",)


def _of_gpu(name: str, kind: MetricType, unit: str, text: str, *labels: str) -> Metric:
    return Metric(name, kind, unit, text, (*_GPU, *labels))


GPU_UTILIZATION: Final = _of_gpu(
    "nv_gpu_utilization",
    _GAUGE,
    "ratio",
    "Share of the last sampling period in which any kernel ran, 0 to 1; absent for a MIG slice.",
)
GPU_MEMORY_TOTAL: Final = _of_gpu(
    "nv_gpu_memory_total_bytes", _GAUGE, "bytes", "Memory of the GPU or of its MIG slice."
)
GPU_MEMORY_USED: Final = _of_gpu(
    "nv_gpu_memory_used_bytes", _GAUGE, "bytes", "Memory in use, by whichever process."
)
GPU_POWER: Final = _of_gpu("nv_gpu_power_usage", _GAUGE, "watts", "Power that the GPU draws.")
GPU_POWER_LIMIT: Final = _of_gpu(
    "nv_gpu_power_limit", _GAUGE, "watts", "Power limit of the GPU, as its administrator set it."
)
GPU_ENERGY: Final = _of_gpu(
    "nv_energy_consumption",
    _COUNTER,
    "joules",
    "Energy of the GPU since the server started.",
)
GPU_INFO: Final = Metric(
    "stoker_gpu_info",
    MetricType.INFO,
    "",
    "Which GPU each device is: NVML's UUID of what other metrics name as `device`; "
    "`kind` is gpu or mig.",
    ("gpu_uuid", "device", "name", "kind", "driver_version"),
)
GPU_MEMORY_BUSY: Final = _of_gpu(
    "stoker_gpu_memory_busy_ratio",
    _GAUGE,
    "ratio",
    "Share of the last sampling period in which the GPU's memory was read or written, 0 to 1.",
)
GPU_MEMORY_FREE: Final = _of_gpu(
    "stoker_gpu_memory_free_bytes", _GAUGE, "bytes", "Memory that can still be allocated."
)
GPU_MEMORY_RESERVED: Final = _of_gpu(
    "stoker_gpu_memory_reserved_bytes",
    _GAUGE,
    "bytes",
    "Memory that the driver keeps for itself; part of neither used nor free.",
)
GPU_TEMPERATURE: Final = _of_gpu(
    "stoker_gpu_temperature_celsius", _GAUGE, "celsius", "Temperature of the GPU's die."
)
GPU_CLOCK: Final = _of_gpu(
    "stoker_gpu_clock_hertz", _GAUGE, "hertz", "Present clock: sm, memory.", "clock"
)
GPU_CLOCKS_EVENT: Final = _of_gpu(
    "stoker_gpu_clocks_event_reason",
    _GAUGE,
    "boolean",
    "1 for each reason that holds the clocks down at the moment of the reading: gpu_idle, "
    "applications_clocks, sw_power_cap, hw_slowdown, sync_boost, sw_thermal, hw_thermal, "
    "hw_power_brake, display_clocks, board_limit, reliability.",
    "reason",
)
GPU_ECC_ERRORS: Final = _of_gpu(
    "stoker_gpu_ecc_errors_total",
    _COUNTER,
    "errors",
    "Memory errors since the driver was loaded: corrected, uncorrected.",
    "type",
)
GPU_REMAPPED_ROWS: Final = _of_gpu(
    "stoker_gpu_remapped_rows",
    _GAUGE,
    "rows",
    "Rows of memory that spare ones replace, over the GPU's life, by what they failed with: "
    "corrected, uncorrected.",
    "cause",
)
GPU_ROW_REMAP: Final = _of_gpu(
    "stoker_gpu_row_remap_state",
    _GAUGE,
    "boolean",
    "1 where a replacement is pending (it needs a reset of the GPU) or failed (no spare was left).",
    "state",
)
GPU_XID_ERRORS: Final = _of_gpu(
    "stoker_gpu_xid_errors_total",
    _COUNTER,
    "errors",
    "Xid errors that the driver told of while the server ran: application, memory, link, firmware, "
    "lost, other.",
    "class",
)
GPU_XID_NUMBERS: Final = _of_gpu(
    "stoker_gpu_xid_number_total",
    _COUNTER,
    "errors",
    "The same by number, for those that docs/gpu.md explains; the rest as `other`. Absent until it "
    "comes.",
    "xid",
)
GPU_LAST_XID: Final = _of_gpu(
    "stoker_gpu_last_xid", _GAUGE, "", "Number of the last Xid error; absent before the first."
)

GPU_METRICS: Final = (
    GPU_UTILIZATION, GPU_MEMORY_TOTAL, GPU_MEMORY_USED,
    GPU_POWER, GPU_POWER_LIMIT, GPU_ENERGY,
    GPU_INFO, GPU_MEMORY_BUSY, GPU_MEMORY_FREE, GPU_MEMORY_RESERVED, GPU_TEMPERATURE, GPU_CLOCK,
    GPU_CLOCKS_EVENT, GPU_ECC_ERRORS, GPU_REMAPPED_ROWS, GPU_ROW_REMAP,
    GPU_XID_ERRORS, GPU_XID_NUMBERS, GPU_LAST_XID,
)  # fmt: skip
"""Those that `gpu.py` reads from NVML."""
