"""Durations and byte sizes: what is read, what is refused, and that printing undoes reading."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5.0),
        ("250ms", 0.25),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("100us", 0.0001),
        ("1m30s", 90.0),
        ("1.5s", 1.5),
        ("0", 0.0),
        (" 2s ", 2.0),
    ],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "5 parsecs", "-1s", "5 s", "1e3s", "5sm", "٣s"])
def test_what_is_no_duration_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 5s, 250ms or 5m, got"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4096", 4096),
        ("64MiB", 64 << 20),
        ("64Mi", 64 << 20),
        ("1GiB", 1 << 30),
        ("1 GiB", 1 << 30),
        ("1.5kib", 1536),
        ("2GB", 2_000_000_000),
        ("7B", 7),
    ],
)
def test_a_size_is_read_in_bytes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5", "0.3KiB", "1e6", "5 apples", "1M B"])
def test_what_is_no_size_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(ValueError, match="expected a whole number of bytes such as 64MiB"):
        parse_size(text)


@given(st.integers(0, 10**12))
def test_a_printed_duration_reads_back(microseconds: int) -> None:
    seconds = microseconds / 1_000_000
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 2**60))
def test_a_printed_size_reads_back(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_a_sentence(text: str) -> None:
    for parse in (parse_duration, parse_size):
        refusal = ""
        try:
            assert parse(text) >= 0
        except ValueError as error:
            refusal = str(error)
        assert not refusal or refusal.startswith("expected a ")
