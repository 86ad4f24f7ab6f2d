"""The server's own hot path on the GPU: bindings, page-locked slabs, a stream, graphs, overlap.

The same steps run on the CPU, on a stub of CUDA and on the real provider without a GPU in
tests/unit/test_fixed.py and tests/stub/test_hot_path.py.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from stoker.runtime.buckets import Buckets
from stoker.runtime.fixed import FixedRuns
from stoker.runtime.fixed_shapes import fixed_shapes
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.session import Placement, Session

from tests import models
from tests.gpu import networks
from tests.gpu.conftest import Record
from tests.gpu.served import config

pytestmark = pytest.mark.gpu

SIZES = (1, 4, 16, 64)
ALLOWED = 1e-4
REPEATS = 50


def opened(folder: Path, *, graphs: bool = False) -> Session:
    path = models.write_model(folder / "model.onnx", networks.launches())
    runtime = OnnxRuntime("gpu", cuda_graphs=graphs)
    return runtime.open(path, config(use_tf32="0"), Placement("cuda:0", 1, 1))


def bound(session: Session) -> FixedRuns:
    described = models.config_of(session, SIZES[-1])
    shapes = fixed_shapes(described, session, SIZES[-1])
    assert not isinstance(shapes, str), shapes
    assert session.memory is not None
    return FixedRuns(session, session.memory, shapes, Buckets(SIZES))


def microseconds(call: Callable[[], object]) -> float:
    """The median of one call."""
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return median(taken) * 1e6


def test_bindings_answer_as_plain_runs_and_how_long_both_take(
    tmp_path: Path, record_property: Record
) -> None:
    session = opened(tmp_path)
    assert session.memory is not None
    assert session.memory.slab(1 << 20).is_page_locked
    runs = bound(session)
    name = runs.inputs[0].tensor.name
    output = session.outputs[0].name
    for rows in (1, 3, 4, 16, 50, 64):
        given = networks.random((rows, *runs.inputs[0].array.shape[1:]), rows)
        runs.inputs[0].array[:rows] = given
        (made,) = runs.run(rows, (0,), {}, 0)
        (plain,) = session.run({name: given}, [output])
        assert np.abs(made - plain).max() <= ALLOWED * np.abs(plain).max()
        fixed_us = microseconds(lambda rows=rows: runs.run(rows, (0,), {}, 0))  # type: ignore[misc]  # a default of its own
        plain_us = microseconds(lambda given=given: session.run({name: given}, [output]))  # type: ignore[misc]  # a default of its own
        record_property(f"{rows} rows, us by bindings and by a plain run", (fixed_us, plain_us))
    session.close()


def test_graphs_are_captured_verified_and_timed(tmp_path: Path, record_property: Record) -> None:
    session = opened(tmp_path, graphs=True)
    assert str(session.graphs) == "on"
    runs = bound(session)
    runs.warm()
    without = {rows: microseconds(lambda rows=rows: runs.run(rows, (0,), {}, 0)) for rows in SIZES}  # type: ignore[misc]  # a default of its own
    assert runs.capture(1) is None
    assert runs.captured == SIZES
    for rows in SIZES:
        replay_us = microseconds(lambda rows=rows: runs.run(rows, (0,), {}, 0))  # type: ignore[misc]  # a default of its own
        record_property(f"{rows} rows, us with and without a graph", (replay_us, without[rows]))
    session.give_up_graphs("the test has seen them")
    runs.forget()
    runs.run(SIZES[0], (0,), {}, 0)
    session.close()


def test_two_instances_beside_each_other(tmp_path: Path, record_property: Record) -> None:
    sessions = [opened(tmp_path) for _ in range(2)]
    instances = [bound(session) for session in sessions]
    for runs in instances:
        runs.warm()

    def work(runs: FixedRuns) -> None:
        for _ in range(REPEATS):
            runs.run(SIZES[-1], (0,), {}, 0)

    began = time.perf_counter()
    work(instances[0])
    alone = time.perf_counter() - began
    threads = [threading.Thread(target=work, args=(runs,)) for runs in instances]
    began = time.perf_counter()
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    both = time.perf_counter() - began
    record_property("rate of two instances, of one", 2 * alone / both)
    for session in sessions:
        session.close()
