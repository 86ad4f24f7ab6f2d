"""The end of a process whose GPU context is dead, and of everything in it that used a GPU.

A sticky CUDA error is the process's, not the model's: every later call of every model on every GPU
fails with it, and no call repairs it. So, in this order and once:

    1. the server is not ready, on both transports and the probes, for good
    2. one record tells the facts
    3. every request of a model on a GPU is answered with DEVICE_FAILED, which clients may send
       again; models on the CPU go on with what they have
    4. `leave` is called: the process ends within seconds, without tearing CUDA down, and
       Kubernetes starts it anew

Runs on the event loop and calls nothing of CUDA: such a call may hang.
Source: design, sections "Operating it" and "Errors"; CUDA runtime API, "Error handling".
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from stoker.engine.device_failures import BatchFacts
from stoker.engine.served_model import ServedModel
from stoker.errors import DeviceFailed, Reach
from stoker.lifecycle.health import ServerHealth
from stoker.model import ModelVersion
from stoker.telemetry.log import event

logger: Final = logging.getLogger(__name__)

LEAVE_WITHIN_S: Final = 2.0
"""From the fault to the end of the process, whatever hangs: long enough for answers to leave."""

FINISH_S: Final = 0.5
"""Of that: for models on the CPU to end what they run. What is left is answered as in a drain."""


@dataclass(frozen=True, slots=True)
class KnownOfDevice:
    """What was read of a device while it answered; None: could not be read."""

    driver: str | None = None
    memory_used_bytes: int | None = None
    """After the last load."""
    memory_total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceFault:
    """What is known of a fault that ends the process."""

    cause: DeviceFailed
    identity: ModelVersion
    """The model that met it, which need not be the one that caused it."""
    devices: tuple[str, ...]
    batch: BatchFacts | None = None
    """None: it was not serving, but being loaded, or its run has not ended."""
    last_run_ms: int = 0
    """When the model last ran well, in milliseconds since the epoch; 0: never."""


class DeviceFaults:
    """Ends the process at the first fault; later ones are its echo."""

    def __init__(
        self,
        health: ServerHealth,
        served: Callable[[], Iterable[ServedModel]],
        leave: Callable[[], None],
        known: Callable[[str], KnownOfDevice] = lambda device: KnownOfDevice(),
    ) -> None:
        """`served` gives the models that serve at the moment of the call; `known` what was read of
        a device before it broke, and calls nothing."""
        self._health = health
        self._served = served
        self._leave = leave
        self._known = known
        self.has_struck = False

    def strike(self, fault: DeviceFault) -> None:
        """The process cannot use its GPUs any more."""
        if self.has_struck:
            return
        self.has_struck = True
        try:
            self._give_up(fault)
        finally:  # whatever breaks on the way: a server with a dead GPU must not live on
            self._leave()

    def _give_up(self, fault: DeviceFault) -> None:
        reason = fault.cause.message
        self._health.break_down(f"a GPU failed and this process cannot use it any more: {reason}")
        self._tell(fault)
        error = DeviceFailed(
            f"the GPU failed and the server restarts; send the request again: {reason}",
            reach=Reach.PROCESS,
        )
        for model in list(self._served()):
            if model.is_on_gpu:
                model.stop(error, error)

    def _tell(self, fault: DeviceFault) -> None:
        batch, last = fault.batch, fault.last_run_ms
        known = self._known(fault.devices[0]) if fault.devices else KnownOfDevice()
        event(
            logger,
            "device_failed",
            f"a GPU failed for good while {fault.identity} used it; the process ends within "
            f"{LEAVE_WITHIN_S:g} s with code 70",
            level=logging.CRITICAL,
            model=fault.identity.name,
            version=fault.identity.version,
            reason=fault.cause.message,
            devices=fault.devices,
            rows=batch.rows if batch else None,
            requests=batch.requests if batch else None,
            shapes=batch.shapes if batch else None,
            last_good_run_s_ago=round(time.time() - last / 1e3, 3) if last else None,
            driver=known.driver,
            memory_used_bytes=known.memory_used_bytes,
            memory_total_bytes=known.memory_total_bytes,
        )
