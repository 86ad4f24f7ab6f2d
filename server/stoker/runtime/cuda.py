"""The CUDA runtime's calls that the hot path needs, by ctypes, each with its return code checked.

Foreign calls give the GIL up, so copies and waits leave the event loop its time. The library is the
one that ONNX Runtime's CUDA provider has loaded already. Device memory is an address here, streams
and events are handles; who owns them is `device_memory.py`'s business.
Source: CUDA Runtime API 13, "Device", "Stream", "Event" and "Memory Management".
"""

import ctypes
from collections.abc import Callable
from typing import Final

LIBRARY: Final = "libcudart.so.13"

_NON_BLOCKING_STREAM: Final = 1
"""cudaStreamNonBlocking: no waiting for the default stream."""
_BLOCKING_WAIT: Final = 1 | 2
"""cudaEventBlockingSync and cudaEventDisableTiming. The default wait spins: it would take the core
of a small pod from the event loop for as long as the GPU computes."""
_PORTABLE: Final = 1
"""cudaHostRegisterPortable: page-locked for every context of the process."""
_TO_DEVICE, _TO_HOST = 1, 2
_NOT_READY: Final = 600
"""cudaErrorNotReady: the stream has work left. No failure."""

_ADDRESS: Final = ctypes.c_void_p
_SIZE: Final = ctypes.c_size_t
_HANDLE_OUT: Final = ctypes.POINTER(ctypes.c_void_p)
_SIZE_OUT: Final = ctypes.POINTER(ctypes.c_size_t)

_ARGUMENTS: Final = {
    "cudaSetDevice": (ctypes.c_int,),
    "cudaStreamCreateWithFlags": (_HANDLE_OUT, ctypes.c_uint),
    "cudaStreamDestroy": (_ADDRESS,),
    "cudaStreamSynchronize": (_ADDRESS,),
    "cudaStreamQuery": (_ADDRESS,),
    "cudaEventCreateWithFlags": (_HANDLE_OUT, ctypes.c_uint),
    "cudaEventDestroy": (_ADDRESS,),
    "cudaEventRecord": (_ADDRESS, _ADDRESS),
    "cudaEventSynchronize": (_ADDRESS,),
    "cudaMalloc": (_HANDLE_OUT, _SIZE),
    "cudaFree": (_ADDRESS,),
    "cudaHostRegister": (_ADDRESS, _SIZE, ctypes.c_uint),
    "cudaHostUnregister": (_ADDRESS,),
    "cudaMemcpyAsync": (_ADDRESS, _ADDRESS, _SIZE, ctypes.c_int, _ADDRESS),
    "cudaMemsetAsync": (_ADDRESS, ctypes.c_int, _SIZE, _ADDRESS),
    "cudaMemGetInfo": (_SIZE_OUT, _SIZE_OUT),
}


class CudaUnavailable(Exception):
    """The CUDA runtime cannot be loaded here. The text says why."""


class CudaError(Exception):
    """A call failed. The text has the form of ONNX Runtime's own: `faults.classify` reads it."""

    def __init__(self, number: int, name: str, text: str, call: str) -> None:
        super().__init__(f"CUDA failure {number}: {text} ; {name} ; expr={call}")
        self.number = number
        """A cudaError_t."""
        self.name = name
        """`cudaErrorMemoryAllocation` and so on."""
        self.call = call


class CudaRuntime:
    """The loaded library. Any thread may call; `set_device` is for the calling thread."""

    def __init__(self, library: str = LIBRARY) -> None:
        """Raises CudaUnavailable where the library or one of its functions is missing."""
        try:
            loaded = ctypes.CDLL(library)  # CDLL gives the GIL up around calls; PyDLL would not
            self._error_name = _text_function(loaded, "cudaGetErrorName")
            self._error_text = _text_function(loaded, "cudaGetErrorString")
            self._calls = {
                name: _function(loaded, name, arguments) for name, arguments in _ARGUMENTS.items()
            }
        except (OSError, AttributeError) as error:
            raise CudaUnavailable(f"{library} cannot be used: {error}") from error
        # Hot path: looked up once.
        self._copy = self._calls["cudaMemcpyAsync"]

    def set_device(self, index: int) -> None:
        """Later calls of this thread mean this device."""
        self._call("cudaSetDevice", index)

    def stream_create(self) -> int:
        """A stream of the thread's device that does not wait for the default stream."""
        handle = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(handle), _NON_BLOCKING_STREAM)
        return handle.value or 0

    def stream_destroy(self, stream: int) -> None:
        """No session uses it any more."""
        self._call("cudaStreamDestroy", stream)

    def stream_synchronize(self, stream: int) -> None:
        """Waits until the stream has no work left. Raises what failed in it."""
        self._call("cudaStreamSynchronize", stream)

    def stream_is_idle(self, stream: int) -> bool:
        """Whether the stream has no work left. Raises what failed in it: after a failure that
        nobody can name, an error here means that the device's context is dead."""
        code = int(self._calls["cudaStreamQuery"](stream))
        if code == _NOT_READY:
            return False
        self._check(code, "cudaStreamQuery")
        return True

    def event_create(self) -> int:
        """An event whose wait sleeps."""
        handle = ctypes.c_void_p()
        self._call("cudaEventCreateWithFlags", ctypes.byref(handle), _BLOCKING_WAIT)
        return handle.value or 0

    def event_destroy(self, event: int) -> None:
        """Nobody waits for it."""
        self._call("cudaEventDestroy", event)

    def event_record(self, event: int, stream: int) -> None:
        """The event happens when all that is in the stream by now is done."""
        self._call("cudaEventRecord", event, stream)

    def event_synchronize(self, event: int) -> None:
        """Waits for the event, without the GIL and without using a core. Raises what failed in
        the work before it."""
        self._call("cudaEventSynchronize", event)

    def malloc(self, nbytes: int) -> int:
        """Device memory, aligned to 256 bytes. Raises CudaError 2 where it does not fit."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), nbytes)
        return address.value or 0

    def free(self, address: int) -> None:
        """Waits for the device, then gives the memory back."""
        self._call("cudaFree", address)

    def host_register(self, address: int, nbytes: int) -> None:
        """Page-locks host memory: whole pages, of this process only."""
        self._call("cudaHostRegister", address, nbytes, _PORTABLE)

    def host_unregister(self, address: int) -> None:
        """Before the memory is unmapped."""
        self._call("cudaHostUnregister", address)

    def copy_in(self, device: int, host: int, nbytes: int, stream: int) -> None:
        """Queues a copy to the device. The host's memory stays as it is until the copy is done."""
        code = int(self._copy(device, host, nbytes, _TO_DEVICE, stream))
        self._check(code, "cudaMemcpyAsync")

    def copy_out(self, host: int, device: int, nbytes: int, stream: int) -> None:
        """Queues a copy from the device. Nobody reads the host's memory until it is done."""
        code = int(self._copy(host, device, nbytes, _TO_HOST, stream))
        self._check(code, "cudaMemcpyAsync")

    def clear(self, device: int, nbytes: int, stream: int) -> None:
        """Queues zeros."""
        self._call("cudaMemsetAsync", device, 0, nbytes, stream)

    def memory_info(self) -> tuple[int, int]:
        """Free and total bytes of the thread's device."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def _call(self, name: str, *arguments: object) -> None:
        self._check(int(self._calls[name](*arguments)), name)

    def _check(self, code: int, call: str) -> None:
        if code:
            name = self._error_name(code).decode(errors="replace")
            text = self._error_text(code).decode(errors="replace")
            raise CudaError(code, name, text, call)


def _function(library: ctypes.CDLL, name: str, arguments: tuple[object, ...]) -> Callable[..., int]:
    function = getattr(library, name)
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]  # ctypes knows no signatures


def _text_function(library: ctypes.CDLL, name: str) -> Callable[[int], bytes]:
    function = getattr(library, name)
    function.argtypes = (ctypes.c_int,)
    function.restype = ctypes.c_char_p
    return function  # type: ignore[no-any-return]  # ctypes knows no signatures
