"""Quantities are read as Kubernetes reads them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.deploy.manifest import JsonValue
from stoker.deploy.quantity import GIB, MIB, format_memory, parse_quantity


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        ("500m", Fraction(1, 2)),
        (2, Fraction(2)),
        (0.5, Fraction(1, 2)),
        ("1.5Gi", Fraction(3 * GIB, 2)),
        ("64Mi", Fraction(64 * MIB)),
        ("1k", Fraction(1000)),
        ("1G", Fraction(10**9)),
        ("12e6", Fraction(12_000_000)),
        ("1E3", Fraction(1000)),
        ("2E", Fraction(2 * 10**18)),
        ("100n", Fraction(1, 10**7)),
        ("5.", Fraction(5)),
        (".5", Fraction(1, 2)),
        ("+1k", Fraction(1000)),
    ],
)
def test_a_quantity_is_read(written: JsonValue, amount: Fraction) -> None:
    assert parse_quantity({"a": written}, "a") == amount


@pytest.mark.parametrize("written", ["", "Gi", "1GiB", "16gb", ".", "-1", "one", None, [], "1K"])
def test_what_is_none_is_none(written: JsonValue) -> None:
    assert parse_quantity({"a": written}, "a") is None


@given(st.integers(1, 1 << 44))
def test_memory_is_printed_rounded_up_to_mebibytes(nbytes: int) -> None:
    back = parse_quantity({"a": format_memory(nbytes)}, "a")
    assert back is not None
    assert 0 <= back - nbytes < MIB
