"""The server's own hot path on the GPU: fixed bindings, padding, graphs, against its level 0.

`tests/unit/test_fixed.py` has the steps on a stand-in for the CUDA runtime.
"""

import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from stoker.model import ModelConfig, Optimization
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.session import Placement, Session

from tests.gpu import checks, networks
from tests.gpu.conftest import Record
from tests.gpu.level1 import Level1
from tests.models import write_model

pytestmark = pytest.mark.gpu

ALLOWED = 1e-5
ROWS = range(1, 9)


def opened(folder: Path, model: onnx.ModelProto, *, graphs: bool = False) -> Session:
    path = write_model(folder / "m.onnx", model)
    parameters = {"use_tf32": "0"}
    optimization = Optimization(cuda_graphs=graphs)
    config = ModelConfig("m", 0, (), (), None, parameters=parameters, optimization=optimization)
    return OnnxRuntime("gpu").open(path, config, Placement("cuda:0", 1, 1))


@pytest.mark.parametrize(
    ("model", "item"),
    [(networks.cnn(), (3, 32, 32)), (networks.launches(), (64,)), (networks.heavy(64), (1024,))],
    ids=["cnn", "launches", "heavy"],
)
def test_level_1_answers_as_level_0_at_every_batch_size(
    tmp_path: Path, record_property: Record, model: onnx.ModelProto, item: tuple[int, ...]
) -> None:
    session = opened(tmp_path, model)
    level1 = Level1(session)

    apart = [level1.distance(networks.random((rows, *item), rows)) for rows in ROWS]

    x = networks.random((8, *item), 1)
    fixed = checks.seconds_of(lambda: level1.run(x))
    plain = checks.seconds_of(lambda: session.run({"x": x}, ["y"]))
    record_property("largest difference", max(apart))
    record_property("level 1 us", float(np.median(fixed)) * 1e6)
    record_property("level 0 us", float(np.median(plain)) * 1e6)
    level1.close()
    assert max(apart) <= ALLOWED


def test_its_slabs_are_page_locked(tmp_path: Path) -> None:
    session = opened(tmp_path, networks.launches())
    assert session.memory is not None

    assert session.memory.slab(1 << 20).is_page_locked

    session.close()


def test_its_graphs_are_captured_verified_and_give_the_right_rows(
    tmp_path: Path, record_property: Record
) -> None:
    session = opened(tmp_path, networks.launches(), graphs=True)
    level1 = Level1(session)
    x = networks.random((8, 64), 1)
    before = checks.seconds_of(lambda: level1.run(x))

    problem = level1.runs.capture(1)

    after = checks.seconds_of(lambda: level1.run(x))
    expected = opened(tmp_path, networks.launches())
    apart = [
        checks.distance(level1.run(x), expected.run({"x": x}, ["y"])[0])
        for x in (networks.random((rows, 64), rows) for rows in ROWS)
    ]
    captured = level1.runs.captured
    level1.close()
    record_property("graphs", str(session.graphs))
    record_property("uncaptured us", float(np.median(before)) * 1e6)
    record_property("replay us", float(np.median(after)) * 1e6)
    record_property("largest difference", max(apart))
    assert problem is None
    assert captured == (1, 2, 4, 8)
    assert max(apart) <= ALLOWED


def test_two_sessions_copy_and_compute_beside_each_other(
    tmp_path: Path, record_property: Record
) -> None:
    """Each in its own thread and stream. How much they overlap is the GPU's to say."""
    x = networks.random((64, 3, 32, 32), 1)
    ready, done = threading.Barrier(2), []

    def work(shared: bool) -> None:
        session = opened(tmp_path, networks.cnn())
        level1 = Level1(session, 64)
        if shared:
            ready.wait(60)
        began = time.perf_counter()
        for _ in range(50):
            level1.run(x)
        done.append(time.perf_counter() - began)
        level1.close()

    work(False)
    threads = [threading.Thread(target=work, args=(True,)) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(120)

    assert len(done) == 3
    alone, *beside = done
    record_property("rate of two sessions as a share of one's", 2 * alone / max(beside))
