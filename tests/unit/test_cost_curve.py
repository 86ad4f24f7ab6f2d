"""What a run costs: l(b) = 2 + b ms, its knee, and how the curve follows a model that changes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.admission import Admission, ServerBudget
from stoker.engine.cost_curve import CROWDED_RUNS, CostCurve
from stoker.engine.forecast import RunningNow, RunSizes
from stoker.model import ModelVersion

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


def linear(rows: float) -> float:
    return (2 + rows) / 1000


def measured() -> CostCurve:
    return CostCurve((rows, linear(rows)) for rows in SIZES)


def seconds(curve: CostCurve, rows: int) -> float:
    value = curve.seconds(rows)
    assert value is not None
    return value


def test_between_and_beyond_the_measured_sizes_the_curve_is_right() -> None:
    curve = measured()
    for rows in (1, 3, 7, 24, 100, 128, 200):
        assert seconds(curve, rows) == pytest.approx(linear(rows), rel=0.01)


def test_the_knee_is_where_doubling_gains_less_than_a_tenth() -> None:
    # Rows a second are b / (2 + b); doubling gains (2 + b) / (1 + b) - 1 = 1 / (1 + b): 11 % from
    # 8 to 16, 6 % from 16 to 32.
    assert measured().knee(128) == 16
    assert measured().knee(8) == 8


def test_sizes_between_powers_of_two_change_no_knee() -> None:
    points = {rows: (2 + rows) / 1000 for rows in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)}
    assert CostCurve(points.items()).knee(128) == measured().knee(128) == 16


def test_a_model_that_gains_nothing_has_its_knee_at_one() -> None:
    assert CostCurve((rows, rows / 1000) for rows in SIZES).knee(128) == 1


def test_the_knee_of_a_curve_that_ends_early_is_its_last_size() -> None:
    assert CostCurve((rows, 0.001) for rows in (1, 2, 4)).knee(128) == 4


def test_a_row_costs_what_it_costs_at_the_most_efficient_size() -> None:
    assert measured().seconds_per_row(16) == pytest.approx(linear(16) / 16)
    assert measured().seconds_per_row(24) == pytest.approx(linear(24) / 24)


def test_nothing_is_predicted_before_anything_is_measured() -> None:
    curve = CostCurve()
    assert not curve.is_measured
    assert curve.seconds(4) is None
    assert curve.seconds_per_row(8) is None
    assert curve.points() == ()


def test_more_rows_never_cost_less_on_the_measured_curve() -> None:
    curve = CostCurve([(1, 0.003), (2, 0.002), (4, 0.004)])
    assert [seconds(curve, rows) for rows in (1, 2, 4)] == [0.003, 0.003, 0.004]


def predicted_wait(curve: CostCurve) -> float:
    admission = Admission(ModelVersion("m", 1), None, ServerBudget(1 << 30), max_bytes=1 << 30)
    admission.add(level=0, rows=80, nbytes=0, weight=80)
    wait = admission.predicted_wait(
        level=0, curve=curve, sizes=RunSizes(8, 8), running=RunningNow(0.0, 1)
    )
    assert wait is not None
    return wait


@pytest.mark.parametrize("sizes", [(8,), (1, 8), SIZES[:5], tuple(range(1, 17))])
def test_a_model_whose_cost_doubles_is_known_to_within_20_batches(sizes: tuple[int, ...]) -> None:
    curve = measured()
    chance = random.Random(1)
    for _ in range(100):
        rows = chance.choice(sizes)
        curve.observe(rows, linear(rows), alone=True)
    before = predicted_wait(curve)
    for _ in range(20):
        rows = chance.choice(sizes)
        curve.observe(rows, 2 * linear(rows), alone=True)
    for rows in SIZES[:5]:
        assert seconds(curve, rows) == pytest.approx(2 * linear(rows), rel=0.1)
    assert predicted_wait(curve) == pytest.approx(2 * before, rel=0.1)


def flat(fixed: float, sizes: tuple[int, ...] = SIZES) -> CostCurve:
    """A row more costs 40 ms, a run `fixed` of that more: little is gained by a large batch."""
    return CostCurve((rows, 0.04 * (fixed + rows)) for rows in sizes)


def test_the_sustained_limit_is_the_least_size_whose_row_costs_next_to_what_the_best_costs() -> (
    None
):
    # A row costs 40 ms x (1 + 0.1 / b): 1.10, 1.05, 1.025, 1.0125 ... 1.0008 of it.
    curve = flat(0.1)
    assert curve.knee(128) == 1
    assert curve.sustained(128) == 8
    assert flat(0.015).sustained(128) == 1
    assert measured().sustained(128) == 64


def test_the_sustained_limit_is_a_size_that_was_measured_and_no_longer_than_it_may_be() -> None:
    assert flat(0.1, (1, 2, 4)).sustained(128) == 4
    assert measured().sustained(32) == 32
    assert measured().sustained(128, longest_s=linear(32)) == 32
    assert CostCurve((rows, linear(rows)) for rows in (1, 2, 3, 4, 6, 8)).sustained(128) == 8
    assert CostCurve().sustained(128) == 1
    assert measured().sustained(128, longest_s=0.001) == 1


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=8), st.sampled_from([4, 128]))
def test_a_row_at_the_sustained_limit_costs_within_a_fiftieth_of_the_best(
    costs: list[float], limit: int
) -> None:
    curve = CostCurve(zip(SIZES, costs, strict=False))
    most = min(limit, 1 << (len(costs) - 1))
    rows = curve.sustained(limit)
    assert rows in SIZES
    assert rows <= most
    best = curve.seconds_per_row(most)
    assert best is not None
    assert seconds(curve, rows) / rows <= 1.021 * best


def test_one_disturbed_size_does_not_hide_the_knee_behind_it() -> None:
    points = {rows: linear(rows) for rows in SIZES}
    knee = CostCurve(points.items()).knee(128)
    assert knee > 8
    for disturbed in (2, 4, 8):
        curve = CostCurve({**points, disturbed: 1.5 * points[disturbed]}.items())
        assert curve.knee(128) == knee
    flat = CostCurve((rows, rows / 1000) for rows in SIZES)
    assert flat.knee(128) == 1


def test_what_company_costs_is_the_median_of_runs_that_had_it() -> None:
    curve = measured()
    assert curve.slowdown() is None
    for factor in (1.8, 2.0, 5.0):
        curve.observe(8, factor * linear(8), alone=False)
    assert curve.slowdown() == pytest.approx(2.0)
    for _ in range(9):
        curve.observe(8, 0.9 * linear(8), alone=False)
    assert curve.slowdown() == 1.0


def test_a_few_outliers_change_nothing() -> None:
    curve = measured()
    for _ in range(9):
        curve.observe(8, linear(8), alone=True)
    for _ in range(4):
        curve.observe(8, 50 * linear(8), alone=True)
    assert seconds(curve, 8) == pytest.approx(linear(8))


def test_a_size_that_nobody_asks_for_is_corrected_with_the_others() -> None:
    curve = measured()
    for _ in range(9):
        curve.observe(8, 3 * linear(8), alone=True)
    assert seconds(curve, 128) == pytest.approx(3 * linear(128))


def test_one_size_that_costs_more_does_not_change_the_others() -> None:
    curve = measured()
    for _ in range(9):
        curve.observe(4, linear(4), alone=True)
        curve.observe(8, 3 * linear(8), alone=True)
    assert seconds(curve, 4) == pytest.approx(linear(4))
    assert seconds(curve, 8) == pytest.approx(3 * linear(8))


def test_runs_beside_others_are_not_believed_while_any_run_is_alone() -> None:
    curve = measured()
    curve.observe(8, linear(8), alone=True)
    for _ in range(CROWDED_RUNS - 1):
        curve.observe(8, 5 * linear(8), alone=False)
    assert seconds(curve, 8) == pytest.approx(linear(8))


def test_on_a_device_that_is_never_alone_the_fastest_runs_count() -> None:
    curve = measured()
    curve.observe(8, linear(8), alone=True)  # long ago
    for number in range(2 * CROWDED_RUNS):
        curve.observe(8, (2 if number % 5 == 0 else 9) * linear(8), alone=False)
    assert seconds(curve, 8) == pytest.approx(2 * linear(8))


def test_an_unmeasured_shape_learns_its_curve_from_its_runs() -> None:
    curve = CostCurve()
    for rows in (1, 4, 16):
        curve.observe(rows, linear(rows), alone=True)
    assert curve.is_measured
    for rows in (1, 4, 8, 16):
        assert seconds(curve, rows) == pytest.approx(linear(rows), rel=0.01)


def test_a_clock_that_stands_still_is_ignored() -> None:
    curve = measured()
    for _ in range(30):
        curve.observe(8, 0.0, alone=True)
    assert seconds(curve, 8) == pytest.approx(linear(8))


@given(st.lists(st.tuples(st.integers(1, 300), st.floats(1e-9, 1e3), st.booleans()), max_size=40))
def test_any_history_predicts_a_positive_cost(history: list[tuple[int, float, bool]]) -> None:
    for curve in (CostCurve(), measured()):
        for rows, cost, alone in history:
            curve.observe(rows, cost, alone=alone)
        if curve.is_measured:
            assert all(seconds(curve, rows) > 0 for rows in (1, 5, 128, 500))
            assert 1 <= curve.knee(128) <= 128


@given(
    st.sampled_from([(), (1, 8), SIZES]),
    st.lists(
        st.tuples(st.sampled_from((1, 2, 7, 8, 100)), st.floats(1e-5, 1e-2), st.booleans()),
        max_size=60,
    ),
    st.integers(1, 10),
)
def test_what_is_predicted_does_not_depend_on_how_often_somebody_asks(
    known: tuple[int, ...], history: list[tuple[int, float, bool]], times: int
) -> None:
    asked, quiet = (CostCurve((rows, linear(rows)) for rows in known) for _ in range(2))
    for number, (rows, cost, alone) in enumerate(history * times):
        for curve in (asked, quiet):
            curve.observe(rows, cost, alone=alone)
        if number % 3 == 0:
            asked.slowdown()
            asked.seconds(rows)
            asked.seconds_per_row(rows)
    assert asked.slowdown() == quiet.slowdown()
    assert [asked.seconds(rows) for rows in SIZES] == [quiet.seconds(rows) for rows in SIZES]
    assert [asked.seconds_per_row(rows) for rows in SIZES] == [
        quiet.seconds_per_row(rows) for rows in SIZES
    ]
    assert asked.points() == quiet.points()
