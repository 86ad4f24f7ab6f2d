"""The lines of one metric of one model."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.telemetry.exposition import number
from stoker.telemetry.model_lines import filled_lines, line_template

PREFIXES = ('x_bucket{a="100%d.0",le="1.0"} ', 'x_bucket{a="100%b",le="+Inf"} ', "x_sum ")

VALUES = st.one_of(
    st.integers(-(10**18), 10**18),
    st.integers(999_990, 1_000_010),
    st.floats(),
    st.booleans(),
)


@given(st.lists(VALUES, min_size=3, max_size=3))
def test_every_number_is_written_as_the_library_writes_it(values: list[float]) -> None:
    text = filled_lines(line_template(PREFIXES), values)

    assert text.decode() == "".join(
        [f"{before}{number(value)}\n" for before, value in zip(PREFIXES, values, strict=True)]
    )


@pytest.mark.parametrize("value", [0, 999_999, 1_000_000, 0.5, math.inf, -math.inf, math.nan])
def test_one_line_of_any_number(value: float) -> None:
    assert filled_lines(line_template(("gauge ",)), [value]).decode() == f"gauge {number(value)}\n"
