"""Builds the libraries that stand in for NVIDIA's, and runs a program with them loaded first.

`libcuda.c` is a driver without computing, `libcudart.c` and `libcublas.c` a CUDA runtime whose
device memory is host memory and whose kernels compute nothing: with those the CUDA provider opens
sessions and places nodes as on a GPU. `libnvinfer.c` is a TensorRT that builds nothing. Their first
comments say what they answer and how to set it.
"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.driver_stubs import NVML, build, compile_library
from tests.tools import PATIENCE

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]

ONE_GPU: Final = {"STUB_CUDA_DEVICES": "1"}
MOST_GPUS: Final = 4
"""That NVML knows."""


@dataclass(frozen=True, slots=True)
class Libraries:
    """Where they lie."""

    driver: Path
    """libcuda.so.1"""
    nvml: Path
    """libnvidia-ml.so.1"""
    runtime: tuple[Path, ...] = ()
    """libcudart.so.13, libcublasLt.so.13, libcublas.so.13"""
    tensorrt: tuple[Path, ...] = ()
    """libnvinfer.so.10, libnvonnxparser.so.10"""

    def preloaded(
        self, *, driver: bool = True, runtime: bool = False, tensorrt: bool = False
    ) -> dict[str, str]:
        """The environment in which a program finds them before any other."""
        chosen = [self.driver, self.nvml] if driver else []
        chosen += self.runtime if runtime else ()
        chosen += self.tensorrt if tensorrt else ()
        return {"LD_PRELOAD": " ".join(map(str, chosen))}


def build_driver(folder: Path, *options: str, preloads: bool = False) -> Libraries:
    """Driver and NVML only: for tests that need no CUDA package. Needs gcc, which gets `options`
    for the driver. `preloads`: as in `driver_stubs.build`."""
    driver = compile_library(
        HERE / "libcuda.c", folder / "libcuda.so.1", *options, preloads=preloads
    )
    return Libraries(driver, build(folder, NVML, preloads=preloads) / NVML)


def free_memory(*free: int) -> dict[str, str]:
    """The environment in which NVML knows the driver's GPUs and tells these free bytes of them."""
    gpus = ",".join(f"GPU-{uuid.UUID(int=number)}" for number in range(MOST_GPUS))
    return {"NVML_STUB": f"gpus={gpus};free={','.join(map(str, free))}"}


def build_libraries(folder: Path) -> Libraries:
    """All of them. Needs gcc."""
    built = build_driver(folder, preloads=True)
    runtime = (
        _build(folder, "libcudart.c", "libcudart.so.13", versioned=True),
        _build(folder, "libcublas.c", "libcublasLt.so.13", versioned=True),
        _build(folder, "libcublas.c", "libcublas.so.13", versioned=True),
    )
    tensorrt = (
        _build(folder, "libnvinfer.c", "libnvinfer.so.10"),
        _build(folder, "libnvonnxparser.c", "libnvonnxparser.so.10"),
    )
    return Libraries(built.driver, built.nvml, runtime, tensorrt)


def _build(folder: Path, source: str, soname: str, *, versioned: bool = False) -> Path:
    """Symbols of CUDA's libraries carry the library's name as their version."""
    options = []
    if versioned:
        script = folder / f"{soname}.map"
        script.write_text(f"{soname} {{ global: *; }};\n")
        options.append(f"-Wl,--version-script={script}")
    return compile_library(HERE / source, folder / soname, *options, preloads=True)


def run_python(
    *arguments: str, environment: Mapping[str, str], given: str = ""
) -> "subprocess.CompletedProcess[str]":
    """This interpreter with these arguments, and `given` as its input."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'server'}:{ROOT}",
            "ORT_DISABLE_TELEMETRY": "1",
            **environment,
        },
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def ask(
    program: str, requests: Sequence[Mapping[str, object]], environment: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What a probe (`raw_probe`, `open_probe`) answers to each request, in one process."""
    done = run_python(
        "-m", f"tests.stub.{program}", environment=environment, given=json.dumps(requests)
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers
