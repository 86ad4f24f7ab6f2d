"""Selectors and aggregations of an autoscaler's query are read; the rest is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.deploy.promql import Matcher, aggregations, groups, is_one_number, selected


@pytest.mark.parametrize(
    ("query", "operators"),
    [
        ("sum(stoker_demand_ratio)", ("sum",)),
        ("SUM by (namespace) (stoker_demand_ratio)", ("sum",)),
        ("max_over_time(avg(stoker_demand_ratio)[1m:])", ("avg",)),
        ("sum(stoker_demand_ratio) / count(stoker_demand_ratio)", ("sum", "count")),
        ('stoker_demand_ratio{pod="sum (x)"}', ()),
        ("stoker_batch_rows_sum", ()),
    ],
)
def test_aggregations_are_told_from_functions_names_and_labels(
    query: str, operators: tuple[str, ...]
) -> None:
    assert aggregations(query) == operators


def test_groups_are_what_results_are_kept_apart_by() -> None:
    assert groups("sum by (pod, namespace) (x) or sum by (job) (y)") == frozenset(
        {"pod", "namespace", "job"}
    )
    assert groups("sum(x)") == frozenset()
    assert groups("sum without (pod) (x)") is None


def test_matchers_belong_to_their_metric() -> None:
    query = (
        """sum(stoker_demand_ratio{namespace="a",pod=~'b-.*'}) + nv_gpu_power_usage + up{c="d"}"""
    )
    assert list(selected(query)) == [
        ("stoker_demand_ratio", (Matcher("namespace", "=", "a"), Matcher("pod", "=~", "b-.*"))),
        ("nv_gpu_power_usage", ()),
    ]


@pytest.mark.parametrize(
    ("operator", "value", "matches"),
    [
        ("=", "ml", True),
        ("=", "m", False),
        ("!=", "ml", False),
        ("=~", "m|ml", True),
        ("=~", "m", False),
        ("!~", "m.*", False),
        ("=~", "(", True),
    ],
)
def test_a_pattern_is_of_the_whole_value(operator: str, value: str, matches: bool) -> None:
    assert Matcher("namespace", operator, value).matches("ml") is matches


def test_a_scalar_is_one_number() -> None:
    assert is_one_number("scalar(stoker_demand_ratio)")
    assert not is_one_number("stoker_scalar")


@given(st.text())
def test_any_text_is_read_without_failing(query: str) -> None:
    aggregations(query)
    groups(query)
    list(selected(query))
