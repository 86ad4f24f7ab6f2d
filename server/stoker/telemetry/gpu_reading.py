"""One reading of one GPU, and the series that it becomes. No call to NVML: `nvml.py` fills it in.

A figure that the driver does not give (a MIG slice has no utilisation, a consumer GPU no ECC) is
None here and has no series: never 0.

Sources: NVML's documentation for units, reasons and event types; NVIDIA's catalogue of Xid errors
for the classes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

from stoker.telemetry import gpu_table as table
from stoker.telemetry.metric import Metric

Figures: TypeAlias = dict[Metric, dict[tuple[str, ...], float]]
"""The value of each series by its metric and the values of its labels."""

CLOCKS_EVENT_REASONS: Final[Mapping[int, str]] = {
    0x001: "gpu_idle",
    0x002: "applications_clocks",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal",
    0x040: "hw_thermal",
    0x080: "hw_power_brake",
    0x100: "display_clocks",
    0x200: "board_limit",
    0x400: "reliability",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons. Bits that are not here are passed over."""


class XidClass(Enum):
    """What an Xid error is about, and so who has to act."""

    APPLICATION = "application"
    """A kernel of some process did wrong; the GPU is well."""
    MEMORY = "memory"
    """ECC errors and the replacement of rows."""
    LINK = "link"
    """NVLink and chip-to-chip links."""
    FIRMWARE = "firmware"
    """The driver, its microcontrollers or the GPU's system processor."""
    LOST = "lost"
    """The GPU no longer answers on the bus."""
    OTHER = "other"


XID_CLASSES: Final[Mapping[int, XidClass]] = {
    13: XidClass.APPLICATION,
    31: XidClass.APPLICATION,
    43: XidClass.APPLICATION,
    45: XidClass.APPLICATION,
    48: XidClass.MEMORY,
    63: XidClass.MEMORY,
    64: XidClass.MEMORY,
    92: XidClass.MEMORY,
    94: XidClass.MEMORY,
    95: XidClass.MEMORY,
    74: XidClass.LINK,
    62: XidClass.FIRMWARE,
    119: XidClass.FIRMWARE,
    120: XidClass.FIRMWARE,
    79: XidClass.LOST,
}


def xid_class(number: int) -> XidClass:
    """The class of an Xid error; OTHER for one that is not in the table."""
    return XID_CLASSES.get(number, XidClass.OTHER)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or a MIG slice of one, that this process sees."""

    uuid: str
    """NVML's: `GPU-...` or `MIG-...`."""
    device: str
    """`cuda:N` with N the index that CUDA sees: the name in all other metrics."""
    name: str
    is_mig: bool
    driver_version: str


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What NVML said of one GPU at one moment. None: it did not say."""

    utilization: float | None = None
    """0 to 1."""
    memory_busy: float | None = None
    """0 to 1."""
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_joules: float | None = None
    """Since the driver was loaded."""
    temperature_celsius: float | None = None
    sm_clock_hertz: float | None = None
    memory_clock_hertz: float | None = None
    clocks_event_reasons: int | None = None
    """Bits of CLOCKS_EVENT_REASONS."""
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    remapped_corrected: int | None = None
    remapped_uncorrected: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None


@dataclass(slots=True)
class GpuCounts:
    """What is counted over the readings of one GPU. Written by the thread that reads."""

    energy_joules: float | None = None
    """Energy since the first reading: Triton counts from its start, and so do we."""
    hears_xids: bool = False
    """The driver tells of Xid errors."""
    xids: dict[int, int] = field(default_factory=dict)
    """How often each number came."""
    last_xid: int | None = None
    driver_energy_joules: float = 0.0
    """The driver's figure at the last reading."""

    def note_xid(self, number: int) -> None:
        """Counts one error."""
        self.xids[number] = self.xids.get(number, 0) + 1
        self.last_xid = number

    def note_energy(self, joules: float | None) -> None:
        """Adds what the driver's figure rose by; one that fell was begun anew by the driver."""
        if joules is None:
            return
        rise = 0.0 if self.energy_joules is None else joules - self.driver_energy_joules
        self.energy_joules = (self.energy_joules or 0.0) + max(0.0, rise)
        self.driver_energy_joules = joules


def figures(gpu: Gpu, reading: GpuReading, counts: GpuCounts) -> Figures:
    """The series of one GPU: only of what the reading has."""
    made: Figures = {}

    def show(metric: Metric, value: float | None, *labels: str) -> None:
        if value is not None:
            made.setdefault(metric, {})[(gpu.uuid, *labels)] = value

    kind = "mig" if gpu.is_mig else "gpu"
    show(table.GPU_INFO, 1, gpu.device, gpu.name, kind, gpu.driver_version)
    show(table.GPU_UTILIZATION, reading.utilization)
    show(table.GPU_MEMORY_BUSY, reading.memory_busy)
    show(table.GPU_MEMORY_TOTAL, reading.memory_total_bytes)
    show(table.GPU_MEMORY_USED, reading.memory_used_bytes)
    show(table.GPU_MEMORY_FREE, reading.memory_free_bytes)
    show(table.GPU_MEMORY_RESERVED, reading.memory_reserved_bytes)
    show(table.GPU_POWER, reading.power_watts)
    show(table.GPU_POWER_LIMIT, reading.power_limit_watts)
    show(table.GPU_ENERGY, counts.energy_joules)
    show(table.GPU_TEMPERATURE, reading.temperature_celsius)
    show(table.GPU_CLOCK, reading.sm_clock_hertz, "sm")
    show(table.GPU_CLOCK, reading.memory_clock_hertz, "memory")
    if reading.clocks_event_reasons is not None:
        for bit, reason in CLOCKS_EVENT_REASONS.items():
            holds = bool(reading.clocks_event_reasons & bit)
            show(table.GPU_CLOCKS_EVENT, float(holds), reason)
    show(table.GPU_ECC_ERRORS, reading.ecc_corrected, "corrected")
    show(table.GPU_ECC_ERRORS, reading.ecc_uncorrected, "uncorrected")
    show(table.GPU_REMAPPED_ROWS, reading.remapped_corrected, "corrected")
    show(table.GPU_REMAPPED_ROWS, reading.remapped_uncorrected, "uncorrected")
    show(table.GPU_ROW_REMAP, reading.remap_pending, "pending")
    show(table.GPU_ROW_REMAP, reading.remap_failed, "failed")
    if counts.hears_xids:
        for each, count in _by_class(counts.xids).items():
            show(table.GPU_XID_ERRORS, count, each.value)
        for number, count in _by_known_number(counts.xids).items():
            show(table.GPU_XID_NUMBERS, count, number)
        show(table.GPU_LAST_XID, counts.last_xid)
    return made


def merged(parts: Iterable[Figures]) -> Figures:
    """The series of several GPUs."""
    whole: Figures = {}
    for part in parts:
        for metric, series in part.items():
            whole.setdefault(metric, {}).update(series)
    return whole


def _by_class(xids: Mapping[int, int]) -> dict[XidClass, int]:
    counts = dict.fromkeys(XidClass, 0)
    for number, count in xids.items():
        counts[xid_class(number)] += count
    return counts


def _by_known_number(xids: Mapping[int, int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for number, count in sorted(xids.items()):
        name = str(number) if number in XID_CLASSES else "other"
        counts[name] = counts.get(name, 0) + count
    return counts
