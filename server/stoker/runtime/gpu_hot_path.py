"""What the sessions of a process share on its GPUs: the CUDA runtime, the budget of page-locked
memory, and the gate that CUDA graphs are captured behind.

`onnx.py` has one, and takes a stream and memory from it for each session on a GPU. Without the CUDA
runtime sessions have neither, and run at level 0.
"""

import logging
import os
import threading
from typing import Final

from stoker.errors import DeviceFailed, OutOfMemory
from stoker.runtime.cuda import LIBRARY, CudaRuntime, CudaUnavailable
from stoker.runtime.cuda_graphs import CaptureGate
from stoker.runtime.cuda_memory import CudaMemory, pinned_budget
from stoker.telemetry.log import event

log: Final = logging.getLogger(__name__)


class GpuHotPath:
    """Made with the runtime; looks for the CUDA runtime at the first session on a GPU, when ONNX
    Runtime has loaded it."""

    def __init__(
        self,
        memory_bytes: int | None,
        *,
        library: str = LIBRARY,
        kind: str = "cuda",
    ) -> None:
        """`memory_bytes`: what the process may use, None without a limit. `kind`: see
        `CudaMemory`."""
        self.gate = CaptureGate()
        self._library = library
        self._kind = kind
        self._lock = threading.Lock()
        self._cuda: CudaRuntime | None = None
        self._has_looked = False
        self._pinned = pinned_budget(memory_bytes or physical_bytes())

    def memory(self, model: str, index: int) -> CudaMemory | None:
        """A stream and memory for one session on GPU `index`; None where there is none to be had.
        Why a GPU cannot be used is told by the session's own opening, which knows more of it."""
        cuda = self._runtime()
        if cuda is None:
            return None
        try:
            with self.gate.calls():
                return CudaMemory(
                    cuda, index, self._pinned, model=model, gate=self.gate, kind=self._kind
                )
        except (DeviceFailed, OutOfMemory) as error:
            event(log, "no_stream", f"no stream of its own: {error.message}", level=logging.WARNING)
            return None

    def _runtime(self) -> CudaRuntime | None:
        with self._lock:
            if not self._has_looked:
                self._has_looked = True
                try:
                    self._cuda = CudaRuntime(self._library)
                except CudaUnavailable as error:
                    event(
                        log,
                        "no_stream",
                        f"models on GPUs run without streams of their own: {error}",
                        level=logging.WARNING,
                    )
            return self._cuda


def physical_bytes() -> int:
    """All memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
