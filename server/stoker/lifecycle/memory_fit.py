"""Keeps loads within their devices' memory: refuses what cannot fit, caps arenas, tells the use.

What is decided is `runtime/memory.py`'s; here it meets the devices. Used by load threads.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from stoker.errors import OutOfMemory
from stoker.lifecycle.memory_meter import MemoryMeter
from stoker.model import ModelConfig, ModelVersion
from stoker.runtime.memory import (
    MemoryReading,
    MemoryUse,
    ReadMemory,
    arena_cap,
    engine_misfit,
    misfit,
    tensor_bytes,
)
from stoker.runtime.session import Placement
from stoker.runtime.weights import weights
from stoker.telemetry.log import event

logger: Final = logging.getLogger(__name__)

ARENA_CAP: Final = "gpu_mem_limit"
"""The parameter that says how far a model's arena on a GPU may grow."""


class MemoryFit:
    """The memory of the devices that models are loaded on."""

    def __init__(
        self, read: ReadMemory = lambda device: None, *, gpu_memory_share: float = 1.0
    ) -> None:
        """`read` reads a device's memory, of which models may take `gpu_memory_share` together on
        a GPU. What cannot be read refuses and caps nothing."""
        self._ask = read
        self.last: dict[str, MemoryReading] = {}
        """The last reading of each device."""
        self._share = gpu_memory_share

    def _read(self, device: str) -> MemoryReading | None:
        reading = self._ask(device)
        if reading is not None:
            self.last[device] = reading
        return reading

    def meter(self, placements: Sequence[Placement]) -> MemoryMeter:
        """For one load."""
        return MemoryMeter(self._read, [placement.device for placement in placements])

    def capped(
        self, path: Path, draft: ModelConfig, placements: Sequence[Placement]
    ) -> Mapping[str, ModelConfig]:
        """The configuration for each device, with a cap for the arena on a GPU where the file has
        none. Raises OutOfMemory for a model whose weights cannot fit: ask before it is opened."""
        found = weights(path)
        counts = Counter(placement.device for placement in placements)
        configs = {}
        for device, sessions in counts.items():
            reading = self._read(device)
            sentence = misfit(found, device, reading, sessions=sessions, share=self._share)
            if sentence is not None:
                raise OutOfMemory(f"model '{draft.name}': {sentence}")
            configs[device] = draft
            cap = arena_cap(reading, device, sessions=sessions, share=self._share)
            if cap and ARENA_CAP not in draft.parameters:
                parameters = {**draft.parameters, ARENA_CAP: str(cap)}
                configs[device] = replace(draft, parameters=parameters)
        return configs

    def require(self, model: str, device: str, least: int) -> int | None:
        """Room for one session more, which takes `least` bytes or more of a device. Gives what is
        used of the device before it; None where that cannot be read. Raises OutOfMemory."""
        reading = self._read(device)
        sentence = engine_misfit(least, device, reading, share=self._share)
        if sentence is not None:
            raise OutOfMemory(f"model '{model}': {sentence}")
        return None if reading is None else reading.used

    def used(self, device: str) -> int | None:
        """Bytes of a device that are used; None where that cannot be read."""
        reading = self._read(device)
        return None if reading is None else reading.used


def memory_use(path: Path, config: ModelConfig, sessions: int, meter: MemoryMeter) -> MemoryUse:
    """What a version takes that is open and warm; all turns of the meter are over."""
    total = weights(path).total * sessions
    return MemoryUse(total, tensor_bytes(config), meter.loaded, meter.workspace)


def log_memory(identity: ModelVersion, memory: MemoryUse) -> None:
    """Tells the numbers of one version."""
    event(
        logger,
        "model_memory",
        f"{identity} takes memory: {memory}",
        level=logging.DEBUG,
        model=identity.name,
        version=identity.version,
        weights_bytes=memory.weights,
        tensors_bytes=memory.tensors,
        loaded_bytes=memory.loaded,
        workspace_bytes=memory.workspace,
    )
