"""The steps of the checks on hardware (`tests/gpu/checks.py`), on the real CUDA provider with a
runtime whose kernels compute nothing. Prints what they found as one line of JSON.

Copies are real there, so a model that only copies gives true results.
"""

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from stoker.runtime import faults

from tests.gpu import checks, networks
from tests.gpu.cudart import Cudart
from tests.models import identity, write_model

OPTIONS: Final = {"enable_cudnn": "0"}
SHAPE: Final = (8, 4)
LIMIT: Final = 64 << 20
TOO_LARGE: Final = np.zeros((64, 1 << 20), np.float32)


def found(folder: Path) -> dict[str, object]:
    """Each step once."""
    copying = write_model(folder / "copying.onnx", identity())
    adding = write_model(folder / "adding.onnx", networks.increment())
    cuda = Cudart()
    cuda.set_device(0)
    session = checks.open_session(copying, "cuda", OPTIONS)
    facts: dict[str, object] = {
        "operators": {
            name: dict(counts) for name, counts in checks.operators_by_provider(session).items()
        },
        "sees_changes": checks.sees_changes_after_binding(session),
        "query": cuda.query(),
    }

    stream = cuda.stream()
    on_stream = {**OPTIONS, "user_compute_stream": str(stream)}
    fixed_session = checks.open_session(copying, "cuda", on_stream)
    tensors = {"x": (SHAPE, np.float32)}, {"y": (SHAPE, np.float32)}
    entries = {"disable_synchronize_execution_providers": "1"}
    with checks.FixedRun(cuda, fixed_session, "cuda", stream, *tensors, entries) as fixed:
        x = networks.random(SHAPE, 1)
        fixed.inputs["x"][:] = x
        facts["fixed_is_equal"] = bool((fixed.run()["y"] == x).all())
    del fixed_session
    cuda.destroy(stream)

    graphs = checks.open_session(copying, "cuda", {**OPTIONS, "enable_cuda_graph": "1"})
    first, second = networks.random(SHAPE, 1), networks.random(SHAPE, 2)
    captured = checks.GraphRun(graphs, "cuda", first, SHAPE, 8)
    captured.run()
    captured.run(second)
    facts["replay_is_equal"] = bool((captured.result() == second).all())
    plain = checks.GraphRun(graphs, "cuda", first, SHAPE, None)
    plain.run()
    facts["uncaptured_is_equal"] = bool((plain.result() == first).all())

    small = checks.open_session(adding, "cuda", {**OPTIONS, "gpu_mem_limit": str(LIMIT)})
    binding = small.io_binding()
    faulty: dict[str, Callable[[], object]] = {
        "run": lambda: small.run(None, {"x": TOO_LARGE}),
        "binding": lambda: binding.bind_cpu_input("x", TOO_LARGE),
    }
    for name, call in faulty.items():
        try:
            call()
        except Exception as error:
            facts[f"full_{name}"] = faults.classify(str(error), on_gpu=True).value
    return facts


def main() -> None:
    """Keeps what ONNX Runtime prints apart from the answer."""
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        checks.runtime()
        facts = found(Path(folder))
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
