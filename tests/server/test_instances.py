"""Runs beside each other: instances of one model, and several models."""

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from stoker.tensor import Array

from tests import models
from tests.calls import BATCHING, RestClient, ServeFake, rows, statistics, wait_for_queued
from tests.conftest import Serving
from tests.fake_runtime import FakeModel, FakeRuntime


# Instances and threads
class Gates:
    """A model's computation that stops until the test opens the gate of a row's value."""

    def __init__(self) -> None:
        self._gates: dict[float, threading.Event] = {}

    def close(self, *values: float) -> None:
        self._gates.update({value: threading.Event() for value in values})

    def open(self, value: float) -> None:
        self._gates[value].set()

    def compute(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        for row in feeds["x"]:
            gate = self._gates.get(float(row[0]))
            assert gate is None or gate.wait(30), "the gate was never opened"
        return {"y": feeds["x"] * 2}


def two_instances(ordered: bool) -> str:
    return (
        "max_batch_size: 1\ninstance_group [ { count: 2 kind: KIND_CPU } ]\n"
        f"dynamic_batching {{ preserve_ordering: {str(ordered).lower()} }}\n"
    )


def test_two_instances_run_at_the_same_time_and_the_faster_answers_first(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    gates = Gates()
    runtime.model.compute = gates.compute
    server = serve_fake(two_instances(ordered=False))
    gates.close(1, 2)
    runtime.forget()
    with RestClient(server.at) as client:
        slow, fast = client.send("m", {"x": rows(1)}), client.send("m", {"x": rows(2)})
        runtime.wait_for_run(2)
        gates.open(2)
        np.testing.assert_array_equal(fast.answer().output(), rows(4))
        assert not slow.is_answered
        gates.open(1)
        slow.answer().output()
    assert len({run.thread for run in runtime.runs}) == 2


def test_with_preserve_ordering_a_slow_batch_holds_back_the_answers_of_later_ones(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    gates = Gates()
    runtime.model.compute = gates.compute
    server = serve_fake(two_instances(ordered=True))
    gates.close(1, 2, 3)
    runtime.forget()
    with RestClient(server.at) as client:
        slow = client.send("m", {"x": rows(1)})
        runtime.wait_for_run(1)
        fast = client.send("m", {"x": rows(2)})
        runtime.wait_for_run(2)
        third = client.send("m", {"x": rows(3)})
        wait_for_queued(server, 1)
        gates.open(2)
        runtime.wait_for_run(3)  # the fast instance goes on: its outcome is with the loop
        assert statistics(server).success_count == 0
        assert not fast.is_answered
        gates.open(1)
        slow.answer().output()
        fast.answer().output()
        gates.open(3)
        third.answer().output()


def two_models(folder: Path) -> Path:
    return models.write_repository(
        folder / "repository", {name: models.ModelEntry(b"fake", BATCHING) for name in ("a", "b")}
    )


def test_models_of_long_runs_do_not_wait_for_each_other(serve: Serving, tmp_path: Path) -> None:
    runtime = FakeRuntime(FakeModel(seconds=lambda rows: 0.002))
    server = serve(two_models(tmp_path), runtime=runtime, profile_seconds=0.5)
    runtime.forget()
    runtime.hold()
    with RestClient(server.at) as client:
        calls = [client.send(name, {"x": rows(1)}) for name in ("a", "b")]
        try:
            runtime.wait_for_run(2)
        finally:
            runtime.release()
        for call in calls:
            call.answer().output()
    assert {run.thread for run in runtime.runs} == {"a-1-0", "b-1-0"}


def test_models_of_short_runs_share_one_thread_or_run_on_the_loop(
    serve: Serving, tmp_path: Path
) -> None:
    runtime = FakeRuntime()
    server = serve(two_models(tmp_path), runtime=runtime, profile_seconds=0.5)
    runtime.forget()
    with RestClient(server.at) as client:
        calls = [client.send(name, {"x": rows(1)}) for name in ("a", "b") for _ in range(4)]
        for call in calls:
            call.answer().output()
    assert {run.thread for run in runtime.runs} <= {"shared-cpu", "server"}
    assert {run.session for run in runtime.runs} == set(runtime.sessions)
