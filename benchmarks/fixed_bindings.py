"""What do bindings that are made once save, beside a plain `run` of the same session?

Batches are executed as an executor does it, from requests to answers: assembled, run, split; once
at level 0 (`Session.run`) and once at level 1 (fixed bindings, `engine/fixed_batch.py`), taking
turns in one process, on one core; CPU time of the thread, which computes alone. Four networks:
`tiny` and `mlp` with small tensors, `img` with 588 KiB of input a row, and `wide`, whose outputs
are as large as its inputs, 256 KiB a row. Batches of requests with one row each, and lone requests
of as many rows. Answers of both levels are compared bit for bit first. Beside them the runs alone,
with arrays that are ready.

    python -m benchmarks.fixed_bindings [--rounds 7] [--seconds 0.15]
"""

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from onnx import helper
from stoker.engine.execution import Batch, Execution, FailureBudget
from stoker.engine.pending import Pending
from stoker.engine.plan import ModelPlan
from stoker.engine.served_model import ServedModel
from stoker.model import DynamicBatching, ModelVersion
from stoker.request import InferRequest, InferResponse
from stoker.runtime.buckets import EXACT
from stoker.runtime.fixed import FixedRuns
from stoker.runtime.fixed_shapes import fixed_shapes
from stoker.runtime.session import Session
from stoker.telemetry.statistics import BatchEnd
from stoker.tensor import Array, DataType, Tensor

from benchmarks.figures import facts, ratios, spread
from benchmarks.networks import IMG, MLP, TINY, Network
from benchmarks.serving import LOAD_CORE
from tests import models

MAX_ROWS = 64
WIDTH = 1 << 16


def wide() -> onnx.ModelProto:
    """FP32 x [N, WIDTH] -> y [N, WIDTH]: what is negative becomes 0."""
    return models.build(
        [helper.make_node("Relu", ["x"], ["y"])],
        [models.tensor("x", DataType.FP32, ["batch", WIDTH])],
        [models.tensor("y", DataType.FP32, ["batch", WIDTH])],
    )


WIDE = Network("wide", wide, (WIDTH,), WIDTH)


class Level:
    """One instance of a model, at one level."""

    def __init__(self, session: Session, network: Network, *, binds: bool) -> None:
        config = replace(
            models.config_of(session, MAX_ROWS, network.name), batching=DynamicBatching()
        )
        self.plan = ModelPlan(ModelVersion(network.name, 1), config)
        self.execution = Execution(
            session, self.plan, max_rows=MAX_ROWS, budget=FailureBudget(), binds=binds
        )

    def batch(self, pieces: Sequence[Array]) -> Batch:
        """One request of each piece, its tensor the bytes of the wire."""
        pairs = []
        for piece in pieces:
            tensor = Tensor("x", DataType.FP32, piece.shape, piece.tobytes())
            request = InferRequest.of(self.plan.identity.name, inputs=(tensor,))
            form = self.plan.check(request)
            # An execution never looks at the model of an entry.
            pairs.append(
                (Pending(cast(ServedModel, None), request, form, lambda result: None, 0.0), request)
            )
        return Batch(pairs, sum(map(len, pieces)), BatchEnd.IDLE, 0.0, 1)

    def run(self, batch: Batch) -> None:
        """Executes and gives the slabs back."""
        for result in self.execution.execute(batch).results:
            assert isinstance(result, InferResponse), result
            if result.lease is not None:
                result.lease.release()

    def answers(self, batch: Batch) -> list[bytes]:
        """The outputs' bytes."""
        made = []
        for result in self.execution.execute(batch).results:
            assert isinstance(result, InferResponse), result
            made.append(b"".join([each.array().tobytes() for each in result.outputs]))
            if result.lease is not None:
                result.lease.release()
        return made


def microseconds(call: Callable[[], object], seconds: float) -> float:
    """Of one call, the median of groups that last `seconds` in all."""
    began = time.thread_time()
    call()
    count = max(1, int(seconds / 8 / (time.thread_time() - began)))
    groups = []
    for _ in range(8):
        began = time.thread_time()
        for _ in range(count):
            call()
        groups.append((time.thread_time() - began) / count)
    return sorted(groups)[4] * 1e6


def bare(session: Session, network: Network, rows: int) -> dict[str, Callable[[], object]]:
    """The runs alone, of arrays that are ready."""
    feeds = {"x": network.rows(rows)}
    memory = session.memory
    shapes = fixed_shapes(models.config_of(session, MAX_ROWS, network.name), session, MAX_ROWS)
    assert memory is not None
    assert not isinstance(shapes, str)
    runs = FixedRuns(session, memory, shapes, EXACT)
    runs.inputs[0].array[:rows] = feeds["x"]
    lent = {0: np.empty((rows, network.outputs), np.float32)} if runs.needs_slab(0, rows) else {}
    number = 1 if lent else 0
    return {
        "run": lambda: session.run(feeds, ["y"]),
        "binding": lambda: runs.run(rows, (0,), lent, number),
    }


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.15)
    given = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    print(f"{facts()}; {given.rounds} rounds of {given.seconds} s a figure, medians (range)\n")
    print(
        "| network | batch | `run` alone, us | binding alone, us | level 0, us | level 1, us | "
        "level 1 : level 0 |\n|---|---|---|---|---|---|---|"
    )
    for network in (TINY, MLP, IMG, WIDE):
        with tempfile.TemporaryDirectory() as folder:
            session = models.open_on_cpu(Path(folder), network.make())
        levels = {
            f"level {level}": Level(session, network, binds=binds)
            for level, binds in enumerate((False, True))
        }
        for rows in (1, 4, 16, 64):
            kinds = {f"{rows} x 1 row": [network.rows(1, seed) for seed in range(rows)]}
            if rows > 1:
                kinds[f"1 x {rows} rows"] = [network.rows(rows)]
            for kind, pieces in kinds.items():
                batches = {name: level.batch(pieces) for name, level in levels.items()}
                for _ in range(2):  # the first run is at level 0 on both
                    got = {name: level.answers(batches[name]) for name, level in levels.items()}
                assert got["level 0"] == got["level 1"]
                calls: dict[str, Callable[[], object]] = bare(session, network, rows)
                for name, level in levels.items():
                    calls[name] = lambda level=level, batch=batches[name]: level.run(batch)  # type: ignore[misc]  # defaults of its own
                seen: dict[str, list[float]] = defaultdict(list)
                for _ in range(given.rounds):
                    for name, call in calls.items():
                        seen[name].append(microseconds(call, given.seconds))
                cells = [spread(seen[name], 1) for name in ("run", "binding", *levels)]
                share = spread(ratios(seen["level 1"], seen["level 0"]), 2)
                print(f"| {network.name} | {kind} | {' | '.join(cells)} | {share} |", flush=True)
        session.close()


if __name__ == "__main__":
    main()
