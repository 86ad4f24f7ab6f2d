"""The CUDA runtime by ctypes, as far as the checks on hardware need it.

Written from the reference alone and apart from the server's own calls, so that a check that fails
says which of the two is wrong.  Source: CUDA Runtime API 13.
"""

import ctypes
import mmap
from typing import Final

import numpy as np
from stoker.tensor import Array

LIBRARY: Final = "libcudart.so.13"

_TO_DEVICE: Final = 1
_TO_HOST: Final = 2
_NON_BLOCKING: Final = 1
_PORTABLE: Final = 1
_NOT_READY: Final = 600


class CudaError(Exception):
    """A call gave `code`, a cudaError_t."""

    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(f"{call}: CUDA failure {code}: {text}")
        self.code = code


class Cudart:
    """The loaded library; calls release the GIL. Raises OSError where it is not there."""

    def __init__(self, library: str = LIBRARY) -> None:
        self._library = ctypes.CDLL(library)
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def set_device(self, index: int) -> None:
        """Later calls of this thread mean this device."""
        self._call("cudaSetDevice", ctypes.c_int(index))

    def stream(self) -> int:
        """A new stream, which does not wait for the default one."""
        made = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(made), ctypes.c_uint(_NON_BLOCKING))
        return made.value or 0

    def destroy(self, stream: int) -> None:
        """Ends a stream that no session uses."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def wait(self, stream: int) -> None:
        """Returns when the stream's work is done."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def query(self, stream: int = 0) -> int:
        """The error that the device is left in: 0 where all is well or at work."""
        code = int(self._library.cudaStreamQuery(ctypes.c_void_p(stream)))
        return 0 if code == _NOT_READY else code

    def malloc(self, nbytes: int) -> int:
        """The address of device memory."""
        made = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(made), ctypes.c_size_t(nbytes))
        return made.value or 0

    def free(self, address: int) -> None:
        """Gives device memory back."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def copy_in(self, device: int, host: Array, stream: int) -> None:
        """Queues a copy to the device."""
        self._copy(device, _address(host), host.nbytes, _TO_DEVICE, stream)

    def copy_out(self, host: Array, device: int, stream: int) -> None:
        """Queues a copy from the device."""
        self._copy(_address(host), device, host.nbytes, _TO_HOST, stream)

    def memory_info(self) -> tuple[int, int]:
        """Free and total bytes of the thread's device."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def register(self, array: Array) -> None:
        """Page-locks the whole pages of `pages`."""
        self._call(
            "cudaHostRegister",
            ctypes.c_void_p(_address(array)),
            ctypes.c_size_t(_whole_pages(array.nbytes)),
            ctypes.c_uint(_PORTABLE),
        )

    def unregister(self, array: Array) -> None:
        """Undoes `register`."""
        self._call("cudaHostUnregister", ctypes.c_void_p(_address(array)))

    def _copy(self, to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(to),
            ctypes.c_void_p(source),
            ctypes.c_size_t(nbytes),
            ctypes.c_int(kind),
            ctypes.c_void_p(stream),
        )

    def _call(self, name: str, *arguments: object) -> None:
        code = int(getattr(self._library, name)(*arguments))
        if code:
            text = self._library.cudaGetErrorString(ctypes.c_int(code)) or b""
            raise CudaError(name, code, text.decode(errors="replace"))


def pages(nbytes: int) -> Array:
    """UINT8 [nbytes] that begins at a page, so that it can be page-locked. It is there: touched."""
    memory = mmap.mmap(-1, _whole_pages(nbytes))
    array = np.frombuffer(memory, np.uint8, nbytes)
    array[:] = 0
    return array


def _whole_pages(nbytes: int) -> int:
    return max(1, -(-nbytes // mmap.PAGESIZE)) * mmap.PAGESIZE


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
