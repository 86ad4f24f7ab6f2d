"""Run once while the image is built: are the libraries here that its variant promises?

Without this a library that is missing shows only on a node with a GPU. `VARIANT` and `LIBRARIES`
are the build arguments of Dockerfile.gpu. The driver's own libcuda.so.1 is never in an image.
"""

import ctypes
import importlib
import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

PACKAGES: Final = Path(sysconfig.get_path("purelib"))
DRIVER: Final = {"libcuda.so.1"}

OPENED_LATER: Final = ("libcudnn.so.9", "libcufft.so.12", "libnvrtc.so.13")
"""What the CUDA provider opens by name at a model's first use of it: ldd does not show it."""

PROVIDERS: Final = {"cpu": (), "gpu": ("cuda",), "base": ("cuda", "tensorrt")}
"""Execution providers that must load, by LIBRARIES."""

SHOULD_BRING: Final = {
    "gpu": "docker/libraries-gpu.txt should bring them",
    "base": "LIBRARIES=base takes them from BASE: an image with CUDA 13, cuDNN 9 and TensorRT 10",
}


def needed_by(library: Path) -> set[str]:
    """What the dynamic linker does not find for `library`: itself, or what it needs by name."""
    if not library.exists():
        return {library.name}
    shown = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in shown.splitlines() if line.endswith("=> not found")}


def opens(name: str) -> bool:
    """Whether the dynamic linker finds a library by its name."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def main() -> int:
    """0 where everything is here; otherwise 1, and a sentence."""
    variant, libraries = os.environ["VARIANT"], os.environ["LIBRARIES"]
    wheels = os.pathsep.join(str(each) for each in PACKAGES.glob("nvidia/*/lib"))
    if wheels and wheels not in os.environ.get("LD_LIBRARY_PATH", ""):
        # The linker reads the variable at the start of a process only.
        path = os.pathsep.join(filter(None, (wheels, os.environ.get("LD_LIBRARY_PATH"))))
        os.execve(
            sys.executable, [sys.executable, *sys.argv], {**os.environ, "LD_LIBRARY_PATH": path}
        )

    onnxruntime = importlib.import_module("onnxruntime")
    providers = PROVIDERS[libraries]
    folder = PACKAGES / "onnxruntime" / "capi"
    missing: set[str] = set()
    for provider in providers:
        missing |= needed_by(folder / f"libonnxruntime_providers_{provider}.so")
    if providers:
        missing |= {name for name in OPENED_LATER if not opens(name)}
    missing -= {*DRIVER, "libonnxruntime_providers_shared.so"}
    if missing:
        print(f"not in this image: {', '.join(sorted(missing))}; {SHOULD_BRING[libraries]}")
        return 1
    version = importlib.metadata.version("stoker")
    print(f"stoker {version}, {variant}: {onnxruntime.package_name} {onnxruntime.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
