"""What our runtime makes of a model that asks for TensorRT: its candidate, and the session of it.

Reads a JSON list of requests and prints the answers as one line of JSON:
    {"parameters": {...}, "model": "relu", "max_batch_size": 4, "open": true}
`stopped`: the session is told to stop before it is opened.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stoker.errors import ServingError
from stoker.model import Accelerator, ModelConfig, Optimization
from stoker.runtime.candidate import CandidateRefused, Stop
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.tensorrt import TensorRtPlaces

from tests import models
from tests.stub import stub_models


def answer(request: Mapping[str, Any]) -> dict[str, object]:
    """What became of one request."""
    found: dict[str, object] = {}
    accelerator = Accelerator("tensorrt", request.get("parameters", {}))
    config = ModelConfig(
        "m",
        request.get("max_batch_size", 4),
        (),
        (),
        None,
        optimization=Optimization(gpu_accelerators=(accelerator,)),
        # Without a GPU cuDNN cannot start.
        parameters={"enable_cudnn": "0"},
    )
    with tempfile.TemporaryDirectory() as folder:
        runtime = OnnxRuntime("gpu", tensorrt=TensorRtPlaces(Path(folder) / "cache"))
        made = getattr(stub_models, request.get("model", "relu"))()
        path = models.write_model(Path(folder) / "model.onnx", made)
        try:
            (placement,) = runtime.place(config)
            session = runtime.open(path, config, placement)
            found["provider"] = session.report.provider
            candidate = runtime.candidate(
                path, Path(folder), config, session, max_rows=request.get("max_batch_size", 4)
            )
            if candidate is not None:
                found["corners"] = candidate.corners()
            stop = Stop()
            if request.get("stopped"):
                stop.set()
                runtime.open_tensorrt(path, config, placement, {}, stop)
            elif candidate is not None and request.get("open"):
                candidate.open(placement, stop)
        except CandidateRefused as error:
            found["refused"] = error.message
        except ServingError as error:
            found |= {"error": type(error).__name__, "message": error.message}
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps([answer(each) for each in json.load(sys.stdin)]) + "\n")
