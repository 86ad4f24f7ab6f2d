"""Device discovery: what models can be placed on, looked at once, when the first model asks.

Not at start, since a driver may take a second to answer and the ports open before. Threads that
load models share one look.
"""

import logging
import os
import threading
from collections.abc import Callable

from stoker.runtime.cpu import read_budget
from stoker.runtime.gpu_diagnosis import CudaNeeds, gpu_absence, gpu_unfitness, version_text
from stoker.runtime.gpu_facts import DRIVER, Gpu, GpuFacts, read_gpu_facts
from stoker.runtime.placement import DeviceWish, Machine
from stoker.telemetry.log import event

log = logging.getLogger(__name__)


class Discovery:
    """The GPUs and CPUs of this process."""

    def __init__(
        self,
        wish: DeviceWish,
        needs: CudaNeeds | None,
        *,
        preload: Callable[[], None],
        driver: str = DRIVER,
    ) -> None:
        """`needs` are the installed ONNX Runtime's; `preload` is called once, where there is a GPU
        that can be used, before anyone hears of it."""
        self._wish = wish
        self._needs = needs
        self._preload = preload
        self._driver = driver
        self._lock = threading.Lock()
        self._found: tuple[GpuFacts, Machine] | None = None

    @property
    def gpus(self) -> GpuFacts:
        """The GPUs as the driver tells of them; with the device `cpu` it is not asked."""
        return self._look()[0]

    @property
    def machine(self) -> Machine:
        """What models can be placed on."""
        return self._look()[1]

    def _look(self) -> tuple[GpuFacts, Machine]:
        with self._lock:
            if self._found is None:
                facts = GpuFacts()
                absence: str | None = "the server runs with --device cpu"
                if self._wish != "cpu":
                    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
                    facts = read_gpu_facts(visible=visible, library=self._driver)
                    absence = self._absence(facts)
                for gpu in facts.gpus:
                    _log_gpu(gpu, facts.driver_version)
                if absence is None:
                    self._preload()
                count = 0 if absence else facts.count
                self._found = facts, Machine(count, read_budget(), absence or "")
            return self._found

    def _absence(self, facts: GpuFacts) -> str | None:
        """Why there is no GPU to use. One that ONNX Runtime has no code for is none, unless there
        is another: then a model that goes there is refused."""
        absence = gpu_absence(facts, self._needs)
        unfit = [gpu_unfitness(facts, gpu.index) for gpu in facts.gpus]
        if absence is None and all(unfit):
            absence = unfit[0]
        if absence is not None and facts.has_driver:
            event(
                log,
                "gpu_absent",
                f"an NVIDIA driver is here, and no GPU can be used: {absence}",
                level=logging.WARNING,
            )
        return absence


def _log_gpu(gpu: Gpu, driver_version: int) -> None:
    event(
        log,
        "gpu",
        f"GPU {gpu.index} is {gpu.name or 'of unknown name'}",
        index=gpu.index,
        name=gpu.name,
        compute_capability=gpu.capability_text,
        memory_bytes=gpu.memory_bytes,
        uuid=gpu.uuid,
        driver_cuda=version_text(driver_version),
    )
