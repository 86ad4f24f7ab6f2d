"""Batch sizes that runs are filled up to."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.cost_curve import CostCurve
from stoker.errors import InvalidRequest
from stoker.runtime.buckets import (
    DEAR_PADDING,
    DEAR_WITH_GRAPHS,
    EXACT,
    MOST_BUCKETS,
    MOST_SIZES,
    MOST_WARMING_S,
    PARAMETER,
    Buckets,
    buckets,
    dearest,
    powers_of_two,
)
from stoker.runtime.session import Placement

from tests.engine_parts import config, play, serving
from tests.fake_runtime import FakeRuntime

ROWS = st.integers(1, 512)


def written(text: str, max_rows: int = 8, *, on_gpu: bool = False) -> Buckets:
    return buckets(replace(config(), parameters={PARAMETER: text}), max_rows, on_gpu=on_gpu)


@given(ROWS, ROWS)
def test_a_bucket_is_the_least_size_that_holds_the_batch(max_rows: int, rows: int) -> None:
    found = Buckets(powers_of_two(max_rows))
    bucket = found.of(rows)
    assert bucket >= rows
    if rows <= max_rows:
        assert bucket in found.sizes
        assert not any(rows <= size < bucket for size in found.sizes)
        assert bucket < 2 * rows or bucket == 1


@given(ROWS)
def test_no_batch_is_padded_where_there_are_no_buckets(rows: int) -> None:
    assert EXACT.of(rows) == rows
    assert not EXACT.pads


@given(st.sets(ROWS, min_size=1), ROWS, ROWS)
def test_buckets_of_less_room_end_there(sizes: set[int], room: int, rows: int) -> None:
    less = Buckets(tuple(sorted(sizes))).within(room)
    assert less.sizes[-1] == room
    assert list(less.sizes) == sorted(set(less.sizes))
    if rows <= room:
        assert rows <= less.of(rows) <= room


@given(ROWS)
def test_on_a_gpu_powers_of_two_and_the_largest_batch_are_buckets(max_rows: int) -> None:
    found = buckets(config(), max_rows, on_gpu=True)
    assert found.sizes == powers_of_two(max_rows)
    assert found.sizes[-1] == max_rows


def test_on_the_cpu_every_size_is_its_own_bucket() -> None:
    assert buckets(config(), 8, on_gpu=False) is EXACT


def test_a_model_without_batch_dimension_has_no_buckets() -> None:
    assert buckets(config(max_batch_size=0), 8, on_gpu=True) is EXACT


AFFINE = (st.floats(1e-6, 1e-3), st.floats(0.0, 1e-3))
"""A run's fixed cost, and what each row costs."""


def chosen(
    seconds: Callable[[int], float | None], max_rows: int, *, captures: bool = False
) -> Buckets:
    return buckets(config(), max_rows, on_gpu=True, seconds=seconds, captures=captures)


@given(*AFFINE, ROWS, st.booleans())
def test_more_buckets_come_where_padding_is_dear(
    fixed: float, per_row: float, max_rows: int, captures: bool
) -> None:
    def seconds(rows: int) -> float:
        return fixed + per_row * rows

    sizes = chosen(seconds, max_rows, captures=captures).sizes
    most, dear = (MOST_BUCKETS, DEAR_WITH_GRAPHS) if captures else (MOST_SIZES, DEAR_PADDING)
    assert set(powers_of_two(max_rows)) <= set(sizes)
    assert list(sizes) == sorted(set(sizes))
    assert len(sizes) <= most
    if len(sizes) < most and sum(map(seconds, sizes)) < MOST_WARMING_S / 2:
        assert dearest(sizes, seconds) <= dear


@given(st.floats(1e-6, 1e-4), st.floats(0.0, 1e-4), st.integers(1, 128))
def test_no_batch_would_be_much_faster_as_two(fixed: float, per_row: float, max_rows: int) -> None:
    def seconds(rows: int) -> float:
        return fixed + per_row * rows

    found = chosen(seconds, max_rows)
    for rows in range(2, max_rows + 1):
        as_two = min(seconds(part) + seconds(rows - part) for part in range(1, rows))
        assert seconds(found.of(rows)) * (1 - DEAR_PADDING) <= as_two + 1e-12


def test_a_model_that_is_bound_by_launches_needs_no_more_buckets() -> None:
    flat = CostCurve([(1, 0.001), (64, 0.00101)])
    found = chosen(flat.seconds, 64)
    assert found.sizes == powers_of_two(64)
    assert str(found) == (
        "1,2,4,8,16,32,64: powers of two, filling up to them costs at most 0% of a run"
    )


def test_a_model_whose_every_row_costs_the_same_runs_each_batch_as_it_is() -> None:
    steep = CostCurve([(1, 0.0001), (16, 0.0016)])
    found = chosen(steep.seconds, 16)
    assert found.sizes == tuple(range(1, 17))
    assert not found.pads
    assert str(found) == ("every size: filling up costs at most 0% of a run, to powers of two 44%")


def test_where_each_bucket_is_a_cuda_graph_there_are_few_and_the_reason_is_told() -> None:
    steep = CostCurve([(1, 0.0001), (128, 0.0128)])
    found = chosen(steep.seconds, 128, captures=True)
    assert len(found.sizes) <= MOST_BUCKETS
    assert {48, 96} <= set(found.sizes)
    assert str(found).endswith(
        "filling up costs at most 25% of a run, to powers of two 49%; each is a CUDA graph, so "
        "there are few"
    )


def test_a_bucket_between_two_steps_of_the_cost_is_not_made() -> None:
    """Tiles of 32 rows: what 33 rows cost, 64 cost as well."""
    stairs = CostCurve([(1, 0.001), (32, 0.001), (33, 0.002), (48, 0.002), (64, 0.002)])
    sizes = chosen(stairs.seconds, 64).sizes
    assert not [size for size in sizes if 33 < size < 64]


def test_sizes_that_would_take_long_to_warm_are_left_out() -> None:
    heavy = CostCurve([(1, 0.02), (128, 2.56)])
    sizes = chosen(heavy.seconds, 128).sizes
    assert sizes == powers_of_two(128)


def test_what_warming_takes_counts_for_each_time_that_it_is_done() -> None:
    curve = CostCurve([(1, 0.0004), (128, 0.0512)])
    once = buckets(config(), 128, on_gpu=True, seconds=curve.seconds)
    assert len(once.sizes) > 50
    often = buckets(config(), 128, on_gpu=True, seconds=curve.seconds, warmings=8)
    added = set(often.sizes) - set(powers_of_two(128))
    assert added
    assert 8 * sum(curve.seconds(size) or 0.0 for size in often.sizes) <= MOST_WARMING_S
    assert buckets(
        config(), 128, on_gpu=True, seconds=curve.seconds, warmings=100
    ).sizes == powers_of_two(128)


def test_a_model_of_many_instances_has_fewer_buckets_since_each_instance_warms_them() -> None:
    found: list[int] = []

    async def scenario() -> None:
        for instances in (1, 8):
            placements = (Placement("cuda:0", 1, 1),) * instances
            async with serving(runtime=FakeRuntime(placements=placements)) as at:
                served = at.add(config(max_batch_size=128), costs=((1, 0.0004), (128, 0.0512)))
                found.append(len(served.filled["cuda:0"].sizes))

    play(scenario)
    one, eight = found
    assert one > eight


def test_without_a_measured_cost_powers_of_two_are_buckets_and_the_reason_is_told() -> None:
    assert str(buckets(config(), 4, on_gpu=True)) == (
        "1,2,4: powers of two, since no cost is measured"
    )


def test_written_buckets_are_used_everywhere_with_the_largest_batch_added() -> None:
    assert written("4, 1,2").sizes == (1, 2, 4, 8)
    assert written("2,16").sizes == (2, 8)
    assert written("3", on_gpu=True).sizes == (3, 8)
    assert written("Off", on_gpu=True).sizes == ()
    assert str(written("Off", on_gpu=True)) == "every size: batch_buckets is off"
    assert str(written("2,4")) == "2,4,8: as written"


@pytest.mark.parametrize("text", ["0", "-1", "two", "1;2", "1,,2", "1.5"])
def test_a_text_that_is_no_list_of_sizes_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"parameter '{PARAMETER}': expected 'off' or"):
        written(text)


def test_too_many_buckets_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=f"at most {MOST_BUCKETS} sizes, got 17"):
        written(",".join(map(str, range(1, 18))))
