"""How large batches are while a backlog lasts: clients in a loop and overload get large ones, a
burst never, and near deadlines end it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.backlog import Backlog
from stoker.engine.scheduler import BatchPolicy

POLICY = BatchPolicy(1, sustained_rows=8)
LONG_S = 8.0
"""A run of eight rows; one of one row takes a second: what large batches gain decides nothing."""


@dataclass
class Entry:
    rows: int = 1
    deadline: float = math.inf
    dead: bool = False


def ones(count: int) -> list[Entry]:
    return [Entry() for _ in range(count)]


class Group:
    """What waits of one shape, and an executor that takes as it is told."""

    def __init__(self, policy: BatchPolicy = POLICY) -> None:
        self.policy = policy
        self.backlog = Backlog()
        self.waiting: list[Entry] = []
        self.arrived = 0
        self.taken: list[int] = []
        """Requests of each batch."""

    def add(self, entries: Sequence[Entry]) -> None:
        self.arrived += len(entries)
        self.waiting += entries

    def rows(self, *, known: bool = True) -> int:
        return self.backlog.rows(
            self.waiting,
            self.policy,
            arrived=self.arrived,
            answered=LONG_S if known else math.inf,
        )

    def take(self) -> int:
        """How many were taken."""
        count = min(len(self.waiting), self.rows() or self.policy.max_rows)
        del self.waiting[:count]
        self.taken.append(count)
        return count


@given(st.integers(1, 200))
def test_a_burst_is_run_one_after_the_other_whatever_its_size(size: int) -> None:
    group = Group()
    group.add(ones(size))
    while group.waiting:
        group.take()
    assert group.taken == [1] * size


def closed_loop(clients: int, takes: int) -> list[int]:
    """Batches of clients that send again when they are answered: while the next batch runs."""
    group, answered = Group(), 0
    group.add(ones(clients))
    for _ in range(takes):
        coming, answered = answered, group.take()
        group.add(ones(coming))
    return group.taken


@pytest.mark.parametrize("clients", [16, 17, 32, 100])
def test_clients_in_a_loop_that_fill_two_batches_get_large_ones(clients: int) -> None:
    assert closed_loop(clients, 30) == [1] * 9 + [8] * 21


@pytest.mark.parametrize(("clients", "size"), [(4, 2), (6, 2), (7, 2), (8, 4), (12, 4), (14, 4)])
def test_fewer_clients_in_a_loop_get_batches_that_they_can_fill(clients: int, size: int) -> None:
    taken = closed_loop(clients, 400)[20:]
    assert taken.count(size) > 0.7 * len(taken)
    assert min(taken) >= 1
    assert max(taken) <= 2 * size


def test_two_clients_in_a_loop_are_run_as_they_come() -> None:
    assert closed_loop(2, 100) == [1] * 100


def test_more_clients_in_a_loop_get_larger_batches_after_a_while() -> None:
    group, answered = Group(), 0
    group.add(ones(8))
    for turn in range(60):
        coming, answered = answered, group.take()
        group.add(ones(coming + (24 if turn == 30 else 0)))
    assert set(group.taken[20:30]) <= {2, 4}
    assert group.taken[40:] == [8] * 20


def test_under_overload_batches_are_large_as_soon_as_enough_have_come() -> None:
    group = Group()
    for _ in range(40):
        group.add(ones(10))
        group.take()
    assert group.taken == [1] + [8] * 39


def test_a_batch_is_never_as_small_as_what_is_taken_anyway() -> None:
    group = Group(BatchPolicy(4, sustained_rows=8))
    group.add(ones(7))
    assert not group.rows()
    group.add(ones(8))
    del group.waiting[7:]
    assert not group.rows()


def test_what_dies_in_the_queue_is_no_backlog() -> None:
    group = Group()
    group.add(ones(20))
    assert not group.rows()
    group.add(ones(8))
    for entry in group.waiting[1:]:
        entry.dead = True
    assert not group.rows()


def test_a_take_that_sees_next_to_nothing_begins_anew() -> None:
    group = loaded()
    assert group.rows() == 8
    kept, group.waiting = group.waiting, ones(1)
    assert not group.rows()
    group.waiting = kept
    assert not group.rows()
    group.add(ones(7))
    assert not group.rows()
    group.add(ones(1))
    assert group.rows() == 8


def test_a_take_that_sees_less_is_remembered_for_a_window_and_the_next() -> None:
    group = loaded()
    assert group.rows() == 8
    kept, group.waiting = group.waiting, ones(5)
    assert group.rows() == 4
    group.waiting = kept
    assert group.rows() == 4
    group.add(ones(8))  # the window in which it was ends
    assert group.rows() == 4
    group.add(ones(8))
    assert group.rows() == 8


def test_rows_are_counted_that_wait_and_requests_that_come() -> None:
    group = Group()
    group.add([Entry(rows=4), Entry(rows=4)])
    assert not group.rows()
    group.add([Entry(rows=4) for _ in range(7)])
    assert not group.rows()
    group.add([Entry(rows=4)])
    assert group.rows() == 8


def loaded(*deadlines: float) -> Group:
    """A backlog that lasts, with such deadlines in front."""
    group = Group()
    group.add(ones(8))
    assert not group.rows()
    group.add(ones(8))
    group.waiting = [*[Entry(deadline=each) for each in deadlines], *group.waiting]
    group.arrived += len(deadlines)
    return group


def test_nobody_is_made_late_by_a_large_batch() -> None:
    assert loaded(LONG_S).rows() == 8
    near = loaded(LONG_S - 0.1)
    assert not near.rows()
    del near.waiting[0]
    assert not near.rows()  # and the next window is the first


def test_a_deadline_behind_the_batch_does_not_matter() -> None:
    group = loaded()
    group.waiting[8].deadline = 0.5
    assert group.rows() == 8
    group.waiting[7].deadline = 0.5
    assert not group.rows()


def test_a_deadline_of_the_dead_does_not_matter() -> None:
    group = loaded(0.5)
    group.waiting[0].dead = True
    assert group.rows() == 8


def test_where_no_cost_is_known_whoever_has_a_deadline_is_not_kept() -> None:
    assert loaded().rows(known=False) == 8
    assert not loaded(1e9).rows(known=False)


def test_with_several_instances_enough_must_wait_for_each() -> None:
    group = Group(BatchPolicy(1, sustained_rows=8, instances=2))
    group.add(ones(15))
    assert not group.rows()
    group.add(ones(8))
    assert group.rows() == 4  # fifteen waited
    group.add(ones(8))
    assert group.rows() == 8
