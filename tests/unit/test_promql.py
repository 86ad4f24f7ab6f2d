"""Selectors and aggregations of an autoscaler's query are read; the rest is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.deploy.promql import (
    Matcher,
    aggregations,
    is_combined,
    is_one_number,
    keeps_apart,
    selected,
)


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


@pytest.mark.parametrize(
    ("query", "is_kept_apart"),
    [
        ("sum(x)", False),
        ("sum by (namespace, pod) (x)", True),
        ("ceil(sum(x) by (pod))", True),
        ("sum by (job) (x) or sum by (pod) (y)", True),
        ("sum(max by (pod) (x))", False),
        ("max(sum(x) without (job))", False),
        ("sum without (job) (x)", True),
        ("sum without (pod, instance) (x)", False),
        ('sum(x{y="by (pod)"})', False),
    ],
)
def test_only_an_outermost_aggregation_keeps_pods_apart(query: str, is_kept_apart: bool) -> None:
    assert keeps_apart(query, {"pod", "instance"}) is is_kept_apart


def test_ratios_and_quantiles_are_told_from_sums() -> None:
    assert is_combined("sum(x) / on() y")
    assert is_combined("histogram_quantile(0.9, sum by (le) (x))")
    assert not is_combined('sum(x{y=~".*/z"})')


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
    keeps_apart(query, {query})
    list(selected(query))
