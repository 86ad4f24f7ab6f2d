"""Stand-ins for the NVIDIA driver's libraries, compiled from `tests/drivers/` by the C compiler.

They stand at the border to the driver: the real `pynvml` and the real ctypes calls run against
them. `NVML_STUB` and `CUDA_STUB` in the environment say what they answer; see the C files.
"""

import subprocess
from functools import cache
from pathlib import Path
from typing import Final

from tests.tools import require_tool

SOURCES: Final = Path(__file__).parent / "drivers"
NVML: Final = "libnvidia-ml.so.1"
CUDA: Final = "libcuda.so.1"

_FILES: Final = {NVML: "nvml.c", CUDA: "cuda.c"}


def build(folder: Path, *libraries: str) -> Path:
    """Compiles these libraries into `folder`; gives it. Skips the test without a compiler."""
    compiler = require_tool("gcc")
    for library in libraries:
        command = [compiler, "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1"]
        command += [f"-Wl,-soname,{library}", "-o", str(folder / library)]
        subprocess.run([*command, str(SOURCES / _FILES[library])], check=True)
    return folder


@cache
def digits(uuid: str) -> str:
    """The 32 hexadecimal digits of a UUID such as `GPU-1234...`."""
    return uuid.partition("-")[2].replace("-", "")
