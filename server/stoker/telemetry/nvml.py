"""NVML through nvidia-ml-py: finds the GPUs of this process and reads them.

Every call may be refused, for one figure on one kind of GPU; a refusal takes away that figure and
nothing else. What the driver does not have (NOT_SUPPORTED and its like) is silent, any other
failure is logged the first time that it comes. Calls may take tens of milliseconds: they are made
on the thread of `gpu.py` only, and release the GIL.

NVML knows nothing of CUDA_VISIBLE_DEVICES and orders GPUs by bus, CUDA by speed; so devices are
found by their UUID, which both name alike.

Source: NVML's documentation; nvidia-ml-py.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Final, TypeVar

from stoker.telemetry.gpu_reading import Gpu, GpuReading
from stoker.telemetry.log import event

T = TypeVar("T")

logger: Final = logging.getLogger(__name__)

_ALL_INSTANCES: Final = 0xFFFFFFFF
"""An Xid error of a MIG-enabled GPU that is not of one slice."""
_MOST_EVENTS: Final = 1000
"""Xid errors that are taken in at one reading: a broken GPU repeats itself."""


@dataclass(frozen=True, slots=True)
class Handle:
    """A GPU as NVML knows it."""

    gpu: Gpu
    device: Any
    """NVML's handle: of the slice where the GPU is one."""
    parent_uuid: str
    """Of the GPU that a slice is part of; else its own."""
    instances: tuple[int, int] | None
    """GPU instance and compute instance of a slice."""


class Nvml:
    """One use of NVML. `library` is the module `pynvml`; only one thread may use it."""

    def __init__(self, library: ModuleType) -> None:
        self._library = library
        self._refusals: Final = {
            library.NVML_ERROR_NOT_SUPPORTED,
            library.NVML_ERROR_NO_PERMISSION,
            library.NVML_ERROR_FUNCTION_NOT_FOUND,
            library.NVML_ERROR_NO_DATA,
            library.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        }
        self._told: set[tuple[str, str, int]] = set()
        self._events: Any = None

    def open(self) -> bool:
        """Starts NVML. False where there is no driver, or one that does not answer."""
        absent = {
            self._library.NVML_ERROR_LIBRARY_NOT_FOUND,
            self._library.NVML_ERROR_DRIVER_NOT_LOADED,
        }
        try:
            self._library.nvmlInit()
        except self._library.NVMLError as error:
            if error.value not in absent:
                self._tell("nvmlInit", "", error)
            return False
        return True

    def close(self) -> None:
        """Ends what `open` began."""
        if self._events is not None:
            self._ask("nvmlEventSetFree", "", lambda: self._library.nvmlEventSetFree(self._events))
            self._events = None
        self._ask("nvmlShutdown", "", self._library.nvmlShutdown)

    def find(self, uuids: Sequence[str]) -> tuple[Handle, ...]:
        """The GPUs of these UUIDs, `GPU-...`, which CUDA gave in its order; CUDA does not tell a
        slice from a GPU. One that NVML does not know is left out and logged."""
        version = self._library.nvmlSystemGetDriverVersion
        driver = self._ask("nvmlSystemGetDriverVersion", "", version)
        return tuple(
            handle
            for index, uuid in enumerate(uuids)
            if (handle := self._find(f"cuda:{index}", uuid, driver or "")) is not None
        )

    def _find(self, device: str, uuid: str, driver: str) -> Handle | None:
        for kind in ("GPU", "MIG"):
            name = uuid.replace("GPU", kind, 1)
            try:
                found = self._library.nvmlDeviceGetHandleByUUID(name)
            except self._library.NVMLError as error:
                # Which of the two kinds it is, only NVML can say.
                if error.value not in (
                    self._library.NVML_ERROR_NOT_FOUND,
                    self._library.NVML_ERROR_INVALID_ARGUMENT,
                ):
                    self._tell("nvmlDeviceGetHandleByUUID", name, error)
                continue
            return self._described(device, name, found, driver, is_mig=kind == "MIG")
        event(
            logger,
            "no_gpu_metrics",
            f"NVML does not know {device}, whose UUID is {uuid}: it has no metrics",
            level=logging.WARNING,
            device=device,
        )
        return None

    def _described(
        self, device: str, uuid: str, found: Any, driver: str, *, is_mig: bool
    ) -> Handle:
        ask, library = self._ask, self._library
        name = ask("nvmlDeviceGetName", uuid, lambda: library.nvmlDeviceGetName(found))
        gpu = Gpu(uuid, device, str(name or ""), is_mig, driver)
        parent = uuid
        instances = None
        if is_mig:
            whole = ask(
                "nvmlDeviceGetDeviceHandleFromMigDeviceHandle",
                uuid,
                lambda: library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(found),
            )
            of = ask("nvmlDeviceGetUUID", uuid, lambda: library.nvmlDeviceGetUUID(whole))
            parent = str(of or "")
            slice_ = ask(
                "nvmlDeviceGetGpuInstanceId",
                uuid,
                lambda: library.nvmlDeviceGetGpuInstanceId(found),
            )
            compute = ask(
                "nvmlDeviceGetComputeInstanceId",
                uuid,
                lambda: library.nvmlDeviceGetComputeInstanceId(found),
            )
            if slice_ is not None and compute is not None:
                instances = (int(slice_), int(compute))
        return Handle(gpu, found, parent, instances)

    def read(self, handle: Handle) -> GpuReading:
        """All that NVML says of a GPU. Energy is summed by the driver, whoever used it."""
        library, device, uuid = self._library, handle.device, handle.gpu.uuid

        def ask(name: str, *arguments: object) -> Any:
            return self._ask(name, uuid, lambda: getattr(library, name)(device, *arguments))

        # Of a MIG slice there is no utilisation. Old drivers say 0 where they should refuse.
        rates = None if handle.gpu.is_mig else ask("nvmlDeviceGetUtilizationRates")
        memory = ask("nvmlDeviceGetMemoryInfo", library.nvmlMemory_v2)
        reserved = None if memory is None else int(memory.reserved)
        if memory is None:  # a driver before R510: what it reserves counts as used
            memory = ask("nvmlDeviceGetMemoryInfo")
        ecc = [
            ask("nvmlDeviceGetTotalEccErrors", kind, library.NVML_VOLATILE_ECC)
            for kind in (
                library.NVML_MEMORY_ERROR_TYPE_CORRECTED,
                library.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            )
        ]
        rows = ask("nvmlDeviceGetRemappedRows") or (None, None, None, None)
        power = ask("nvmlDeviceGetPowerUsage")
        limit = ask("nvmlDeviceGetPowerManagementLimit")
        energy = ask("nvmlDeviceGetTotalEnergyConsumption")
        sm_clock = ask("nvmlDeviceGetClockInfo", library.NVML_CLOCK_SM)
        memory_clock = ask("nvmlDeviceGetClockInfo", library.NVML_CLOCK_MEM)
        return GpuReading(
            utilization=None if rates is None else rates.gpu / 100,
            memory_busy=None if rates is None else rates.memory / 100,
            memory_total_bytes=None if memory is None else int(memory.total),
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_free_bytes=None if memory is None else int(memory.free),
            memory_reserved_bytes=reserved,
            power_watts=None if power is None else power / 1e3,
            power_limit_watts=None if limit is None else limit / 1e3,
            energy_joules=None if energy is None else energy / 1e3,
            temperature_celsius=ask("nvmlDeviceGetTemperature", library.NVML_TEMPERATURE_GPU),
            sm_clock_hertz=None if sm_clock is None else sm_clock * 1e6,
            memory_clock_hertz=None if memory_clock is None else memory_clock * 1e6,
            clocks_event_reasons=self._reasons(handle),
            ecc_corrected=ecc[0],
            ecc_uncorrected=ecc[1],
            remapped_corrected=rows[0],
            remapped_uncorrected=rows[1],
            remap_pending=None if rows[2] is None else bool(rows[2]),
            remap_failed=None if rows[3] is None else bool(rows[3]),
        )

    def _reasons(self, handle: Handle) -> int | None:
        # Drivers before R535 know the call by its old name only.
        for name in (
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons",
        ):
            call = partial(getattr(self._library, name), handle.device)
            bits = self._ask(name, handle.gpu.uuid, call)
            if bits is not None:
                return int(bits)
        return None

    def listen(self, handles: Sequence[Handle]) -> frozenset[str]:
        """Asks for the Xid errors of these GPUs; gives the UUIDs of those whose driver tells them.

        A slice's errors come from the GPU that it is part of.
        """
        self._events = self._ask("nvmlEventSetCreate", "", self._library.nvmlEventSetCreate)
        if self._events is None:
            return frozenset()
        heard: dict[str, bool] = {}
        for handle in handles:
            parent = handle.parent_uuid
            if not parent or parent in heard:
                continue
            heard[parent] = bool(
                self._ask("nvmlDeviceRegisterEvents", parent, partial(self._register, parent))
            )
        return frozenset(each.gpu.uuid for each in handles if heard.get(each.parent_uuid))

    def _register(self, parent: str) -> bool:
        library = self._library
        whole = library.nvmlDeviceGetHandleByUUID(parent)
        kinds = library.nvmlEventTypeXidCriticalError
        library.nvmlDeviceRegisterEvents(whole, kinds, self._events)
        return True

    def xids(self, handles: Sequence[Handle]) -> Iterator[tuple[str, int]]:
        """The Xid errors since the last call: the UUID of the GPU or slice, and the number. One of
        a whole GPU is of all its slices. Returns at once."""
        library, events = self._library, self._events
        if events is None:
            return
        for _ in range(_MOST_EVENTS):
            try:
                event = library.nvmlEventSetWait_v2(events, 0)
                of = library.nvmlDeviceGetUUID(event.device)
            except library.NVMLError as error:
                if error.value != library.NVML_ERROR_TIMEOUT:
                    self._tell("nvmlEventSetWait_v2", "", error)
                return
            if not event.eventType & library.nvmlEventTypeXidCriticalError:
                continue
            for handle in handles:
                if handle.parent_uuid == of and _concerns(event, handle):
                    yield handle.gpu.uuid, int(event.eventData)

    def _ask(self, name: str, uuid: str, call: Callable[[], T]) -> T | None:
        """What the call gives; None where it is refused or fails."""
        try:
            return call()
        except self._library.NVMLError as error:
            if error.value not in self._refusals:
                self._tell(name, uuid, error)
            return None

    def _tell(self, name: str, uuid: str, error: Any) -> None:
        """Logs a failure the first time."""
        key = (name, uuid, int(error.value))
        if key not in self._told:
            self._told.add(key)
            about = f" for {uuid}" if uuid else ""
            event(
                logger,
                "no_gpu_metrics",
                f"{name} failed{about}: {error}; its metrics are absent",
                level=logging.WARNING,
            )


def _concerns(event: Any, handle: Handle) -> bool:
    if handle.instances is None or event.gpuInstanceId in (_ALL_INSTANCES, None):
        return True
    of_slice, of_compute = handle.instances
    return event.gpuInstanceId == of_slice and event.computeInstanceId in (
        of_compute,
        _ALL_INSTANCES,
    )
