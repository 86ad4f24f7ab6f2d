"""Checks that end their process, or change it for good: each runs in a process of its own.

    python -m tests.gpu.child NAME

prints one line of JSON, the facts it found, and ends with the code that its check expects.
`run_child` starts one and reads it.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from stoker.errors import ServingError
from stoker.model import ModelConfig
from stoker.runtime import faults
from stoker.runtime.onnx import OnnxRuntime

from tests.gpu import checks, networks
from tests.gpu.cudart import Cudart
from tests.models import write_model

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 300.0

LARGE_BYTES: Final = 256 << 20
"""An allocation of its own: unmapped when it is freed, unlike a part of a larger one."""
NOWHERE: Final = 0x10000
"""An address that the driver never gives out."""
BUCKETS: Final = (8, 4, 2, 1)
WIDTH: Final = 64

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChildResult:
    """How a child ended."""

    code: int
    facts: Facts
    log: str
    """The end of what it wrote to stderr."""


def run_child(name: str, environment: Mapping[str, str] | None = None) -> ChildResult:
    """Runs a check of this file in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.child", name],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    # ONNX Runtime prints to stdout as well.
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return ChildResult(done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr[-2000:])


def hidden_gpu(folder: Path) -> Facts:
    """Started with CUDA_VISIBLE_DEVICES="": what ONNX Runtime does, and what the server says."""
    path = write_model(folder / "m.onnx", networks.increment())
    facts: Facts = {}
    try:
        facts["onnxruntime"] = checks.open_session(path, "cuda").get_providers()
    except Exception as error:
        facts["onnxruntime"] = str(error)[:300]
    try:
        facts["server"] = str(OnnxRuntime("gpu").place(ModelConfig("m", 0, (), (), None)))
    except ServingError as error:
        facts["server"] = str(error)
        facts["refused"] = True
    return facts


def illegal_address(folder: Path) -> Facts:
    """Binds memory that is not there: the context dies (CUDA error 700), so must the process."""
    cuda = Cudart()
    cuda.set_device(0)
    session = checks.open_session(write_model(folder / "m.onnx", networks.increment()), "cuda")
    x = np.zeros((1, 4), np.float32)
    facts: Facts = {"before": session.run(None, {"x": x})[0].tolist()}
    freed = cuda.malloc(LARGE_BYTES)
    cuda.free(freed)
    for address in (freed, NOWHERE):
        binding = session.io_binding()
        binding.bind_input("x", "cuda", 0, np.float32, [1, LARGE_BYTES // 4], address)
        binding.bind_output("y", "cuda")
        try:
            session.run_with_iobinding(binding)
            binding.copy_outputs_to_cpu()
        except Exception as error:
            facts["text"] = str(error)[:600]
            facts["fault"] = faults.classify(str(error), on_gpu=True).value
            break
    facts["query"] = cuda.query()
    try:
        session.run(None, {"x": x})
        facts["after"] = "ran"
    except Exception as error:
        facts["after"] = faults.classify(str(error), on_gpu=True).value
    _say(facts)
    os._exit(70)  # what the server does: teardown of a dead context can hang


def pinned_by_library(folder: Path) -> Facts:
    """Registers the CUDA provider's library (3.3 a of the reference), for page-locked values."""
    ort = checks.runtime()
    library = Path(str(ort.__file__)).parent / "capi" / "libonnxruntime_providers_cuda.so"
    ort.register_execution_provider_library("cuda_library", str(library))
    devices = [each for each in ort.get_ep_devices() if each.ep_name == checks.CUDA]
    facts: Facts = {"devices": len(devices)}
    if devices:
        kind = ort.OrtDeviceMemoryType.HOST_ACCESSIBLE
        pinned = ort.OrtValue.ortvalue_from_shape_and_type(
            [4, 4], np.float32, memory_info=devices[0].memory_info(kind)
        )
        view = pinned.numpy()
        view[:] = 3
        facts["zero_copy"] = bool((pinned.numpy() == 3).all())
        facts["stream"] = bool(devices[0].create_sync_stream().get_handle())
    session = checks.open_session(write_model(folder / "m.onnx", networks.increment()), "cuda")
    facts["by_name"] = session.get_providers()
    facts["operators"] = {
        name: sum(counts.values()) for name, counts in checks.operators_by_provider(session).items()
    }
    facts["result"] = session.run(None, {"x": np.zeros((1, 4), np.float32)})[0].tolist()
    return facts


def graphs(folder: Path) -> Facts:
    """Captures a CUDA graph for each bucket, largest first, and replays it with other data."""
    return graph_facts(folder, "cuda", Cudart())


def graph_facts(folder: Path, kind: checks.Kind, cuda: Cudart) -> Facts:
    """The steps of `graphs`, for any provider."""
    cuda.set_device(0)
    path = write_model(folder / "m.onnx", networks.launches(WIDTH))
    plain = checks.open_session(path, kind)
    options = {"enable_cuda_graph": "1"} if kind == "cuda" else {}
    session = checks.open_session(path, kind, options)
    facts: Facts = {"buckets": {}}
    runs: dict[int, checks.GraphRun] = {}
    for rows in BUCKETS:
        first, second = networks.random((rows, WIDTH), 1), networks.random((rows, WIDTH), 2)
        expected = [plain.run(None, {"x": each})[0] for each in (first, second)]
        before = checks.used_bytes(cuda)
        run = runs[rows] = checks.GraphRun(session, kind, first, (rows, WIDTH), graph=rows)
        run.run()
        captured = checks.distance(run.result(), expected[0])
        run.run(second)
        replayed = checks.distance(run.result(), expected[1])
        alone = checks.GraphRun(session, kind, second, (rows, WIDTH), graph=None)
        alone.run()
        facts["buckets"][str(rows)] = {
            "captured": captured,
            "replayed": replayed,
            "uncaptured": checks.distance(alone.result(), expected[1]),
            "bytes": checks.used_bytes(cuda) - before,
            "replay_us": _median_us(run.run),
            "uncaptured_us": _median_us(alone.run),
        }
    # Every graph once more: the later captures must not have moved what the first ones read.
    rows = BUCKETS[0]
    x = networks.random((rows, WIDTH), 3)
    runs[rows].run(x)
    expected_again = plain.run(None, {"x": x})[0]
    facts["first_again"] = checks.distance(runs[rows].result(), expected_again)
    facts["other_thread"] = _on_another_thread(runs[rows], cuda, expected_again)
    return facts


def _on_another_thread(run: checks.GraphRun, cuda: Cudart, expected: Any) -> Facts:
    """The rule of one thread (fact 11): what a run on another one costs."""
    facts: Facts = {}
    before = checks.used_bytes(cuda)

    def act() -> None:
        try:
            cuda.set_device(0)
            (facts["first_us"],) = [each * 1e6 for each in checks.seconds_of(
                run.run, repeats=1, warm=0)]  # fmt: skip
            facts["distance"] = checks.distance(run.result(), expected)
        except Exception as error:
            facts["error"] = str(error)[:300]

    thread = threading.Thread(target=act, name="other")
    thread.start()
    thread.join()
    facts["bytes"] = checks.used_bytes(cuda) - before
    return facts


def _median_us(call: Callable[[], object]) -> float:
    times = sorted(checks.seconds_of(call, repeats=100, warm=10))
    return round(times[len(times) // 2] * 1e6, 1)


CHILDREN: Final[Mapping[str, Callable[[Path], Facts]]] = {
    each.__name__: each for each in (hidden_gpu, illegal_address, pinned_by_library, graphs)
}


def _say(facts: Facts) -> None:
    sys.stdout.write("\n" + json.dumps(facts) + "\n")
    sys.stdout.flush()


def main(name: str) -> int:
    """Runs one check."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            checks.runtime()  # loads the CUDA runtime that came as a wheel
            facts = CHILDREN[name](Path(folder))
        except Exception as error:
            _say({"error": f"{type(error).__name__}: {error}"[:600]})
            return 1
    _say(facts)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
