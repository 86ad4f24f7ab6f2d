"""The overlap factor of instances, on fake sessions whose runs take real milliseconds."""

import threading
from pathlib import Path

import numpy as np
import pytest
from stoker.errors import ExecutionFailed
from stoker.model import ModelConfig
from stoker.runtime.overlap import RUNS, measure_overlap
from stoker.runtime.session import Placement

from tests.fake_runtime import FakeClock, FakeModel, FakeRuntime

FEEDS = {"x": np.ones((1, 4), np.float32)}


def sessions(runtime: FakeRuntime, count: int) -> list:  # type: ignore[type-arg]  # of fakes
    config = ModelConfig("m", 8, (), (), None)
    return [runtime.open(Path("nowhere"), config, Placement("cpu", 1, 1)) for _ in range(count)]


def test_one_instance_needs_no_measurement() -> None:
    runtime = FakeRuntime()
    assert measure_overlap(sessions(runtime, 1), FEEDS, ["y"], alone_s=0.001) is None
    assert not runtime.runs


def test_instances_that_wait_for_each_other_overlap_by_one() -> None:
    clock, one = FakeClock(), threading.Lock()

    def advance(seconds: float) -> None:
        with one:
            clock.advance(seconds)

    runtime = FakeRuntime(FakeModel(seconds=lambda rows: 0.01), clock=lambda: 0.0, sleep=advance)
    factor = measure_overlap(sessions(runtime, 2), FEEDS, ["y"], alone_s=0.01, clock=clock)
    assert factor == pytest.approx(1.0)
    assert len(runtime.runs) == 2 * RUNS


def test_instances_that_cost_no_time_together_overlap_wholly() -> None:
    clock = FakeClock()
    runtime = FakeRuntime(FakeModel(seconds=lambda rows: 0.01), sleep=lambda seconds: None)
    factor = measure_overlap(sessions(runtime, 3), FEEDS, ["y"], alone_s=0.01, clock=clock)
    assert factor == 3.0


def test_a_slow_model_is_not_run_at_all() -> None:
    runtime = FakeRuntime()
    assert measure_overlap(sessions(runtime, 2), FEEDS, ["y"], alone_s=1.0) is None
    assert not runtime.runs


def test_runs_that_fail_together_tell_nothing() -> None:
    runtime = FakeRuntime(FakeModel(fail=lambda feeds: ExecutionFailed("no")))
    assert measure_overlap(sessions(runtime, 2), FEEDS, ["y"], alone_s=0.001) is None
