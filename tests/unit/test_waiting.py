"""What is taken of one model: by the short way exactly what the ordered queue would give."""

import math
from collections.abc import Sequence
from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.backlog import REST_S
from stoker.engine.execution import Batch
from stoker.engine.pending import Pending
from stoker.engine.plan import RequestForm
from stoker.engine.queue import RunTime
from stoker.engine.scheduler import BatchPolicy
from stoker.engine.served_model import ServedModel
from stoker.engine.waiting import Waiting
from stoker.request import InferRequest
from stoker.telemetry.statistics import BatchEnd

MODEL = cast(ServedModel, None)  # what waits never looks at it


def entry(rows: int = 1, width: int = 4, deadline: float = math.inf) -> Pending:
    form = RequestForm(rows, ((width,),), (0,), (0,), width)
    return Pending(MODEL, InferRequest.of("m", deadline=deadline), form, lambda _: None, 0.0)


def end(each: Pending) -> None:
    """As a cancel does."""
    each.dead = True
    each.request = None


def waiting(*, is_plain: bool = True) -> Waiting:
    return Waiting(is_plain=is_plain, has_delayed=False, is_usual=lambda elements: True)


def taken(step: Batch | float) -> set[Pending]:
    assert isinstance(step, Batch)
    return {each for each, _ in step.entries}


turns = st.lists(
    st.tuples(
        st.lists(st.builds(entry, st.integers(1, 3), st.sampled_from([4, 4, 8])), max_size=4),
        st.none() | st.integers(0, 3),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=12,
)


@given(turns, st.sampled_from([1, 4, 8]))
def test_what_is_taken_at_once_is_what_the_ordered_queue_would_give(
    turns: Sequence[tuple[list[Pending], int | None, int]], max_rows: int
) -> None:
    short, ordered, policy = waiting(), waiting(is_plain=False), BatchPolicy(max_rows)
    alive: list[Pending] = []
    for coming, ended, asked in turns:
        alive += coming
        short.add(coming)
        ordered.add(coming)
        if ended is not None and ended < len(alive):
            end(alive.pop(ended))
        for _ in range(asked):
            one, other = short.take(policy, 1.0), ordered.take(policy, 1.0)
            assert one == other
            assert short.entries == ordered.entries
            if isinstance(one, Batch):
                alive = [each for each in alive if each not in taken(one)]
            else:
                assert one == math.inf
                assert not alive


SUSTAINED = BatchPolicy(2, sustained_rows=8)
timed_entries = st.builds(
    entry,
    st.integers(1, 3),
    st.sampled_from([4, 4, 4, 8]),
    st.sampled_from([math.inf, math.inf, 0.5, 5.0, 50.0]),
)


def batches(
    at: Waiting, policy: BatchPolicy, *, ends: Sequence[Pending | None] = ()
) -> list[Batch]:
    """Takes until there is nothing; before each take one of `ends` ends."""
    ending = list(ends)
    made: list[Batch] = []
    while True:
        if ending and (ended := ending.pop()) is not None:
            end(ended)
        step = at.take(policy, 1.0)
        if not isinstance(step, Batch):
            return made
        made.append(step)


@given(st.lists(timed_entries, max_size=60), st.booleans(), st.booleans(), st.data())
def test_what_nothing_comes_behind_is_taken_as_if_there_were_no_sustained_limit(
    burst: list[Pending], is_plain: bool, knows_costs: bool, data: st.DataObject
) -> None:
    places = data.draw(st.lists(st.none() | st.integers(0, 59), max_size=20))
    taken_by: list[list[list[int]]] = []
    for policy in (SUSTAINED, BatchPolicy(2)):
        entries = [entry(each.rows, each.form.elements, each.deadline) for each in burst]
        at = waiting(is_plain=is_plain)
        if knows_costs:
            at.run_time = RunTime(one=1.0, full=2.0, rows=2, sustained=4.0)
        at.add(entries)
        ends = [
            entries[place] if place is not None and place < len(entries) else None
            for place in places
        ]
        numbers = {each: number for number, each in enumerate(entries)}
        made = batches(at, policy, ends=ends)
        taken_by.append([[numbers[each] for each in in_order(batch)] for batch in made])
    assert taken_by[0] == taken_by[1]


@given(st.lists(st.lists(st.integers(1, 3), max_size=6), min_size=1, max_size=40))
def test_where_a_backlog_lasts_nothing_is_lost_doubled_overtaken_or_too_large(
    coming: list[list[int]],
) -> None:
    at = waiting()
    sent: list[Pending] = []
    made: list[Batch] = []
    for sizes in coming:
        entries = [entry(rows) for rows in sizes]
        sent += entries
        at.add(entries)
        step = at.take(SUSTAINED, 1.0)
        if isinstance(step, Batch):
            made.append(step)
    made += batches(at, SUSTAINED)
    assert [each for batch in made for each in in_order(batch)] == sent
    for batch in made:
        assert batch.rows <= 8 or len(batch.entries) == 1
        assert batch.rows <= 2 or len(batch.entries) == 1 or batch.end is BatchEnd.FULL


def lasting(deadline: float = math.inf, *, is_usual: bool = True) -> Waiting:
    """Requests of one row that came before and behind a first take; four of a row run in 4 s."""
    made = Waiting(is_plain=True, has_delayed=False, is_usual=lambda elements: is_usual)
    made.run_time = RunTime(one=1.0, full=1.0, rows=1, sustained=4.0)
    made.add([entry(deadline=deadline) for _ in range(5)])
    assert len(in_order(made.take(FOUR, 0.0))) == 1
    made.add([entry(deadline=deadline) for _ in range(4)])
    return made


FOUR = BatchPolicy(1, sustained_rows=4)


def test_a_backlog_that_lasts_is_taken_in_large_full_batches() -> None:
    step = lasting().take(FOUR, 0.0)
    assert isinstance(step, Batch)
    assert (step.rows, step.end) == (4, BatchEnd.FULL)


def test_deadlines_that_the_longer_run_would_miss_keep_batches_as_they_were() -> None:
    assert len(in_order(lasting(deadline=20.0).take(FOUR, 0.0))) == 4
    assert len(in_order(lasting(deadline=5.0).take(FOUR, 0.0))) == 1  # half as much again


def test_what_was_measured_says_nothing_of_unusual_rows() -> None:
    assert len(in_order(lasting(is_usual=False).take(FOUR, 0.0))) == 1


def test_after_somebody_was_late_batches_are_as_they_were_for_a_while() -> None:
    at = lasting()
    at.saw_late(0.0)
    assert len(in_order(at.take(FOUR, REST_S - 0.1))) == 1
    at.add([entry() for _ in range(8)])
    assert len(in_order(at.take(FOUR, REST_S))) == 1  # what lasts begins here
    at.add([entry() for _ in range(4)])
    assert len(in_order(at.take(FOUR, REST_S))) == 4


def test_a_batch_of_requests_that_have_all_ended_is_none_and_clears_them() -> None:
    at, ended, late = waiting(), entry(), entry(deadline=1.0)
    end(ended)
    at.add([ended, late])
    assert at.take(BatchPolicy(8), 1.0) == math.inf
    assert at.entries == 0
    assert not at.started


def test_what_comes_after_a_take_is_counted_until_the_next() -> None:
    at, policy = waiting(), BatchPolicy(4)
    at.add([entry(3), entry(3), entry(3)])
    assert len(taken(at.take(policy, 0.0))) == 1
    assert at.entries == 2
    at.add([entry()])
    assert at.entries == 3
    step = at.take(policy, 0.0)
    assert isinstance(step, Batch)
    assert (step.rows, step.end) == (3, BatchEnd.FULL)
    assert [batch.number for batch in at.started] == [1, 2]


def with_run_time(*entries: Pending, is_usual: bool = True) -> Waiting:
    """Where a run of one row takes 1 s and one of four 2 s, and half more on the safe side."""
    made = Waiting(is_plain=True, has_delayed=False, is_usual=lambda elements: is_usual)
    made.run_time = RunTime(one=1.0, full=2.0, rows=4)
    made.add(entries)
    return made


def in_order(step: Batch | float) -> list[Pending]:
    assert isinstance(step, Batch)
    return [each for each, _ in step.entries]


def test_requests_that_are_all_in_time_are_taken_as_they_came() -> None:
    entries = [entry(deadline=20.0), entry(), entry(deadline=10.0)]
    assert in_order(with_run_time(*entries).take(BatchPolicy(4), 0.0)) == entries


def test_one_that_would_be_late_is_left_out_and_the_others_go_by_their_deadlines() -> None:
    late, later, sooner = entry(deadline=0.5), entry(deadline=20.0), entry(deadline=10.0)
    step = with_run_time(late, later, sooner).take(BatchPolicy(4), 0.0)
    assert in_order(step) == [sooner, later]


def test_nobody_is_left_out_for_a_cost_that_is_not_known() -> None:
    entries = [entry(deadline=0.5), entry(deadline=10.0)]
    assert in_order(with_run_time(*entries, is_usual=False).take(BatchPolicy(4), 0.0)) == entries
