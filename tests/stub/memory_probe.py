"""What a session on the real CUDA provider takes of the device's memory, and gives back.

Reads a JSON list of `{"parameters": {...}, "rows": [1, 64]}`. Prints for each what failed and the
bytes that were taken before the session, when it was open, after each run, and when it was closed.
"""

import ctypes
import gc
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stoker.errors import ServingError
from stoker.model import ModelConfig
from stoker.runtime.onnx import OnnxRuntime

from tests import models
from tests.stub.stub_models import weighty


def taken() -> int:
    """Bytes of the stand-in's device memory that are allocated."""
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    ctypes.CDLL(None).cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    return total.value - free.value


def answer(request: Mapping[str, Any]) -> dict[str, object]:
    """What became of one request."""
    runtime = OnnxRuntime("gpu")
    parameters = {"enable_cudnn": "0", **request.get("parameters", {})}
    config = ModelConfig("m", 0, (), (), None, parameters=parameters)
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = models.write_model(Path(folder) / "model.onnx", weighty())
        placement = runtime.place(config)[0]
        found["before"] = taken()
        after: list[int] = []
        refused: list[str] = []
        try:
            session = runtime.open(path, config, placement)
        except ServingError as error:
            refused.append(f"{type(error).__name__}: {error.message}")
        else:
            found["open"] = taken()
            for rows in request.get("rows", ()):
                try:
                    session.run({"x": np.ones((rows, 1024), np.float32)}, ["y"])
                except ServingError as error:
                    refused.append(f"{type(error).__name__}: {error.message}")
                after.append(taken())
            session.close()
        gc.collect()
        found |= {"after": after, "refused": refused, "closed": taken()}
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps([answer(each) for each in json.load(sys.stdin)]) + "\n")
