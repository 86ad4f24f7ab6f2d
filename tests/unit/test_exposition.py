"""Content negotiation and the small pieces of the text formats."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.utils import floatToGoString
from stoker.telemetry.exposition import Format, histogram_values, negotiate, number, prefix
from stoker.telemetry.statistics import Histogram


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Format.CLASSIC),
        ("*/*", Format.CLASSIC),
        ("text/plain", Format.CLASSIC),
        ("text/html,application/xhtml+xml", Format.CLASSIC),
        ("application/openmetrics-text", Format.OPENMETRICS),
        ("Application/OpenMetrics-Text; version=1.0.0", Format.OPENMETRICS),
        (
            "application/openmetrics-text;version=1.0.0;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Format.OPENMETRICS,
        ),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.9", Format.CLASSIC),
        ("application/openmetrics-text;q=0", Format.CLASSIC),
        ("application/openmetrics-text;q=much", Format.CLASSIC),
        ("application/openmetrics-text, text/plain", Format.OPENMETRICS),
    ],
)
def test_the_accept_header_decides_the_format(accept: str, form: Format) -> None:
    assert negotiate(accept) is form


@given(st.text())
def test_any_accept_header_gives_a_format(accept: str) -> None:
    assert negotiate(accept) in Format


@given(st.one_of(st.integers(min_value=-(10**20), max_value=10**20), st.floats()))
def test_numbers_are_written_as_the_library_writes_them(value: float) -> None:
    assert number(value) == floatToGoString(value)  # type: ignore[no-untyped-call]


def test_infinity_is_written_with_its_sign() -> None:
    assert (number(math.inf), number(-math.inf), number(math.nan)) == ("+Inf", "-Inf", "NaN")


def test_label_values_are_escaped_and_labels_sorted() -> None:
    assert prefix("n", {"b": 'x"y\\z\n', "a": "1"}) == 'n{a="1",b="x\\"y\\\\z\\n"} '
    assert prefix("n", {}) == "n "


@given(st.lists(st.integers(min_value=0, max_value=20)))
def test_buckets_are_cumulative_and_end_in_the_count(observed: list[int]) -> None:
    histogram = Histogram((1, 5, 10))
    for value in observed:
        histogram.observe(value)

    values = histogram_values(histogram, 1)

    at_most = [sum(value <= bound for value in observed) for bound in (1, 5, 10)]
    assert values == [*at_most, len(observed), len(observed), sum(observed)]
