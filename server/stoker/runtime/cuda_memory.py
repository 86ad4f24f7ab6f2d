"""A GPU's memory for fixed bindings: page-locked slabs, device buffers, and a session's stream.

Implements `device_memory.py` by `cuda.py`. `gpu_hot_path.py` makes one for each session on a GPU.
  1. One thread at a time uses a memory; all steps of one run are queued in its stream, in order.
  2. A slab is page-locked as long as its memory is open, and unlocked before it is unmapped.
  3. Page-locked bytes are counted against one budget of the process; beyond it slabs are pageable:
     slower, never wrong.
Source: reference, ONNX Runtime on NVIDIA GPUs, sections 3.3 and 3.4.
"""

import contextlib
import logging
import mmap
import threading
from contextlib import AbstractContextManager
from typing import Final

import numpy as np

from stoker.errors import ServingError
from stoker.runtime import faults
from stoker.runtime.cuda import CudaError, CudaRuntime
from stoker.runtime.cuda_graphs import CaptureGate
from stoker.runtime.device_memory import Slab
from stoker.runtime.device_probe import ask
from stoker.telemetry.log import event

log = logging.getLogger(__name__)

PINNED_SHARE: Final = 0.25
"""Of the memory that the process may use. Page-locked memory is never swapped out nor given back,
and requests, answers and weights on the host need the rest."""


class PinnedBudget:
    """How many bytes of the process may be page-locked. For any thread."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Page-locked at present."""
        return self._used

    def take(self, nbytes: int) -> bool:
        """Whether so many bytes more may be page-locked; they count from here on."""
        with self._lock:
            if self._used + nbytes > self.limit_bytes:
                return False
            self._used += nbytes
            return True

    def give_back(self, nbytes: int) -> None:
        """They are not page-locked any more."""
        with self._lock:
            self._used -= nbytes


class CudaMemory:
    """A GPU's, with the stream of one session. Implements `DeviceMemory`.

    Failures of CUDA are told as those of ONNX Runtime are: OutOfMemory or DeviceFailed.
    """

    is_host = False

    def __init__(
        self,
        cuda: CudaRuntime,
        index: int,
        budget: PinnedBudget,
        *,
        model: str,
        gate: CaptureGate | None = None,
        kind: str = "cuda",
    ) -> None:
        """Makes the stream, on device `index`. `budget` and `gate` are the process's. `kind` is
        `cpu` only for a stub of CUDA whose device memory is the host's, so that ONNX Runtime's CPU
        provider can run on it."""
        self._model = model
        self.kind = kind
        self.index = index if kind == "cuda" else 0
        self._cuda = cuda
        self._device = index
        self._budget = budget
        self._gate = gate or CaptureGate()
        self._allocated: list[int] = []
        self._locked: list[tuple[int, int, mmap.mmap]] = []
        """Address and bytes of page-locked slabs, with what keeps them mapped."""
        self._is_closed = False
        self._thread = 0
        self.enter()
        try:
            self.stream = cuda.stream_create()
            """Its handle, for the session's option `user_compute_stream`."""
            try:
                self._done = cuda.event_create()
            except CudaError:
                cuda.stream_destroy(self.stream)
                raise
        except CudaError as error:
            raise self._failed(error) from error

    def enter(self) -> None:
        """Implements `DeviceMemory`. The device is chosen per thread."""
        thread = threading.get_ident()
        if thread != self._thread:
            try:
                self._cuda.set_device(self._device)
            except CudaError as error:
                raise self._failed(error) from error
            self._thread = thread

    def calls(self) -> AbstractContextManager[None]:
        """Implements `DeviceMemory`."""
        return self._gate.calls()

    def capture(self) -> AbstractContextManager[None]:
        """Implements `DeviceMemory`."""
        return self._gate.capture()

    def slab(self, nbytes: int) -> Slab:
        """Implements `DeviceMemory`: whole pages, page-locked while the budget lasts."""
        room = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = mmap.mmap(-1, room)
        slab = Slab(np.frombuffer(pages, np.uint8, nbytes))
        if not self._budget.take(room):
            event(
                log,
                "not_page_locked",
                f"{room} bytes for batches are not page-locked: {self._budget.used_bytes} of "
                f"{self._budget.limit_bytes} are in use; copies to the GPU are slower. Give the "
                "pod more memory, or the model a smaller batch",
                level=logging.WARNING,
            )
            return slab
        try:
            with self._gate.calls():
                self.enter()
                self._cuda.host_register(slab.address, room)
        except CudaError as error:
            self._budget.give_back(room)
            event(
                log,
                "not_page_locked",
                f"{room} bytes for batches are not page-locked, copies to the GPU are slower: "
                f"{error}",
                level=logging.WARNING,
            )
            return slab
        self._locked.append((slab.address, room, pages))
        slab.is_page_locked = True
        return slab

    def allocate(self, nbytes: int) -> int:
        """Implements `DeviceMemory`."""
        try:
            with self._gate.calls():
                self.enter()
                address = self._cuda.malloc(nbytes)
        except CudaError as error:
            raise self._failed(error) from error
        self._allocated.append(address)
        return address

    def copy_in(self, device: int, host: int, nbytes: int) -> None:
        """Implements `DeviceMemory`."""
        try:
            self._cuda.copy_in(device, host, nbytes, self.stream)
        except CudaError as error:
            raise self._failed(error) from error

    def clear(self, device: int, nbytes: int) -> None:
        """Implements `DeviceMemory`."""
        try:
            self._cuda.clear(device, nbytes, self.stream)
        except CudaError as error:
            raise self._failed(error) from error

    def copy_out(self, host: int, device: int, nbytes: int) -> None:
        """Implements `DeviceMemory`."""
        try:
            self._cuda.copy_out(host, device, nbytes, self.stream)
        except CudaError as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Implements `DeviceMemory`. The thread sleeps meanwhile, without the GIL."""
        try:
            self._cuda.event_record(self._done, self.stream)
            self._cuda.event_synchronize(self._done)
        except CudaError as error:
            raise self._failed(error) from error

    def _failed(self, error: CudaError) -> ServingError:
        return faults.run_error(
            str(error),
            model=self._model,
            on_gpu=True,
            probe=lambda: ask(self._cuda, self._device),
        )

    def close(self) -> None:
        """Implements `DeviceMemory`. Comes after the session's own end, which uses the stream.

        What fails here has failed before: the device is gone, and is not asked again.
        """
        if self._is_closed:
            return  # a handle that was destroyed may be another's by now
        self._is_closed = True
        with self._gate.calls():
            self._end()

    def _end(self) -> None:
        with contextlib.suppress(CudaError, ServingError):
            self.enter()
            self._cuda.stream_synchronize(self.stream)
        for address, nbytes, _ in self._locked:
            with contextlib.suppress(CudaError):
                self._cuda.host_unregister(address)
            self._budget.give_back(nbytes)
        self._locked.clear()
        for address in self._allocated:
            with contextlib.suppress(CudaError):
                self._cuda.free(address)
        self._allocated.clear()
        for end, handle in (
            (self._cuda.event_destroy, self._done),
            (self._cuda.stream_destroy, self.stream),
        ):
            with contextlib.suppress(CudaError):
                end(handle)


def pinned_budget(memory_bytes: int) -> PinnedBudget:
    """The budget of a process that may use so much memory."""
    return PinnedBudget(int(memory_bytes * PINNED_SHARE))
