"""Runs a model by fixed bindings on the real CUDA provider, and tells what came of it.

Reads a JSON list of requests and prints the answers as one line of JSON:
    {"cuda_graphs": true, "rows": [3, 8], "parameters": {...}}
The model gives its input as its output by a copy on the device, the one thing that a GPU without
kernels does right.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from stoker.engine.execution import Execution, FailureBudget
from stoker.engine.plan import ModelPlan
from stoker.errors import ServingError
from stoker.model import ModelConfig, ModelVersion
from stoker.runtime.buckets import Buckets
from stoker.runtime.cuda_memory import CudaMemory
from stoker.runtime.fixed import FixedRuns
from stoker.runtime.fixed_shapes import fixed_shapes
from stoker.runtime.onnx import OnnxRuntime

from tests import models
from tests.stub import stub_models

MOST = 8


def calls() -> list[str]:
    """What the CUDA runtime was asked for since the last time."""
    path = Path(os.environ["STUB_CUDA_CALLS"])
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def answer(request: Mapping[str, Any]) -> dict[str, object]:
    """What became of one request."""
    runtime = OnnxRuntime("gpu", cuda_graphs=request.get("cuda_graphs", False))
    drafted = ModelConfig("m", 0, (), (), None, parameters=request.get("parameters", {}))
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = getattr(stub_models, request.get("model", "passed"))()
        path = models.write_model(Path(folder) / "model.onnx", made)
        try:
            session = runtime.open(path, drafted, runtime.place(drafted)[0])
            assert isinstance(session.memory, CudaMemory)
            found["stream"] = session.memory.stream
            found["graphs"] = str(session.graphs)
            config = replace(models.config_of(session, MOST), parameters=drafted.parameters)
            sizes = Buckets((1, 4, 8))
            if request.get("prepares"):
                plan = ModelPlan(ModelVersion("m", 1), config)
                execution = Execution(
                    session, plan, max_rows=MOST, budget=FailureBudget(), sizes=sizes
                )
                calls()
                execution.prepare()
                found["prepared"] = calls()
                found["graphs"] = str(session.graphs)
            found["equal"], found["calls"] = [], []
            shapes = fixed_shapes(config, session, MOST)
            if isinstance(shapes, str) or session.memory is None:
                found["shapes"] = str(shapes)
            else:
                found["graph"] = run(
                    found, request, FixedRuns(session, session.memory, shapes, sizes)
                )
            calls()
            session.close()
            found["closed"] = calls()
        except ServingError as error:
            found |= {"error": type(error).__name__, "message": error.message}
    return found


def run(found: dict[str, Any], request: Mapping[str, Any], runs: FixedRuns) -> str | None:
    """Runs the batches; gives what keeps graphs from being captured, where that is asked."""
    problem = runs.capture(100) if request.get("captures") else None
    for place, rows in enumerate(request.get("rows", ())):
        given = np.random.default_rng(place).standard_normal((rows, 4)).astype(np.float32)
        runs.inputs[0].array[:rows] = given
        calls()
        (made,) = runs.run(rows, (0,), {}, 0)
        found["calls"].append(calls())
        found["equal"].append(bool(np.array_equal(made, given)))
    return problem


if __name__ == "__main__":
    sys.stdout.write(json.dumps([answer(each) for each in json.load(sys.stdin)]) + "\n")
