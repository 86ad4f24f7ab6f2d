"""Batch sizes that runs are filled up to."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.cost_curve import CostCurve
from stoker.errors import InvalidRequest
from stoker.runtime.buckets import (
    DEAR_PADDING,
    EXACT,
    MOST_BUCKETS,
    PARAMETER,
    Buckets,
    buckets,
    powers_of_two,
)

from tests.engine_parts import config

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


@given(st.floats(1e-5, 1e-2), st.floats(0.0, 1e-2), ROWS)
def test_more_buckets_come_where_padding_is_dear(
    fixed: float, per_row: float, max_rows: int
) -> None:
    def seconds(rows: int) -> float:
        return fixed + per_row * rows

    sizes = buckets(config(), max_rows, on_gpu=True, seconds=seconds).sizes
    assert set(powers_of_two(max_rows)) <= set(sizes)
    assert list(sizes) == sorted(set(sizes))
    assert len(sizes) <= max(MOST_BUCKETS, len(powers_of_two(max_rows)))
    if len(sizes) < MOST_BUCKETS:
        for small, large in pairwise(sizes):
            if large - small > 1:
                assert (seconds(large) - seconds(small + 1)) / seconds(large) <= DEAR_PADDING


def test_a_model_that_is_bound_by_launches_needs_no_more_buckets() -> None:
    flat = CostCurve([(1, 0.001), (64, 0.00101)])
    assert buckets(config(), 64, on_gpu=True, seconds=flat.seconds).sizes == powers_of_two(64)


def test_a_model_that_is_bound_by_computing_gets_some_between() -> None:
    steep = CostCurve([(1, 0.001), (64, 0.064)])
    sizes = buckets(config(), 64, on_gpu=True, seconds=steep.seconds).sizes
    assert 48 in sizes


def test_written_buckets_are_used_everywhere_with_the_largest_batch_added() -> None:
    assert written("4, 1,2").sizes == (1, 2, 4, 8)
    assert written("2,16").sizes == (2, 8)
    assert written("3", on_gpu=True).sizes == (3, 8)
    assert written("Off", on_gpu=True) is EXACT


@pytest.mark.parametrize("text", ["0", "-1", "two", "1;2", "1,,2", "1.5"])
def test_a_text_that_is_no_list_of_sizes_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"parameter '{PARAMETER}': expected 'off' or"):
        written(text)


def test_too_many_buckets_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=f"at most {MOST_BUCKETS} sizes, got 17"):
        written(",".join(map(str, range(1, 18))))
