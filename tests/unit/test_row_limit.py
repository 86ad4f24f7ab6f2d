"""A model's batch limit after a batch did not fit into memory."""

from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.row_limit import GROW_AFTER_S, LEAST_RUNS, LONGEST_WAIT_S, RowLimit


def run_full(limit: RowLimit, now: float, times: int = LEAST_RUNS) -> bool:
    """Whether one of these runs of full size made the limit grow."""
    return any(limit.ran(limit.rows, now) for _ in range(times))


def test_half_of_what_did_not_fit_becomes_the_limit() -> None:
    limit = RowLimit(32)
    assert limit.lower(20, 0.0)
    assert limit.rows == 10
    assert limit.is_lowered


def test_rows_below_the_limit_that_do_not_fit_lower_it_below_them() -> None:
    limit = RowLimit(32)
    limit.lower(32, 0.0)
    limit.lower(4, 1.0)
    assert limit.rows == 2


def test_a_batch_that_was_formed_before_the_limit_fell_says_nothing_against_it() -> None:
    limit = RowLimit(32)
    limit.lower(8, 0.0)
    assert not limit.lower(32, 0.0)
    assert limit.rows == 4


def test_the_limit_is_never_below_one_row() -> None:
    limit = RowLimit(2)
    limit.lower(2, 0.0)
    assert not limit.lower(1, 0.0)
    assert limit.rows == 1


def test_the_limit_doubles_after_five_minutes_of_full_batches_that_fit() -> None:
    limit = RowLimit(32)
    limit.lower(16, 0.0)
    assert not run_full(limit, GROW_AFTER_S - 1)
    assert run_full(limit, GROW_AFTER_S)
    assert limit.rows == 16
    assert not run_full(limit, GROW_AFTER_S + 1)
    assert run_full(limit, 2 * GROW_AFTER_S)
    assert limit.rows == 32
    assert not limit.is_lowered


def test_a_limit_that_is_no_power_of_two_of_another_ends_at_the_configured_one() -> None:
    limit = RowLimit(12)
    limit.lower(10, 0.0)
    run_full(limit, GROW_AFTER_S)
    run_full(limit, 2 * GROW_AFTER_S)
    assert limit.rows == 12


def test_smaller_batches_show_nothing() -> None:
    limit = RowLimit(32)
    limit.lower(32, 0.0)
    assert not any(limit.ran(15, GROW_AFTER_S + at) for at in range(100))
    assert limit.rows == 16


def test_a_few_full_batches_show_too_little() -> None:
    limit = RowLimit(32)
    limit.lower(32, 0.0)
    assert not run_full(limit, GROW_AFTER_S, LEAST_RUNS - 1)


def test_each_growth_that_was_too_much_doubles_the_time_to_the_next() -> None:
    limit = RowLimit(32)
    now, wait = 0.0, GROW_AFTER_S
    limit.lower(32, now)
    for _ in range(6):
        assert not run_full(limit, now + wait - 1)
        now += wait
        assert run_full(limit, now)
        limit.lower(32, now + 1)
        now += 1
        wait = min(2 * wait, LONGEST_WAIT_S)
    assert wait == LONGEST_WAIT_S


def test_after_a_long_time_of_full_batches_the_waits_begin_anew() -> None:
    limit = RowLimit(32)
    limit.lower(32, 0.0)
    run_full(limit, GROW_AFTER_S)
    limit.lower(32, GROW_AFTER_S + 1)  # too early: the next growth takes twice as long
    run_full(limit, 4 * GROW_AFTER_S)
    assert not limit.is_lowered
    limit.lower(32, 10 * GROW_AFTER_S)
    assert run_full(limit, 11 * GROW_AFTER_S)


@given(
    st.integers(1, 256),
    st.lists(st.tuples(st.booleans(), st.integers(1, 256), st.floats(0, 1e4)), max_size=60),
)
def test_the_limit_stays_between_one_and_the_configured_one(
    configured: int, events: list[tuple[bool, int, float]]
) -> None:
    limit, now = RowLimit(configured), 0.0
    for fits, rows, seconds in events:
        now += seconds
        before = limit.rows
        changed = limit.ran(rows, now) if fits else limit.lower(rows, now)
        assert 1 <= limit.rows <= configured
        assert changed == (limit.rows != before)
        assert limit.rows >= before if fits else limit.rows <= before
