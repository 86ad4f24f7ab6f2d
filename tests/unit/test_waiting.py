"""What is taken of one model: by the short way exactly what the ordered queue would give."""

import math
from collections.abc import Sequence
from typing import cast

from hypothesis import given
from hypothesis import strategies as st
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
