"""What the hot path rests on: bindings, page-locked memory, streams, the GIL.

The steps themselves run on the CPU in tests/unit/test_gpu_checks.py.
"""

from pathlib import Path

import numpy as np
import pytest
from stoker.tensor import Array

from tests.gpu import checks, networks
from tests.gpu.child import run_child
from tests.gpu.conftest import Record
from tests.gpu.cudart import Cudart, pages
from tests.models import identity, write_model

pytestmark = pytest.mark.gpu

ROWS = 64
COPIED = 64 << 20
HELD = 0.7
"""Share of the GIL above which a call holds it: near 1 where it does; a busy machine adds some."""


def test_a_bound_host_array_is_copied_when_it_is_bound(
    tmp_path: Path, record_property: Record
) -> None:
    """Fact 9 of the reference: why host buffers are bound anew, or not at all."""
    session = checks.open_session(write_model(tmp_path / "m.onnx", identity()), "cuda")

    sees = checks.sees_changes_after_binding(session)

    record_property("read at the run", sees)
    assert not sees


def test_fixed_buffers_on_our_stream_give_what_a_plain_run_gives(
    cuda: Cudart, stream: int, tmp_path: Path, record_property: Record
) -> None:
    path = write_model(tmp_path / "m.onnx", networks.cnn())
    plain = checks.open_session(path, "cuda")
    session = checks.open_session(path, "cuda", {"user_compute_stream": str(stream)})
    tensors = {"x": ((ROWS, 3, 32, 32), np.float32)}, {"y": ((ROWS, 32), np.float32)}
    entries = {"disable_synchronize_execution_providers": "1"}
    apart = []
    with checks.FixedRun(cuda, session, "cuda", stream, *tensors, entries) as fixed:
        for seed in range(20):
            x = networks.random((ROWS, 3, 32, 32), seed)
            fixed.inputs["x"][:] = x
            apart.append(checks.distance(fixed.run()["y"], plain.run(None, {"x": x})[0]))
        fixed_times = checks.seconds_of(fixed.run)
        plain_times = checks.seconds_of(lambda: plain.run(None, {"x": x}))
    del session
    record_property("largest difference", max(apart))
    record_property("level 1 us", np.median(fixed_times) * 1e6)
    record_property("level 0 us", np.median(plain_times) * 1e6)
    assert max(apart) <= 1e-5


def test_page_locked_memory_is_copied_faster(
    cuda: Cudart, stream: int, record_property: Record
) -> None:
    there = cuda.malloc(COPIED)
    speeds = {}
    for kind in ("pageable", "page-locked"):
        host = pages(COPIED)
        if kind == "page-locked":
            cuda.register(host)

        def copy_in(host: Array = host) -> None:
            cuda.copy_in(there, host, stream)
            cuda.wait(stream)

        def copy_out(host: Array = host) -> None:
            cuda.copy_out(host, there, stream)
            cuda.wait(stream)

        for way, copy in (("in", copy_in), ("out", copy_out)):
            speeds[kind, way] = checks.gigabytes_per_second(COPIED, checks.seconds_of(copy))
            record_property(f"{kind} {way} GB/s", speeds[kind, way])
        if kind == "page-locked":
            cuda.unregister(host)
    cuda.free(there)
    assert speeds["page-locked", "in"] > speeds["pageable", "in"]
    assert speeds["page-locked", "out"] > speeds["pageable", "out"]


def test_runs_and_our_own_copies_leave_the_gil_to_others(
    cuda: Cudart, stream: int, tmp_path: Path, record_property: Record
) -> None:
    ort = checks.runtime()
    session = checks.open_session(write_model(tmp_path / "m.onnx", networks.heavy(256)), "cuda")
    x = networks.random((256, 1024), 1)
    host, there = pages(COPIED), cuda.malloc(COPIED)
    cuda.register(host)
    values = np.zeros(COPIED // 4, np.float32)
    on_gpu = ort.OrtValue.ortvalue_from_numpy(values, "cuda", 0)

    def copy() -> None:
        cuda.copy_in(there, host, stream)
        cuda.wait(stream)

    shares = {
        "run": checks.gil_share(lambda: session.run(None, {"x": x})),
        "our copy": checks.gil_share(copy),
        "update_inplace": checks.gil_share(lambda: on_gpu.update_inplace(values)),
        "numpy": checks.gil_share(on_gpu.numpy),
    }

    for name, share in shares.items():
        record_property(f"{name} holds the GIL", round(share, 2))
    cuda.unregister(host)
    cuda.free(there)
    assert shares["run"] < HELD
    assert shares["our copy"] < HELD


def test_the_providers_library_gives_page_locked_values(record_property: Record) -> None:
    """3.3 a of the reference, an experiment: nothing of the server uses it."""
    result = run_child("pinned_by_library")

    for name, value in result.facts.items():
        record_property(name, value)
    assert result.code == 0, result
    assert result.facts["devices"] >= 1
    assert result.facts["zero_copy"]
    assert checks.CUDA in result.facts["by_name"]
    assert result.facts["result"] == [[1.0] * 4]
