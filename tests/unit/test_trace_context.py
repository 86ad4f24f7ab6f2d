"""W3C trace context: valid headers are read, all others are as if they had not come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.telemetry.trace_context import (
    MOST_MEMBERS,
    ParentSpan,
    is_unsampled,
    read_parent,
    read_state,
    span_id_text,
    trace_id_text,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_traceparent_names_trace_span_and_whether_it_is_sampled() -> None:
    assert read_parent(f"00-{TRACE}-{SPAN}-01") == ParentSpan(int(TRACE, 16), int(SPAN, 16), True)
    assert read_parent(f"00-{TRACE}-{SPAN}-00") == ParentSpan(int(TRACE, 16), int(SPAN, 16), False)


def test_other_flags_do_not_matter() -> None:
    sampled, other = read_parent(f"00-{TRACE}-{SPAN}-03"), read_parent(f"00-{TRACE}-{SPAN}-fe")
    assert sampled is not None
    assert sampled.is_sampled
    assert other is not None
    assert not other.is_sampled


def test_a_later_version_may_have_more_fields() -> None:
    assert read_parent(f"cc-{TRACE}-{SPAN}-01") is not None
    assert read_parent(f"cc-{TRACE}-{SPAN}-01-what-the-future-brings") is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0٠",
    ],
)
def test_a_traceparent_that_breaks_a_rule_is_none(text: str) -> None:
    assert read_parent(text) is None


@given(st.text())
def test_no_text_makes_reading_raise(text: str) -> None:
    read_parent(text)
    read_state(text)


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_written_is_read(trace_id: int, span_id: int, sampled: bool) -> None:
    text = f"00-{trace_id_text(trace_id)}-{span_id_text(span_id)}-{int(sampled):02x}"
    assert read_parent(text) == ParentSpan(trace_id, span_id, sampled)


def test_a_tracestate_is_carried_in_its_order() -> None:
    assert read_state("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE") == (
        "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
    )
    assert read_state("a@b=1 ,\t c=2,,") == "a@b=1,c=2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "A=1",
        "a=",
        "a=1,a=2",
        "a=b=c",
        "a=é",
        ",".join(f"k{number}=v" for number in range(MOST_MEMBERS + 1)),
        f"a={'x' * 257}",
    ],
)
def test_a_tracestate_that_breaks_a_rule_is_dropped(text: str) -> None:
    assert read_state(text) == ""


def digits(count: int) -> st.SearchStrategy[str]:
    """As an id has them, or nearly."""
    right, wrong = ("0123456789abcdef", "0123456789abcdefAg")
    texts = [st.text(each, min_size=count, max_size=count) for each in (right, wrong)]
    return st.one_of(*texts, st.just("0" * count))


@given(digits(32), digits(16),
       st.sampled_from(["00", "01", "02", "03", "0f", "a0", "ff", "0A", "0"]),
       st.sampled_from(["00", "01", "ff"]), st.sampled_from(["", "-more"]))  # fmt: skip
def test_what_is_said_to_be_unsampled_is_valid_and_unsampled(
    trace: str, span: str, flags: str, version: str, more: str
) -> None:
    traceparent = f"{version}-{trace}-{span}-{flags}{more}"
    parent = read_parent(traceparent)
    is_known = parent is not None and not parent.is_sampled and version == "00"
    assert is_unsampled(traceparent) == is_known


@pytest.mark.parametrize(("flags", "unsampled"), [("00", True), ("02", True), ("01", False)])
def test_a_caller_that_does_not_trace_is_known_at_a_glance(flags: str, unsampled: bool) -> None:
    assert is_unsampled(f"00-{'a' * 32}-{'b' * 16}-{flags}") == unsampled
