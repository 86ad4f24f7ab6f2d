"""Runs models that only copy on the real CUDA provider: there the stand-in computes for real.

Reads a JSON list of `{"datatype": "FP16", "rows": 3}` and prints for each where it ran and whether
the output is the input, fresh and written into memory that was given.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stoker.model import ModelConfig
from stoker.runtime.onnx import OnnxRuntime
from stoker.tensor import DataType

from tests import models
from tests.stub.stub_models import copy_twice


def answer(request: Mapping[str, Any]) -> dict[str, object]:
    """What became of one request."""
    datatype, rows = DataType[request["datatype"]], int(request["rows"])
    runtime = OnnxRuntime("gpu")
    config = ModelConfig("m", 0, (), (), None, parameters={"enable_cudnn": "0"})
    with tempfile.TemporaryDirectory() as folder:
        path = models.write_model(Path(folder) / "model.onnx", copy_twice(datatype))
        session = runtime.open(path, config, runtime.place(config)[0])
        given = np.arange(rows * 4).reshape(rows, 4).astype(datatype.numpy)
        # The second run is bound where the first one made much.
        (first,), (fresh,) = (session.run({"x": given}, ["y"]) for _ in range(2))
        target = np.zeros((rows, 4), datatype.numpy)
        (written,) = session.run({"x": given}, ["y"], {"y": target})
        return {
            "device": session.device,
            "nodes": dict(session.report.nodes),
            "equal": all(np.array_equal(each, given) for each in (first, fresh, target)),
            "written": written is target,
            "datatype": str(fresh.dtype) == str(datatype.numpy),
        }


if __name__ == "__main__":
    sys.stdout.write(json.dumps([answer(each) for each in json.load(sys.stdin)]) + "\n")
