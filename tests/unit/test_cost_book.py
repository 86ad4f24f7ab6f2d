"""Curves by the size of an item."""

import pytest
from stoker.engine.cost_book import CostBook
from stoker.engine.cost_curve import CostCurve


def book() -> CostBook:
    return CostBook(CostCurve([(1, 0.003), (8, 0.010)]), elements=100, limit=8)


def test_warm_up_measures_the_usual_size() -> None:
    costs = book()
    assert costs.seconds(8) == pytest.approx(0.010)
    assert costs.curve(100) is costs.usual
    assert costs.curve(120) is costs.usual
    assert costs.usual_seconds_per_row() == pytest.approx(0.010 / 8)


def test_larger_items_have_a_curve_of_their_own() -> None:
    costs = book()
    assert costs.seconds_per_row(1000) is None
    costs.observe(1000, 8, 0.080, alone=True)
    assert costs.seconds_per_row(1000) == pytest.approx(0.010)
    assert costs.seconds_per_row(100) == pytest.approx(0.010 / 8)


def test_what_a_row_costs_follows_the_runs() -> None:
    costs = book()
    assert costs.seconds_per_row(100) == pytest.approx(0.010 / 8)
    for _ in range(20):
        costs.observe(100, 8, 0.020, alone=True)
    assert costs.seconds_per_row(100) == pytest.approx(0.020 / 8)


def test_a_scalar_has_a_curve_too() -> None:
    costs = book()
    costs.observe(0, 1, 0.001, alone=True)
    assert costs.curve(0).seconds(1) == pytest.approx(0.001)
