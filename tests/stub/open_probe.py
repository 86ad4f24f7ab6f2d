"""Opens models by our own runtime: what it says of the GPU, or what it refuses and how.

Reads a JSON list of requests and prints the answers as one line of JSON:
    {"model": "relu", "device": "gpu", "parameters": {...}, "gpus": [0], "run": true,
     "gpu_placement": "each", "finds_libraries": true, "loads_failed": 0,
     "loads_under_way": 0, "loads_done": 0}
The last three: how many models were placed before this one and failed, are being opened, serve.
Without `finds_libraries` the CUDA libraries are not looked for where their packages put them.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stoker.errors import ServingError
from stoker.model import InstanceGroup, ModelConfig
from stoker.runtime.onnx import OnnxRuntime, library

from tests import models
from tests.stub import stub_models


def answer(request: Mapping[str, Any]) -> dict[str, object]:
    """What became of one request."""
    if not request.get("finds_libraries", True):
        library().preload_dlls = lambda: None  # type: ignore[attr-defined]  # ONNX Runtime's
    runtime = OnnxRuntime(
        request.get("device", "gpu"), gpu_placement=request.get("gpu_placement", "each")
    )
    found: dict[str, object] = {
        "gpus": runtime.machine.gpus,
        "absence": runtime.machine.absence,
        "names": [gpu.name for gpu in runtime.gpus.gpus],
    }
    config = ModelConfig(
        "m", 0, (), (), None,
        instance_groups=(InstanceGroup(gpus=tuple(request.get("gpus", ()))),),
        parameters=request.get("parameters", {}),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        made = getattr(stub_models, request.get("model", "relu"))()
        path = models.write_model(Path(folder) / "model.onnx", made)
        try:
            for _ in range(request.get("loads_failed", 0)):
                runtime.place(config)
            done = [runtime.place(config) for _ in range(request.get("loads_done", 0))]
            kept = [runtime.open(path, config, each) for placed in done for each in placed]
            under_way = [runtime.place(config) for _ in range(request.get("loads_under_way", 0))]
            placed = runtime.place(config)
            del under_way, kept
            found["placed"] = [each.device for each in placed]
            session = runtime.open(path, config, placed[0])
            found["report"] = session.report.facts()
            found["words"] = str(session.report)
            if request.get("run"):
                feeds = {spec.name: np.ones((1, 4), np.float32) for spec in session.inputs}
                session.run(feeds, [spec.name for spec in session.outputs])
        except ServingError as error:
            found |= {"error": type(error).__name__, "message": error.message}
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps([answer(each) for each in json.load(sys.stdin)]) + "\n")
