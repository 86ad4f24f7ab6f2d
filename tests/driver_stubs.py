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


def build(folder: Path, *libraries: str, preloads: bool = False) -> Path:
    """Compiles these libraries into `folder`; gives it. Skips the test without a compiler.

    `preloads`: a program that preloads one finds it by its name. Otherwise it has none: a process
    that loads it by its path does not find it by name, and tests of other files see the machine as
    it is.
    """
    for library in libraries:
        compile_library(SOURCES / _FILES[library], folder / library, preloads=preloads)
    return folder


def compile_library(source: Path, target: Path, *options: str, preloads: bool) -> Path:
    """Gives `target`, with the soname of its file name where it `preloads`."""
    command = [require_tool("gcc"), "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    command += ["-shared", "-fPIC", "-O1", "-o", str(target), str(source), *options]
    command += [f"-Wl,-soname,{target.name}"] if preloads else []
    subprocess.run(command, check=True)
    return target


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
