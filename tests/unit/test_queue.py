"""The order in which waiting requests run, and that none is lost, doubled or starved."""

import math
from collections import deque
from collections.abc import Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.pending import Pending
from stoker.engine.plan import RequestForm
from stoker.engine.queue import RequestQueue, RunTime
from stoker.engine.scheduler import BatchPolicy, RunBatch, next_step
from stoker.engine.served_model import ServedModel
from stoker.request import InferRequest

MODEL = cast(ServedModel, None)  # a queue never looks at it


def entry(
    *,
    level: int = 0,
    deadline: float = math.inf,
    rows: int = 1,
    width: int = 4,
    delays: bool = False,
    expires: float = math.inf,
) -> Pending:
    form = RequestForm(rows, ((width,),), (0,), (0,), width)
    made = Pending(MODEL, InferRequest.of("m", deadline=deadline), form, lambda result: None, 0.0)
    made.level = level
    made.delays = delays
    made.expires = expires
    return made


def queue_of(*entries: Pending) -> RequestQueue:
    queue = RequestQueue()
    queue.take_from(deque(entries))
    return queue


def order(queue: RequestQueue) -> list[Pending]:
    return [each for group in queue.by_urgency() for each in group.entries]


def shapes(entries: Sequence[Pending]) -> int:
    return len({each.form.signature for each in entries})


def test_requests_of_one_level_run_in_the_order_they_came() -> None:
    entries = [entry() for _ in range(4)]
    assert order(queue_of(*entries)) == entries


def test_a_higher_level_goes_before_everything_that_came_earlier() -> None:
    low, high = entry(level=2), entry(level=1)
    assert order(queue_of(low, high)) == [high, low]


def test_the_nearer_deadline_goes_first_within_a_level() -> None:
    whenever, later, sooner = entry(), entry(deadline=9.0), entry(deadline=5.0)
    urgent_level = entry(level=-1)
    queue = queue_of(whenever, later, sooner, urgent_level)
    assert order(queue) == [urgent_level, sooner, later, whenever]


def test_shapes_do_not_share_a_group_and_the_most_urgent_group_comes_first() -> None:
    narrow, wide, urgent = entry(width=4), entry(width=8), entry(width=8, deadline=1.0)
    groups = [list(group.entries) for group in queue_of(narrow, wide, urgent).by_urgency()]
    assert groups == [[urgent, wide], [narrow]]


def test_a_dead_entry_makes_its_group_no_more_urgent() -> None:
    narrow, dead, wide = entry(width=4), entry(width=8, deadline=1.0), entry(width=8)
    queue = queue_of(narrow, dead, wide)
    dead.dead = True
    assert order(queue) == [narrow, wide]
    assert len(queue) == 2


def test_a_queue_of_shells_is_empty() -> None:
    one, other = entry(width=4), entry(width=8)
    queue = queue_of(one, other)
    one.dead = other.dead = True
    assert order(queue) == []
    assert len(queue) == 0
    single = queue_of(one)
    assert order(single) == []
    assert len(single) == 0


def test_an_expired_request_that_may_be_delayed_moves_behind_its_level() -> None:
    expired = entry(level=1, delays=True, expires=1.0, deadline=50.0)
    fresh = entry(level=1, delays=True, expires=9.0)
    below = entry(level=2)
    queue = queue_of(expired, fresh, below)
    queue.delay_expired(0.5)
    assert order(queue) == [expired, fresh, below]
    queue.delay_expired(1.0)
    assert order(queue) == [fresh, expired, below]


def test_delayed_requests_keep_their_order_and_are_not_moved_again() -> None:
    first = entry(delays=True, expires=2.0)
    second = entry(delays=True, expires=1.0)
    queue = queue_of(first, second)
    queue.delay_expired(1.5)
    assert order(queue) == [first, second]
    queue.delay_expired(2.5)
    assert order(queue) == [first, second]
    late = entry(delays=True, expires=9.0)
    queue.take_from(deque([late]))
    queue.delay_expired(3.0)
    assert order(queue) == [late, first, second]


entries = st.builds(
    entry,
    level=st.integers(1, 3),
    deadline=st.sampled_from([math.inf, 5.0, 9.0]),
    rows=st.integers(1, 5),
    width=st.sampled_from([4, 8, 16]),
    delays=st.booleans(),
    expires=st.sampled_from([math.inf, 1.0, 3.0]),
)


@given(st.lists(st.one_of(entries, st.integers(0, 3)), max_size=40), st.data())
def test_nothing_is_lost_or_doubled(steps: list[Pending | int], data: st.DataObject) -> None:
    queue = RequestQueue()
    waiting: list[Pending] = []
    taken: list[Pending] = []
    for now, step in enumerate(steps):
        if isinstance(step, Pending):
            queue.take_from(deque([step]))
            waiting.append(step)
            continue
        queue.delay_expired(float(now) / 8)
        is_cancelled = data.draw(st.booleans())
        if waiting and is_cancelled:
            waiting[data.draw(st.integers(0, len(waiting) - 1))].dead = True
        for group in queue.by_urgency():
            decision = next_step(group.entries, BatchPolicy(max_rows=4), 0.0)
            assert isinstance(decision, RunBatch)
            batch = [each for each in group.drop(decision.count) if not each.dead]
            assert batch
            assert len({each.form.signature for each in batch}) == 1
            taken += batch
            waiting = [each for each in waiting if each not in batch]
            break
    left = [each for each in order(queue) if not each.dead]
    assert sorted(map(id, left)) == sorted(id(each) for each in waiting if not each.dead)
    assert len({id(each) for each in taken}) == len(taken)


@given(st.lists(entries, min_size=1, max_size=30))
def test_the_first_entry_of_the_first_group_is_the_most_urgent_of_all(
    waiting: list[Pending],
) -> None:
    queue = queue_of(*waiting)
    keys = [(each.level, each.deadline, number) for number, each in enumerate(waiting)]
    first = next(iter(queue.by_urgency())).entries[0]
    assert first is waiting[min(keys)[2]]


@given(st.lists(st.sampled_from([4, 8, 16]), min_size=1, max_size=30))
def test_no_shape_starves_behind_newer_requests_of_other_shapes(widths: list[int]) -> None:
    """The oldest request always runs next, however many others of another shape keep coming."""
    first = entry(width=2)
    queue = queue_of(first)
    for width in widths:
        queue.take_from(deque([entry(width=width)]))
    assert next(iter(queue.by_urgency())).entries == [first]


@given(st.lists(entries, max_size=12), st.lists(entries, max_size=3), st.integers(1, 12))
def test_what_fits_into_one_batch_is_taken_without_an_order_and_all_else_is_queued(
    coming: list[Pending], waiting: list[Pending], max_rows: int
) -> None:
    queue, inbox = queue_of(*waiting), deque(coming)
    taken = queue.take_all(inbox, max_rows)
    if taken is None:
        assert (
            not coming
            or waiting
            or sum(each.rows for each in coming) > max_rows
            or shapes(coming) > 1
        )
        queue.take_from(inbox)
        assert order(queue) == order(queue_of(*waiting, *coming))
    else:
        assert taken == coming
        assert not waiting
        assert len(taken) == 1 or sum(each.rows for each in taken) <= max_rows
        assert shapes(taken) == 1
        assert len(queue) == 0


def test_a_queue_whose_batches_have_left_takes_all_at_once_again() -> None:
    queue = queue_of(entry())
    (group,) = queue.by_urgency()
    group.drop(1)
    fresh = entry()
    assert queue.take_all(deque([fresh]), 4) == [fresh]


RUN = RunTime(one=1.0, full=2.0, rows=4)


def test_what_a_run_would_answer_too_late_is_left_out_while_others_would_be_in_time() -> None:
    late, timely, whenever = entry(deadline=1.5), entry(deadline=5.0), entry()
    queue = queue_of(late, timely, whenever)
    (group,) = queue.by_urgency()
    group.drop_hopeless(0.0, RUN)
    assert group.entries == [timely, whenever]


def test_what_would_all_be_late_is_run_all_the_same() -> None:
    entries = [entry(deadline=0.1), entry(deadline=0.2)]
    (group,) = queue_of(*entries).by_urgency()
    group.drop_hopeless(0.0, RUN)
    assert group.entries == entries


def test_a_request_that_only_moves_back_when_it_is_late_is_not_left_out() -> None:
    delayed, timely = entry(deadline=1.5, delays=True), entry(deadline=5.0)
    (group,) = queue_of(delayed, timely).by_urgency()
    group.drop_hopeless(0.0, RUN)
    assert group.entries == [delayed, timely]


def test_how_late_a_run_ends_depends_on_its_rows_and_not_on_its_requests() -> None:
    late, timely = entry(deadline=1.9, rows=3), entry(deadline=5.0)
    (group,) = queue_of(late, timely).by_urgency()
    group.drop_hopeless(0.0, RUN)  # 4 rows take 2 s, 2 rows 1.3 s
    assert group.entries == [timely]


def test_who_could_hardly_be_in_time_is_left_out_only_where_another_takes_the_place() -> None:
    hardly, timely, third = entry(deadline=2.5, rows=2), entry(deadline=5.0), entry(rows=2)
    (group,) = queue_of(hardly, timely).by_urgency()
    group.drop_hopeless(0.0, RUN)  # 3 rows take 1.7 s, and hardly ever 2.5
    assert group.entries == [hardly, timely]
    (group,) = queue_of(hardly, timely, third).by_urgency()
    group.drop_hopeless(0.0, RUN)  # a row of 5 must wait for the next run
    assert group.entries == [timely, third]


@pytest.mark.parametrize("rows", [1, 4])
def test_a_group_whose_requests_have_all_ended_meanwhile_says_nothing(rows: int) -> None:
    ended = entry(deadline=1.0)
    (group,) = queue_of(ended).by_urgency()
    ended.dead = True
    group.drop_hopeless(0.0, RunTime(one=1.0, full=2.0, rows=rows))
    assert group.entries == [ended]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=9), st.floats(0, 10))
def test_leaving_out_never_leaves_nothing(deadlines: list[float], now: float) -> None:
    (group,) = queue_of(*[entry(deadline=each) for each in deadlines]).by_urgency()
    group.drop_hopeless(now, RUN)
    assert group.entries
    kept = [each.deadline for each in group.entries]
    assert kept == sorted(deadlines)[len(deadlines) - len(kept) :]
