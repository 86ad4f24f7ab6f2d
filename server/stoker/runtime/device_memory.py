"""Where the tensors of fixed bindings live, and how rows get there and back.

Requests' rows are laid into host slabs, and a run reads and writes device memory. On the CPU the
two are the same memory and nothing is copied; on a GPU each session has its stream, device buffers
beside the slabs, and asynchronous copies between them, which need page-locked slabs to be fast and
not to block. `fixed.py` runs the same steps on both; here are what it needs of either, and the
CPU's; the GPU's is in `cuda_memory.py`.
"""

import contextlib
import ctypes
import mmap
from contextlib import AbstractContextManager
from typing import Final, Protocol

import numpy as np

from stoker.tensor import Array

ALIGNMENT: Final = 64
"""Bytes: a cache line, and the widest vector that ONNX Runtime's CPU kernels load."""

LARGE_BYTES: Final = 1 << 16
"""Slabs from here on begin with a page. Data of messages begin some bytes behind the beginning of
one; a copy to an address that lies a little further in its page than the source waits for its own
stores again and again: 1,035 us instead of 370 for 16 rows of 588 KiB
(benchmarks/results/0009-fixed-bindings.md)."""


class Slab:
    """Host memory that rows are gathered in or outputs arrive in."""

    __slots__ = ("address", "array", "is_page_locked")

    def __init__(self, array: Array, *, is_page_locked: bool = False) -> None:
        self.array = array
        """UINT8 [nbytes], contiguous. Views of it keep the memory alive."""
        self.address = int(array.__array_interface__["data"][0])
        self.is_page_locked = is_page_locked


class DeviceMemory(Protocol):
    """Memory for one session's runs."""

    @property
    def kind(self) -> str:
        """`cpu` or `cuda`: how ONNX Runtime calls the device of its addresses."""

    @property
    def index(self) -> int:
        """Which of the devices of that kind."""

    @property
    def is_host(self) -> bool:
        """Device addresses are the slabs' own: nothing is copied."""

    def enter(self) -> None:
        """The calling thread is going to use this memory from here on."""

    def calls(self) -> AbstractContextManager[None]:
        """Around the steps of a run: they wait while a CUDA graph is captured."""

    def capture(self) -> AbstractContextManager[None]:
        """Around the steps of a run that captures a CUDA graph: nothing else calls the device."""

    def slab(self, nbytes: int) -> Slab:
        """Host memory of at least one byte. Raises OutOfMemory where there is none."""

    def allocate(self, nbytes: int) -> int:
        """The address of device memory; freed by `close`."""

    def copy_in(self, device: int, host: int, nbytes: int) -> None:
        """Queues a copy from a slab to the device."""

    def clear(self, device: int, nbytes: int) -> None:
        """Queues zeros on the device."""

    def copy_out(self, host: int, device: int, nbytes: int) -> None:
        """Queues a copy from the device into a slab."""

    def wait(self) -> None:
        """Returns when all that was queued is done, the runs before it among them."""

    def close(self) -> None:
        """Frees what is on the device and unlocks the slabs, which live as long as their views."""


class HostMemory:
    """The CPU's. Implements `DeviceMemory`; nothing of it is ever queued."""

    kind = "cpu"
    index = 0
    is_host = True

    def __init__(self) -> None:
        self._allocated: list[Slab] = []

    def enter(self) -> None:
        """Implements `DeviceMemory`."""

    def calls(self) -> AbstractContextManager[None]:
        """Implements `DeviceMemory`."""
        return contextlib.nullcontext()

    def capture(self) -> AbstractContextManager[None]:
        """Implements `DeviceMemory`."""
        return contextlib.nullcontext()

    def slab(self, nbytes: int) -> Slab:
        """Implements `DeviceMemory`."""
        alignment = ALIGNMENT if nbytes < LARGE_BYTES else mmap.PAGESIZE
        room = np.empty(nbytes + alignment, np.uint8)
        begin = -int(room.__array_interface__["data"][0]) % alignment
        return Slab(room[begin : begin + nbytes])

    def allocate(self, nbytes: int) -> int:
        """Implements `DeviceMemory`."""
        self._allocated.append(self.slab(nbytes))
        return self._allocated[-1].address

    def copy_in(self, device: int, host: int, nbytes: int) -> None:
        """Implements `DeviceMemory`: the bytes are there already."""

    def clear(self, device: int, nbytes: int) -> None:
        """Implements `DeviceMemory`."""
        ctypes.memset(device, 0, nbytes)

    def copy_out(self, host: int, device: int, nbytes: int) -> None:
        """Implements `DeviceMemory`: the bytes are there already."""

    def wait(self) -> None:
        """Implements `DeviceMemory`."""

    def close(self) -> None:
        """Implements `DeviceMemory`: slabs end with their views."""
        self._allocated.clear()
