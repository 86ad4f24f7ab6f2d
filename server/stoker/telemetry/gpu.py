"""The GPUs' figures for `/metrics`: one slow thread reads NVML, the loop shows what it read last.

`app.py` starts it with a function that names the GPUs of this process and registers it with
`show_gpus`. Where that function names none, or there is no driver or no nvidia-ml-py, the thread
ends and every GPU metric is absent. Nothing is ever decided by these figures: readiness, admission
and scaling do not see them.

  1. The loop never calls NVML and never waits for the thread; it takes the last reading as it is.
  2. A reading that has grown old (NVML hangs) is not shown: what it says is no longer known.
  3. The thread is a daemon: a call into a driver that hangs does not keep the process from ending.
"""

import importlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Final, TypeAlias

from stoker.telemetry.gpu_reading import Figures, GpuCounts, figures, merged
from stoker.telemetry.gpu_table import GPU_METRICS
from stoker.telemetry.log import event
from stoker.telemetry.metric import Metric
from stoker.telemetry.metrics import MetricsRegistry
from stoker.telemetry.nvml import Handle, Nvml

logger: Final = logging.getLogger(__name__)

LEAST_INTERVAL_S: Final = 1.0
"""NVML refreshes most figures no more often, and a round of calls can take tens of milliseconds."""
_OLD_AFTER_INTERVALS: Final = 5
_OLD_AFTER_S: Final = 10.0

VisibleGpus: TypeAlias = Callable[[], Sequence[str]]
"""The UUIDs, `GPU-...`, of the GPUs that CUDA sees in this process, in CUDA's order; of MIG slices
their own, in the same form. May block."""


GpuSeries: TypeAlias = Callable[[Metric], Mapping[tuple[str, ...], float]]
"""The series of a metric: values by the values of its labels."""


def nvml_binding() -> ModuleType | None:
    """The module of nvidia-ml-py; None where it is not installed."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None


class GpuPoller:
    """Owner of the thread `gpu metrics`. `start` and `close` on the loop or any one thread."""

    def __init__(
        self,
        visible: VisibleGpus,
        interval_s: float,
        *,
        binding: Callable[[], ModuleType | None] = nvml_binding,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`interval_s`: time between two readings, at least LEAST_INTERVAL_S. `binding` gives the
        module `pynvml`, on the thread."""
        self._visible = visible
        self.interval_s = max(LEAST_INTERVAL_S, interval_s)
        """Seconds between two readings."""
        self._binding = binding
        self._clock = clock
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        # Replaced as a whole by the thread, read as a whole by the loop.
        self._read: tuple[float, Figures] = (clock(), {})

    def start(self) -> None:
        """Starts the thread; the first reading follows soon."""
        self._thread = threading.Thread(target=self._run, name="gpu metrics", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 1.0) -> bool:
        """Ends the thread, waiting for it no longer than this; False if it hangs in the driver.

        Blocks: call it on a worker thread.
        """
        self._ending.set()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_polling(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None and self._thread.is_alive()

    def series(self, metric: Metric) -> Mapping[tuple[str, ...], float]:
        """The series of one metric as last read; none while the last reading is old."""
        read, known = self._read
        oldest = max(_OLD_AFTER_S, _OLD_AFTER_INTERVALS * self.interval_s)
        return known.get(metric, {}) if self._clock() - read <= oldest else {}

    def _run(self) -> None:
        try:
            self._poll()
        except Exception:
            logger.exception("reading the GPUs failed; their metrics are absent from here on")
        finally:
            self._read = (self._clock(), {})

    def _poll(self) -> None:
        uuids = self._visible()
        if not uuids or self._ending.is_set():
            return
        library = self._binding()
        if library is None:
            event(
                logger,
                "no_gpu_metrics",
                "nvidia-ml-py is not installed, so the GPUs have no metrics; it comes with the "
                "extra `gpu`",
                level=logging.WARNING,
            )
            return
        nvml = Nvml(library)
        if not nvml.open():
            return
        try:
            handles = nvml.find(uuids)
            if handles:
                self._read_on(nvml, handles)
        finally:
            nvml.close()

    def _read_on(self, nvml: Nvml, handles: Sequence[Handle]) -> None:
        counts = {handle.gpu.uuid: GpuCounts() for handle in handles}
        for uuid in nvml.listen(handles):
            counts[uuid].hears_xids = True
        has_failed = False
        while True:
            try:
                self._read = (self._clock(), _round(nvml, handles, counts))
            except Exception:
                if not has_failed:
                    logger.exception("a reading of the GPUs failed; others follow")
                has_failed = True
            if self._ending.wait(self.interval_s):
                return


def _round(nvml: Nvml, handles: Sequence[Handle], counts: Mapping[str, GpuCounts]) -> Figures:
    """One reading of all GPUs."""
    for uuid, number in nvml.xids(handles):
        counts[uuid].note_xid(number)
    parts = []
    for handle in handles:
        reading = nvml.read(handle)
        own = counts[handle.gpu.uuid]
        own.note_energy(reading.energy_joules)
        parts.append(figures(handle.gpu, reading, own))
    return merged(parts)


def show_gpus(metrics: MetricsRegistry, series: GpuSeries) -> None:
    """Shows every GPU metric in `metrics`; `series` is a poller's."""
    for metric in GPU_METRICS:
        metrics.register_labelled(metric, partial(series, metric))
