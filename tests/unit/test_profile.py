"""Cost points on a clock that only runs move."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from stoker.errors import ExecutionFailed, OutOfMemory
from stoker.model import ModelConfig
from stoker.runtime.profile import LEAST_RUNS, measure, read_free_bytes, sizes
from stoker.runtime.session import Placement
from stoker.tensor import Array, DataType, TensorSpec

from tests import models
from tests.fake_runtime import FakeClock, FakeModel, FakeRuntime, FakeSession

CONFIG = ModelConfig("m", 8, (), (), None)


class Bench:
    """A fake model on a fake clock."""

    def __init__(self, model: FakeModel) -> None:
        self.clock = FakeClock()
        self.runtime = FakeRuntime(model, clock=self.clock, sleep=self.clock.advance)
        self.runtime.open(Path("nowhere"), CONFIG, Placement("cpu", 1, 1))
        self.session: FakeSession = self.runtime.sessions[0]
        self.config = models.config_of(self.session)


def milliseconds(rows: int) -> float:
    return (2 + rows) / 1000


def test_sizes_double_up_to_the_largest() -> None:
    assert sizes(1) == (1,)
    assert sizes(8) == (1, 2, 4, 8)
    assert sizes(100) == (1, 2, 4, 8, 16, 32, 64, 100)
    assert sizes(0) == (1,)


def test_the_points_are_the_costs() -> None:
    bench = Bench(FakeModel(seconds=milliseconds))
    points = measure(bench.session, bench.config, max_rows=16, clock=bench.clock)
    assert [rows for rows, _ in points] == [1, 2, 4, 8, 16]
    assert [seconds for _, seconds in points] == pytest.approx(
        [milliseconds(rows) for rows in (1, 2, 4, 8, 16)]
    )


def test_where_batches_may_be_filled_up_sizes_half_way_are_timed_that_the_cost_tells_apart() -> (
    None
):
    """A GPU of tiles of 8 rows."""
    bench = Bench(FakeModel(seconds=lambda rows: -(-rows // 8) / 1000))
    points = measure(bench.session, bench.config, max_rows=32, clock=bench.clock, fills_up=True)
    assert dict(points) == pytest.approx(
        {1: 0.001, 2: 0.001, 4: 0.001, 8: 0.001, 12: 0.002, 16: 0.002, 24: 0.003, 32: 0.004}
    )
    assert list(points) == sorted(points)


def test_a_size_half_way_that_does_not_run_is_no_point() -> None:
    def fail(feeds: Mapping[str, Array]) -> ExecutionFailed | None:
        return ExecutionFailed("no kernel") if len(feeds["x"]) == 3 else None

    bench = Bench(FakeModel(seconds=lambda rows: rows / 1000, fail=fail))
    points = measure(bench.session, bench.config, max_rows=8, clock=bench.clock, fills_up=True)
    assert [rows for rows, _ in points] == [1, 2, 4, 6, 8]


def test_sizes_half_way_take_no_more_time_than_there_is() -> None:
    bench = Bench(FakeModel(seconds=lambda rows: 0.1 * rows))
    points = measure(
        bench.session, bench.config, max_rows=128, budget_s=12, clock=bench.clock, fills_up=True
    )
    assert [rows for rows, _ in points] == [1, 2, 3, 4, 8]
    assert bench.clock() <= 12


def test_each_size_is_run_at_least_five_times() -> None:
    bench = Bench(FakeModel(seconds=lambda rows: 0.5))
    measure(bench.session, bench.config, max_rows=1, clock=bench.clock)
    found_by = 2  # runs of 1 and 4 rows by which a valid row was found
    assert len(bench.runtime.runs) == found_by + 1 + LEAST_RUNS


def test_a_model_whose_one_run_outlasts_the_budget_is_timed_once() -> None:
    bench = Bench(FakeModel(seconds=lambda rows: 60.0))
    points = measure(bench.session, bench.config, max_rows=8, budget_s=10, clock=bench.clock)
    assert points == ((1, 60.0),)
    found_by = 2
    assert len(bench.runtime.runs) == found_by + 1 + 1


def test_a_disturbed_run_does_not_count() -> None:
    costs = iter([1.0, 1.0, 0.1, 0.4, 0.2, 0.09, 0.3, 0.3])
    bench = Bench(FakeModel(seconds=lambda rows: next(costs)))
    ((rows, seconds),) = measure(bench.session, bench.config, max_rows=1, clock=bench.clock)
    assert rows == 1
    assert seconds == pytest.approx(0.09)


def test_a_slow_while_disturbs_no_size_more_than_another() -> None:
    runs = 0

    def cost(rows: int) -> float:
        nonlocal runs
        runs += 1
        return milliseconds(rows) * (3 if 20 <= runs < 40 else 1)

    bench = Bench(FakeModel(seconds=cost))
    points = measure(bench.session, bench.config, max_rows=128, clock=bench.clock)
    assert [seconds for _, seconds in points] == pytest.approx(
        [milliseconds(rows) for rows in sizes(128)]
    )


def test_smaller_sizes_are_rows_of_the_largest() -> None:
    bench = Bench(FakeModel(seconds=milliseconds))
    measure(bench.session, bench.config, max_rows=4, clock=bench.clock)
    first = {1: 0, 2: 0, 4: 0}
    for run in bench.runtime.runs:
        x = run.feeds["x"]
        np.testing.assert_array_equal(x, bench.runtime.runs[1].feeds["x"][: len(x)])
        first[len(x)] += 1
    assert min(first.values()) >= LEAST_RUNS


def test_sizes_that_would_outlast_the_budget_are_left_out() -> None:
    bench = Bench(FakeModel(seconds=lambda rows: 0.1 * rows))
    points = measure(bench.session, bench.config, max_rows=128, budget_s=10, clock=bench.clock)
    assert [rows for rows, _ in points] == [1, 2, 4, 8]
    assert bench.clock() <= 10


def test_a_size_that_does_not_fit_ends_the_curve() -> None:
    bench = Bench(
        FakeModel(
            seconds=milliseconds,
            fail=lambda feeds: OutOfMemory("no") if len(feeds["x"]) > 4 else None,
        )
    )
    points = measure(bench.session, bench.config, max_rows=64, clock=bench.clock)
    assert [rows for rows, _ in points] == [1, 2, 4]


def test_a_quarter_of_the_free_memory_ends_the_curve() -> None:
    bench = Bench(FakeModel(seconds=milliseconds))
    row_bytes = 2 * 4 * 4  # x and y
    points = measure(
        bench.session,
        bench.config,
        max_rows=64,
        clock=bench.clock,
        free_bytes=lambda: 4 * 8 * row_bytes,
    )
    assert [rows for rows, _ in points] == [1, 2, 4, 8]


def test_a_model_without_batch_dimension_has_one_point() -> None:
    bench = Bench(
        FakeModel(inputs=(TensorSpec("x", DataType.FP32, (4,)),), seconds=lambda rows: 0.01)
    )
    config = models.config_of(bench.session, 0)
    ((rows, seconds),) = measure(bench.session, config, max_rows=64, clock=bench.clock)
    assert rows == 1
    assert seconds == pytest.approx(0.01)


def test_a_model_that_runs_nothing_has_no_points() -> None:
    bench = Bench(FakeModel(fail=lambda feeds: ExecutionFailed("never")))
    assert measure(bench.session, bench.config, max_rows=8, clock=bench.clock) == ()


def test_zeros_are_the_last_resort() -> None:
    bench = Bench(
        FakeModel(
            seconds=milliseconds,
            fail=lambda feeds: ExecutionFailed("zeros only") if feeds["x"].any() else None,
        )
    )
    points = measure(bench.session, bench.config, max_rows=2, clock=bench.clock)
    assert [rows for rows, _ in points] == [1, 2]


def test_this_machine_tells_its_free_memory() -> None:
    free = read_free_bytes()
    assert free is None or free > 0
