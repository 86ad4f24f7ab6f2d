"""Asks a GPU how it is, after a failure whose text does not tell: `faults.DeviceProbe`.

After a sticky error every call to the CUDA runtime gives that error again; after any other, the
device answers. The question puts no work on the device and waits for none.
Source: CUDA Runtime API, "Error Handling" and cudaStreamQuery.
"""

from collections.abc import Callable
from typing import Final

from stoker.runtime.cuda import CudaError, CudaRuntime, CudaUnavailable
from stoker.runtime.faults import DeviceProbe

UNASKED: Final = -1
"""No CUDA error number: the runtime cannot be loaded, so nothing is known of the device."""

_DEFAULT_STREAM: Final = 0


def device_probe(index: int, load: Callable[[], CudaRuntime] = CudaRuntime) -> DeviceProbe:
    """The probe of `cuda:index`. It gives 0, a CUDA error number, or UNASKED. Any thread may call
    it; the thread's device is `index` afterwards."""

    def probe() -> int:
        try:
            return ask(load(), index)
        except CudaUnavailable:
            return UNASKED

    return probe


def ask(cuda: CudaRuntime, index: int) -> int:
    """What the device answers: 0, or the number of its error."""
    try:
        cuda.set_device(index)
        cuda.stream_is_idle(_DEFAULT_STREAM)
    except CudaError as error:
        return error.number
    return 0
