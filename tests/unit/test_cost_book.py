"""Curves by the size of an item."""

import pytest
from stoker.engine.cost_book import CostBook
from stoker.engine.cost_curve import CostCurve
from stoker.engine.forecast import RunSizes

BATCHED = RunSizes(8, 8)


def book(sizes: RunSizes = BATCHED) -> CostBook:
    return CostBook(CostCurve([(1, 0.003), (8, 0.010)]), sizes, elements=100)


def test_warm_up_measures_the_usual_size() -> None:
    costs = book()
    assert costs.seconds(8) == pytest.approx(0.010)
    assert costs.curve(100) is costs.usual
    assert costs.curve(120) is costs.usual
    assert costs.usual_seconds_per_row() == pytest.approx(0.010 / 8)


def test_larger_items_have_a_curve_of_their_own() -> None:
    costs = book()
    assert costs.worth(1000, 1) is None
    costs.observe(1000, 8, 0.080, alone=True)
    assert costs.worth(1000, 1) == pytest.approx(0.010)
    assert costs.worth(100, 1) == pytest.approx(0.010 / 8)


def test_what_a_row_costs_follows_the_runs() -> None:
    costs = book()
    assert costs.worth(100, 1) == pytest.approx(0.010 / 8)
    for _ in range(20):
        costs.observe(100, 8, 0.020, alone=True)
    assert costs.worth(100, 1) == pytest.approx(0.020 / 8)


def test_a_request_that_shares_no_batch_is_worth_its_own_runs() -> None:
    costs = book(RunSizes(1, 8))
    assert costs.worth(100, 1) == pytest.approx(0.003)
    assert costs.worth(100, 8) == pytest.approx(0.010)
    assert costs.worth(100, 17) == pytest.approx(2 * 0.010 + 0.003)
    assert costs.usual_seconds_per_row() == pytest.approx(0.010 / 8)


def test_runs_that_become_smaller_make_rows_dearer() -> None:
    costs = book()
    assert costs.worth(100, 8) == pytest.approx(0.010)
    costs.resize(RunSizes(2, 2))
    assert costs.worth(100, 8) == pytest.approx(4 * 0.004)


def test_a_scalar_has_a_curve_too() -> None:
    costs = book()
    costs.observe(0, 1, 0.001, alone=True)
    assert costs.curve(0).seconds(1) == pytest.approx(0.001)
