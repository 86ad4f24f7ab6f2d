"""The run after one that ran out of memory gives back what the arena does not use."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from stoker.device import DeviceReport
from stoker.errors import OutOfMemory
from stoker.model import ModelConfig
from stoker.runtime.memory import host_memory
from stoker.runtime.onnx import library
from stoker.runtime.onnx_session import OnnxSession
from stoker.runtime.options import session_options
from stoker.tensor import DataType

from tests import models

NO_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Add "
    "node. Name:'' Status Message: Failed to allocate memory for requested buffer of size 4096"
)
WIDTH = 1 << 18
LARGE = 64
"""Rows whose tensors take LARGE MiB each."""


class OnceShort:
    """ONNX Runtime's session, whose next run ends as one does that finds no memory."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.is_short = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *arguments: Any) -> Any:
        if self.is_short:
            self.is_short = False
            raise RuntimeError(NO_MEMORY)
        return self._session.run(*arguments)


def opened(folder: Path, **parameters: str) -> tuple[OnnxSession, OnceShort]:
    model = models.build(
        [
            onnx.helper.make_node("Exp", ["x"], ["a"]),
            onnx.helper.make_node("Sin", ["a"], ["b"]),
            onnx.helper.make_node("ReduceSum", ["b"], ["y"], keepdims=0),
        ],
        [models.tensor("x", DataType.FP32, ["batch", WIDTH])],
        [models.tensor("y", DataType.FP32, [])],
    )
    path = models.write_model(folder / "model.onnx", model)
    config = ModelConfig("m", 0, (), (), None, parameters=parameters)
    options = session_options(config, intra_op_threads=1)
    ort = library()
    chosen = ort.SessionOptions()
    chosen.enable_cpu_mem_arena = options.memory_arena
    real = ort.InferenceSession(str(path), chosen, providers=["CPUExecutionProvider"])
    session = OnceShort(real)
    return OnnxSession(ort, session, path, "m", DeviceReport(), options, None), session


def used() -> int:
    reading = host_memory(None)
    assert reading is not None
    return reading.used


def run(session: OnnxSession, rows: int) -> None:
    session.run({"x": np.zeros((rows, WIDTH), np.float32)}, ["y"])


@pytest.mark.slow
def test_the_arena_shrinks_in_the_run_after_one_that_found_no_memory(tmp_path: Path) -> None:
    session, real = opened(tmp_path)
    run(session, 1)  # an arena keeps its first region for good
    run(session, LARGE)
    run(session, 1)
    grown = used()
    real.is_short = True
    with pytest.raises(OutOfMemory):
        run(session, LARGE)
    run(session, 1)
    assert grown - used() > LARGE / 2 * (1 << 20)


def test_a_session_without_an_arena_runs_on_after_it_found_no_memory(tmp_path: Path) -> None:
    session, real = opened(tmp_path, enable_mem_arena="0")
    real.is_short = True
    with pytest.raises(OutOfMemory):
        run(session, 1)
    run(session, 1)
