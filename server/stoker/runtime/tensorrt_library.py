"""Which TensorRT this process can load: its version, or in words why there is none.

The TensorRT provider of the GPU package links `libnvinfer.so.10` and `libnvonnxparser.so.10`; where
they are missing ONNX Runtime falls back to another provider and prints one line. So they are looked
for first. Loading takes no GPU.
Source: `readelf -d libonnxruntime_providers_tensorrt.so` of 1.31.1; TensorRT's NvInferVersion.h.
"""

import ctypes
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.runtime.gpu_diagnosis import TENSORRT_LIBRARIES, lost_tensorrt_reason

TWO_DIGITS_SINCE: Final = 10
"""The major from which a version number has two digits for each part."""
PACKAGES: Final = ("tensorrt_libs", "tensorrt_cu13_libs")
"""Python packages that hold the libraries, outside of the loader's own path."""

Load = Callable[[str], ctypes.CDLL]


@dataclass(frozen=True, slots=True)
class TensorRtLibrary:
    """What was found."""

    version: str = ""
    """As `10.16.1`; empty: there is none."""
    problem: str = ""
    """Why there is none, and what helps; empty where it can be used."""


def load_globally(name: str) -> ctypes.CDLL:
    """Loads a library so that the provider, loaded later, finds it. Raises OSError."""
    return ctypes.CDLL(name, ctypes.RTLD_GLOBAL)


def look(folders: Sequence[Path] | None = None, load: Load = load_globally) -> TensorRtLibrary:
    """Loads TensorRT from `folders` (None: those of the Python packages) or the loader's path."""
    places = package_folders() if folders is None else tuple(folders)
    found = {name: _load(name, places, load) for name in TENSORRT_LIBRARIES}
    inference = found[TENSORRT_LIBRARIES[0]]
    if inference is None or None in found.values():
        return TensorRtLibrary(
            problem=lost_tensorrt_reason(lambda name: _load(name, places, load) is not None)
        )
    return TensorRtLibrary(version_text(int(inference.getInferLibVersion())))


def version_text(number: int) -> str:
    """`101601` as `10.16.1`, and `8601` as `8.6.1`."""
    if number >= TWO_DIGITS_SINCE * 10_000:
        return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
    return f"{number // 1000}.{number // 100 % 10}.{number % 100}"


def package_folders() -> tuple[Path, ...]:
    """Folders of installed Python packages that hold TensorRT's libraries."""
    found = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None:
            found += [Path(place) for place in spec.submodule_search_locations or ()]
    return tuple(found)


def _load(name: str, folders: Sequence[Path], load: Load) -> ctypes.CDLL | None:
    for place in (*(str(folder / name) for folder in folders), name):
        try:
            return load(place)
        except OSError:
            continue
    return None
