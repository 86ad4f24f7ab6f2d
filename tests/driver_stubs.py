"""Stand-ins for the NVIDIA driver's libraries, compiled from `tests/drivers/` by the C compiler.

They stand at the border to the driver: the real `pynvml` and the real ctypes calls run against
them. `NVML_STUB` and `CUDART_STUB_FAILS` in the environment say what they answer; see the C files.
`tests/stub/` has those that the CUDA provider itself runs on.
"""

import ctypes
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

from tests.tools import require_tool

SOURCES: Final = Path(__file__).parent / "drivers"
NVML: Final = "libnvidia-ml.so.1"
CUDART: Final = "libcudart.so.13"

_FILES: Final = {NVML: "nvml.c", CUDART: "cudart.c"}


def build(folder: Path, *libraries: str) -> Path:
    """Compiles these libraries into `folder`; gives it. Skips the test without a compiler."""
    compiler = require_tool("gcc")
    for library in libraries:
        command = [compiler, "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1"]
        # Without a soname: a process that loads one by its path does not find it by its name, so
        # that tests of other files see the machine as it is.
        command += ["-o", str(folder / library)]
        subprocess.run([*command, str(SOURCES / _FILES[library])], check=True)
    return folder


def pynvml_of(folder: Path) -> ModuleType:
    """A copy of the module `pynvml` of its own, whose library is the stand-in in `folder`."""
    found = find_spec("pynvml")
    assert found is not None
    assert found.origin is not None
    spec = spec_from_file_location("pynvml_on_a_stand_in", found.origin)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # it makes its classes of errors there
    spec.loader.exec_module(module)
    module.nvmlLib = ctypes.CDLL(str(folder / NVML))  # type: ignore[attr-defined]  # pynvml's own
    return module
