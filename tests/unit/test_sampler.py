"""Which calls are traced: the caller's word, or a share by the trace id."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from stoker.telemetry.sampler import Sampler

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


def parent(*, sampled: bool, trace_id: int = TRACE) -> str:
    return f"00-{trace_id:032x}-{SPAN:016x}-{int(sampled):02x}"


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_caller_that_says_whether_is_followed(share: float) -> None:
    sampler = Sampler(share, follows_parent=True)
    assert sampler.sample(parent(sampled=False), "") is None
    span = sampler.sample(parent(sampled=True), "a=1")
    assert span is not None
    assert (span.trace_id, span.parent_id, span.state) == (TRACE, SPAN, "a=1")
    assert span.parent_is_remote
    assert span.span_id not in (0, SPAN)


@given(st.integers(1, 2**128 - 1), st.floats(0, 1), st.booleans())
def test_without_following_the_trace_id_decides_as_it_does_elsewhere(
    trace_id: int, share: float, sampled: bool
) -> None:
    sampler = Sampler(share, follows_parent=False)
    span = sampler.sample(parent(sampled=sampled, trace_id=trace_id), "")
    theirs = TraceIdRatioBased(share).should_sample(None, trace_id, "name")
    assert (span is not None) == (theirs.decision is Decision.RECORD_AND_SAMPLE)
    if span is not None:
        assert (span.trace_id, span.parent_id) == (trace_id, SPAN)


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{TRACE:032x}-{0:016x}-01"])
def test_a_call_without_a_valid_parent_begins_a_trace(traceparent: str) -> None:
    sampler = Sampler(1.0, follows_parent=True)
    span = sampler.sample(traceparent, "a=1")
    assert span is not None
    assert (span.parent_id, span.state) == (0, "")
    assert span.trace_id != TRACE


def test_the_share_is_that_of_all_calls() -> None:
    numbers = random.Random(1)
    sampler = Sampler(0.1, follows_parent=True, random_bits=numbers.getrandbits)
    traced = sum(sampler.sample("", "") is not None for _ in range(10_000))
    assert 900 < traced < 1100


def test_nothing_is_traced_with_a_share_of_0_and_all_with_1() -> None:
    none, every = Sampler(0.0, follows_parent=True), Sampler(1.0, follows_parent=True)
    assert all(none.sample("", "") is None for _ in range(1000))
    assert all(every.sample("", "") is not None for _ in range(1000))
