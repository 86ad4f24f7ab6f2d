"""When a batch starts and what it takes: Triton's procedure where the file configures it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.scheduler import BatchPolicy, RunBatch, WaitUntil, next_step
from stoker.telemetry.statistics import BatchEnd


@dataclass
class Entry:
    rows: int
    enqueued: float = 0.0
    expires: float = math.inf
    dead: bool = False


def entries(*rows: int) -> list[Entry]:
    return [Entry(each) for each in rows]


def test_an_executor_takes_what_piled_up_while_it_was_busy() -> None:
    step = next_step(entries(1, 2, 1), BatchPolicy(max_rows=8), 5.0)
    assert step == RunBatch(3, BatchEnd.IDLE)


def test_a_lone_request_runs_at_once_without_a_delay() -> None:
    assert next_step(entries(1), BatchPolicy(max_rows=8), 0.0) == RunBatch(1, BatchEnd.IDLE)


def test_a_batch_ends_before_the_request_that_does_not_fit() -> None:
    step = next_step(entries(3, 3, 3, 1), BatchPolicy(max_rows=8), 0.0)
    assert step == RunBatch(2, BatchEnd.FULL)


def test_a_request_larger_than_the_limit_runs_alone() -> None:
    policy = BatchPolicy(max_rows=4)
    assert next_step(entries(9, 1), policy, 0.0) == RunBatch(1, BatchEnd.FULL)
    assert next_step(entries(1, 9), policy, 0.0) == RunBatch(1, BatchEnd.FULL)


def test_dead_entries_are_taken_along_and_not_counted() -> None:
    group = [Entry(4), Entry(4, dead=True), Entry(4)]
    assert next_step(group, BatchPolicy(max_rows=8), 0.0) == RunBatch(3, BatchEnd.FULL)


@pytest.mark.parametrize("policy", [BatchPolicy(8), BatchPolicy(8, (4,), 1.0)])
def test_there_is_nothing_to_run_when_all_are_dead(policy: BatchPolicy) -> None:
    assert next_step([Entry(1, dead=True)], policy, 0.0) == WaitUntil(math.inf)


def test_a_lone_request_waits_the_full_delay() -> None:
    policy = BatchPolicy(max_rows=8, max_delay=0.5)
    assert next_step([Entry(1, enqueued=10.0)], policy, 10.1) == WaitUntil(10.5)
    assert next_step([Entry(1, enqueued=10.0)], policy, 10.5) == RunBatch(1, BatchEnd.DELAY)


def test_a_lone_request_of_a_preferred_size_does_not_wait() -> None:
    policy = BatchPolicy(8, (4,), max_delay=0.5)
    assert next_step(entries(4), policy, 0.0) == RunBatch(1, BatchEnd.PREFERRED)


def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    policy = BatchPolicy(max_rows=8, max_delay=0.5)
    assert next_step(entries(4, 4), policy, 0.0) == RunBatch(2, BatchEnd.FULL)


def test_the_largest_preferred_size_that_was_reached_is_sent() -> None:
    policy = BatchPolicy(16, (2, 4, 8), max_delay=0.5)
    assert next_step(entries(2, 2, 1), policy, 0.0) == RunBatch(2, BatchEnd.PREFERRED)


def test_a_batch_is_sent_before_it_outgrows_the_largest_preferred_size() -> None:
    policy = BatchPolicy(8, (4,), max_delay=0.5)
    assert next_step(entries(3, 2), policy, 0.0) == RunBatch(1, BatchEnd.PREFERRED)


def test_a_late_batch_takes_everything_even_beyond_the_preferred_size() -> None:
    policy = BatchPolicy(8, (4,), max_delay=0.5)
    group = entries(4, 1, 1)
    assert next_step(group, policy, 0.4) == RunBatch(1, BatchEnd.PREFERRED)
    assert next_step(group, policy, 0.5) == RunBatch(3, BatchEnd.DELAY)


def test_preferred_sizes_without_a_delay_never_make_anybody_wait() -> None:
    policy = BatchPolicy(8, (4,))
    assert next_step(entries(1, 1), policy, 0.0) == RunBatch(2, BatchEnd.IDLE)
    assert next_step(entries(1, 3, 1), policy, 0.0) == RunBatch(2, BatchEnd.PREFERRED)


def test_the_oldest_request_decides_when_a_batch_is_late() -> None:
    policy = BatchPolicy(max_rows=8, max_delay=0.5)
    group = [Entry(1, enqueued=2.0), Entry(1, enqueued=1.0)]  # by priority, not by arrival
    assert next_step(group, policy, 1.2) == WaitUntil(1.5)


def test_a_dead_entry_makes_no_batch_late() -> None:
    policy = BatchPolicy(max_rows=8, max_delay=0.5)
    group = [Entry(1, enqueued=0.0, dead=True), Entry(1, enqueued=1.0)]
    assert next_step(group, policy, 1.2) == WaitUntil(1.5)


def test_the_wait_ends_with_the_nearest_timeout() -> None:
    policy = BatchPolicy(max_rows=8, max_delay=0.5)
    group = [Entry(1), Entry(1, expires=0.2)]
    assert next_step(group, policy, 0.1) == WaitUntil(0.2)
    assert next_step(group, policy, 0.3) == WaitUntil(0.5)


groups = st.lists(
    st.builds(
        Entry,
        rows=st.integers(1, 12),
        enqueued=st.floats(0, 2),
        expires=st.one_of(st.just(math.inf), st.floats(0, 4)),
        dead=st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@st.composite
def policies(draw: st.DrawFn) -> BatchPolicy:
    max_rows = draw(st.integers(1, 16))
    preferred = draw(st.sets(st.integers(1, max_rows), max_size=3))
    delay = draw(st.sampled_from([0.0, 0.25, 1.0]))
    return BatchPolicy(max_rows, tuple(sorted(preferred)), delay)


def live(group: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in group if not entry.dead]


@given(groups, policies(), st.floats(0, 4))
def test_a_batch_is_never_empty_and_never_too_large(
    group: list[Entry], policy: BatchPolicy, now: float
) -> None:
    step = next_step(group, policy, now)
    if isinstance(step, WaitUntil):
        return
    taken = live(group[: step.count])
    assert taken
    assert sum(entry.rows for entry in taken) <= policy.max_rows or len(taken) == 1


@given(groups, policies(), st.floats(0, 4))
def test_an_executor_waits_only_for_a_configured_delay_and_never_beyond_it(
    group: list[Entry], policy: BatchPolicy, now: float
) -> None:
    step = next_step(group, policy, now)
    if isinstance(step, RunBatch):
        return
    if step.time == math.inf:
        assert not live(group)
        return
    assert policy.max_delay > 0
    assert now < step.time <= min(entry.enqueued for entry in live(group)) + policy.max_delay


@given(groups, policies(), st.floats(0, 4))
def test_dead_entries_never_change_what_runs(
    group: list[Entry], policy: BatchPolicy, now: float
) -> None:
    step, without = next_step(group, policy, now), None
    if live(group):
        without = next_step(live(group), policy, now)
    if isinstance(step, WaitUntil):
        assert without in (None, step)
    else:
        assert isinstance(without, RunBatch)
        assert live(group[: step.count]) == live(group)[: without.count]
        assert step.end is without.end


def as_triton(group: Sequence[Entry], policy: BatchPolicy, now: float) -> int | None:
    """How many requests Triton sends, None for waiting: its procedure, step by step."""
    preferred = set(policy.preferred_rows) or {policy.max_rows}
    total = taken = 0
    mark: int | None = None
    must_send = False
    for entry in group:
        if taken and total + entry.rows > max(preferred) and mark is None:
            mark = taken
        if taken and total + entry.rows > policy.max_rows:
            must_send = True
            break
        taken += 1
        total += entry.rows
        if total in preferred:
            mark = taken
    age = now - min(entry.enqueued for entry in group[:taken])
    late = policy.max_delay > 0 and age >= policy.max_delay
    if mark is not None and not late:
        return mark
    if must_send or total >= max(preferred) or late or policy.max_delay == 0:
        return taken
    return None


@given(
    st.lists(st.builds(Entry, st.integers(1, 12), st.sampled_from([0.0, 0.5])), min_size=1),
    policies(),
    st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.5]),
)
def test_configured_batches_are_those_of_triton(
    group: list[Entry], policy: BatchPolicy, now: float
) -> None:
    step = next_step(group, policy, now)
    if isinstance(step, WaitUntil):
        assert as_triton(group, policy, now) is None
    else:
        assert as_triton(group, policy, now) == step.count
