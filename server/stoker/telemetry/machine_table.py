"""The metrics of the process, its container and the machine, a part of `metric_table.py`."""

from typing import Final

from stoker.telemetry.metric import Metric, MetricType

_COUNTER: Final = MetricType.COUNTER
_GAUGE: Final = MetricType.GAUGE

PROCESS_CPU: Final = Metric(
    "stoker_process_cpu_seconds_total", _COUNTER, "seconds", "CPU time of the process."
)
PROCESS_MEMORY: Final = Metric(
    "stoker_process_resident_memory_bytes", _GAUGE, "bytes", "Resident memory of the process."
)
PROCESS_FILES: Final = Metric(
    "stoker_process_open_fds", _GAUGE, "files", "Open file descriptors of the process."
)
PROCESS_MOST_FILES: Final = Metric(
    "stoker_process_max_fds", _GAUGE, "files", "File descriptors that the process may have."
)
CONTAINER_MEMORY: Final = Metric(
    "stoker_container_memory_working_set_bytes",
    _GAUGE,
    "bytes",
    "Memory of the container that cannot be dropped: the kubelet evicts by this number.",
)
CONTAINER_MEMORY_LIMIT: Final = Metric(
    "stoker_container_memory_limit_bytes",
    _GAUGE,
    "bytes",
    "Memory limit of the container; absent without a limit.",
)
CONTAINER_CPU: Final = Metric(
    "stoker_container_cpu_seconds_total", _COUNTER, "seconds", "CPU time of the container."
)
CONTAINER_CPU_LIMIT: Final = Metric(
    "stoker_container_cpu_limit_cores",
    _GAUGE,
    "cores",
    "CPU limit of the container; absent without a limit.",
)
CONTAINER_THROTTLED: Final = Metric(
    "stoker_container_cpu_throttled_seconds_total",
    _COUNTER,
    "seconds",
    "Time that the container was stopped because its CPU limit was used up, summed over its CPUs.",
)
CPU_UTILIZATION: Final = Metric(
    "nv_cpu_utilization",
    _GAUGE,
    "ratio",
    "Share of all cores of the machine in use since the scrape before, 0 to 1.",
)
CPU_MEMORY_TOTAL: Final = Metric(
    "nv_cpu_memory_total_bytes", _GAUGE, "bytes", "Memory of the machine."
)
CPU_MEMORY_USED: Final = Metric(
    "nv_cpu_memory_used_bytes", _GAUGE, "bytes", "Memory of the machine in use."
)

MACHINE_METRICS: Final = (
    PROCESS_CPU, PROCESS_MEMORY, PROCESS_FILES, PROCESS_MOST_FILES,
    CONTAINER_MEMORY, CONTAINER_MEMORY_LIMIT,
    CONTAINER_CPU, CONTAINER_CPU_LIMIT, CONTAINER_THROTTLED,
    CPU_UTILIZATION, CPU_MEMORY_TOTAL, CPU_MEMORY_USED,
)  # fmt: skip
"""Those that `machine.py` reads, in the order of the text."""
