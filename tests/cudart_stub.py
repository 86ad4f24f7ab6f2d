"""A CUDA runtime without a GPU (`drivers/cudart.c`): what was called, and what shall fail.

stub = CudartStub(build(folder, CUDART) / CUDART)
cuda = CudaRuntime(str(stub.path))
stub.fail("cudaMalloc", 2)               # from now on
stub.calls                               # ["set_device 0", "stream_create 1", ...]
"""

import ctypes
from pathlib import Path


class CudartStub:
    """The loaded stub. Its state is the process's: `reset` begins a test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.stub_line.restype = ctypes.c_char_p
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._library.stub_reset()
        self._forgotten = 0

    def fail(self, name: str, code: int, *, after: int = 0) -> None:
        """The function fails with this error, after so many more calls that do not."""
        self._library.stub_fail(name.encode(), code, after)

    def be_busy(self, *, is_busy: bool = True) -> None:
        """Streams have work left."""
        self._library.stub_busy(int(is_busy))

    @property
    def calls(self) -> list[str]:
        """What was called since the last `forget`, with sizes and flags."""
        count = int(self._library.stub_lines())
        return [self._library.stub_line(at).decode() for at in range(self._forgotten, count)]

    def forget(self) -> None:
        """`calls` begins anew."""
        self._forgotten = int(self._library.stub_lines())

    @property
    def device(self) -> int:
        """The last one that was chosen."""
        return int(self._library.stub_device())

    @property
    def left(self) -> dict[str, int]:
        """What was made and not ended."""
        return {
            "buffers": int(self._library.stub_blocks()),
            "page-locked": int(self._library.stub_locked()),
            "streams": int(self._library.stub_streams()),
            "events": int(self._library.stub_events()),
        }
