"""Which GPUs CUDA sees in this process, by UUID, in CUDA's order.

Asks the driver, which obeys CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER in all their forms (indexes,
UUIDs, MIG slices): no second reading of those variables could agree with it on every machine.
Makes no context and takes no GPU memory.

Source: CUDA driver API, cuDeviceGetUuid_v2: of a MIG slice it gives the slice's own UUID.
"""

import ctypes
from typing import Final
from uuid import UUID

_UUID_BYTES: Final = 16


def visible_gpus(library: str = "libcuda.so.1") -> tuple[UUID, ...]:
    """The UUID of each GPU, `cuda:0` first; none without a driver or a GPU. Blocks: the driver may
    take a second to wake the GPUs."""
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return ()
    found = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(found)) != 0:
        return ()
    uuids = []
    for index in range(found.value):
        device = ctypes.c_int(0)
        text = (ctypes.c_ubyte * _UUID_BYTES)()
        if driver.cuDeviceGet(ctypes.byref(device), index) != 0:
            return ()
        if driver.cuDeviceGetUuid_v2(ctypes.byref(text), device) != 0:
            return ()
        uuids.append(UUID(bytes=bytes(text)))
    return tuple(uuids)
