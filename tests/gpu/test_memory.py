"""Memory of the GPU: what running out says, and that an unloaded model gives its memory back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stoker.errors import OutOfMemory
from stoker.runtime import faults

from tests.gpu import checks, networks
from tests.gpu.conftest import Record
from tests.gpu.cudart import Cudart
from tests.gpu.served import open_on, open_path
from tests.models import write_model

pytestmark = pytest.mark.gpu

LIMIT = 64 << 20
TOO_LARGE = np.zeros((64, 1 << 20), np.float32)  # 256 MiB
SMALL = np.zeros((1, 4), np.float32)
WEIGHTS_MIB = 256


def failure_of(call: Callable[[], object]) -> str:
    """The text of what is raised; ONNX Runtime has no class for it."""
    try:
        call()
    except Exception as error:
        return str(error)
    pytest.fail(f"{TOO_LARGE.nbytes} bytes fit into {LIMIT}")


def test_what_onnx_runtime_says_when_the_arena_is_full_is_read_as_out_of_memory(
    tmp_path: Path, record_property: Record
) -> None:
    path = write_model(tmp_path / "m.onnx", networks.increment())
    session = checks.open_session(path, "cuda", {"gpu_mem_limit": str(LIMIT)})
    binding = session.io_binding()
    binding.bind_output("y", "cuda")

    texts = {
        "run": failure_of(lambda: session.run(None, {"x": TOO_LARGE})),
        # A host array takes its memory on the device when it is bound, not when it is run.
        "binding": failure_of(lambda: binding.bind_cpu_input("x", TOO_LARGE)),
    }

    for name, text in texts.items():
        record_property(name, text[:300])
    assert {faults.classify(text, on_gpu=True) for text in texts.values()} == {faults.Fault.MEMORY}


def test_a_model_that_ran_out_of_memory_serves_on(tmp_path: Path) -> None:
    session = open_on("cuda:0", tmp_path, networks.increment(), gpu_mem_limit=str(LIMIT))

    with pytest.raises(OutOfMemory):
        session.run({"x": TOO_LARGE}, ["y"])

    assert session.run({"x": SMALL}, ["y"])[0].tolist() == [[1.0] * 4]
    session.close()


def test_an_unloaded_model_gives_its_memory_back(
    cuda: Cudart, tmp_path: Path, record_property: Record
) -> None:
    x = np.zeros((1, 1024), np.float32)
    path = write_model(tmp_path / "heavy.onnx", networks.heavy(WEIGHTS_MIB))
    open_on("cuda:0", tmp_path, networks.increment()).close()  # the context stays
    left = []
    for _ in range(3):
        before = checks.used_bytes(cuda)
        session = open_path("cuda:0", path)
        session.run({"x": x}, ["y"])
        loaded = checks.used_bytes(cuda) - before
        session.close()
        del session
        left.append((checks.used_bytes(cuda) - before) / 2**20)

    record_property("MiB loaded", loaded / 2**20)
    record_property("MiB left behind, each time", [round(each) for each in left])
    assert loaded >= WEIGHTS_MIB << 20
    # The first load leaves modules and workspaces of cuBLAS; later ones leave nothing.
    assert left[-1] < 32
