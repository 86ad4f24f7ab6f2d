"""Deadlines of a connection, with an invented clock."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.transport.wire.limits import (
    BODY_GRACE_S,
    BODY_TIME_S,
    FIRST_REQUEST_S,
    MIN_BODY_RATE,
    HttpLimits,
    body_rate,
)
from stoker.transport.wire.patience import Patience


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


LIMITS = HttpLimits(first_byte_timeout_s=60, header_timeout_s=10, idle_timeout_s=5)


def test_a_head_that_begins_when_its_connection_has_rested_long_has_its_whole_time() -> None:
    clock = Clock()
    patience = Patience(LIMITS, clock)
    patience.rest()
    clock.now += 4.9
    patience.await_head()
    assert patience.deadline == clock.now + 10


def test_a_head_that_comes_byte_by_byte_gets_no_more_time() -> None:
    clock = Clock()
    patience = Patience(LIMITS, clock)
    patience.await_head()
    until = patience.deadline
    clock.now += 9
    patience.await_head()
    assert patience.deadline == until


def test_a_young_connection_is_waited_for_when_the_port_closes_and_an_old_one_is_not() -> None:
    clock = Clock()
    patience = Patience(LIMITS, clock)
    assert patience.hurry()
    assert patience.deadline == clock.now + FIRST_REQUEST_S
    clock.now += FIRST_REQUEST_S
    assert not patience.hurry()


def test_lingering_can_only_become_shorter() -> None:
    clock = Clock()
    patience = Patience(LIMITS, clock)
    patience.await_close(10)
    patience.await_close(1)
    assert patience.deadline == clock.now + 1
    patience.await_close(10)
    assert patience.deadline == clock.now + 1


def test_who_owes_nothing_is_never_looked_at() -> None:
    patience = Patience(LIMITS, Clock())
    patience.end()
    assert patience.deadline == math.inf


@pytest.mark.parametrize(
    ("size", "rate"), [(1, MIN_BODY_RATE), (1 << 20, MIN_BODY_RATE), (1 << 30, (1 << 30) / 120)]
)
def test_the_pace_of_a_body_grows_with_what_it_holds(size: int, rate: float) -> None:
    assert body_rate(size) == rate


@given(st.integers(1, 1 << 31), st.floats(0, 1e6))
def test_no_unfinished_body_holds_memory_longer_than_its_time(size: int, later_s: float) -> None:
    clock = Clock()
    patience = Patience(LIMITS, clock)
    patience.await_body()
    until = clock.now + BODY_GRACE_S + BODY_TIME_S + 0.001 + later_s
    assert patience.body_too_slow(until, size - 1, size) is not None


@given(st.integers(1, 1 << 31), st.floats(0, BODY_GRACE_S))
def test_a_body_may_be_slow_at_first(size: int, after_s: float) -> None:
    clock = Clock()
    patience = Patience(LIMITS, clock)
    patience.await_body()
    assert patience.body_too_slow(clock.now + after_s, 0, size) is None
