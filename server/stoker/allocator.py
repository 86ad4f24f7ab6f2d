"""How much freed memory the C library keeps for the next large message.

glibc gives the top of its heap back to the kernel when more than a threshold of it is free, and
takes blocks above another threshold from the kernel each time. Messages of some 100 KiB then fault
their pages in anew, or not, as other blocks happen to lie: 43 faults and a third of the CPU time of
a request of 588 KiB (benchmarks/results/0008-large-messages.md). Knows nothing of messages.
Source: mallopt(3).
"""

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3

KEPT_BYTES: Final = 64 << 20
"""Kept at the top of the heap: 100 messages of 588 KiB."""

KEPT_BLOCK_BYTES: Final = 8 << 20
"""Larger blocks are taken from the kernel and go back to it."""


def keep_freed_memory() -> bool:
    """Sets both for this process. False where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(_MMAP_THRESHOLD, KEPT_BLOCK_BYTES))
