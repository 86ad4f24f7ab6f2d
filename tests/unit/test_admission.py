"""Who may wait: every bound, and the predicted wait."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.admission import MAX_QUEUED_ROWS, Admission, Refused, ServerBudget
from stoker.engine.cost_curve import CostCurve
from stoker.engine.forecast import RunningNow, RunSizes
from stoker.errors import ErrorCode
from stoker.model import DynamicBatching, ModelVersion, QueuePolicy
from stoker.telemetry.statistics import RefusalReason

IDENTITY = ModelVersion("m", 3)
LINEAR = CostCurve((rows, (2 + rows) / 1000) for rows in (1, 2, 4, 8))
IDLE = RunningNow(0.0, 1)
BATCHED = RunSizes(8, 8)
ALONE = RunSizes(1, 8)


def admission(
    batching: DynamicBatching | None = None, *, max_bytes: int = 1000, server_bytes: int = 10_000
) -> Admission:
    return Admission(IDENTITY, batching, ServerBudget(server_bytes), max_bytes=max_bytes)


def with_policy(policy: QueuePolicy) -> Admission:
    return admission(DynamicBatching(default_queue_policy=policy))


def fill(at: Admission, count: int, *, level: int = 0, rows: int = 1, nbytes: int = 10) -> None:
    for _ in range(count):
        at.admit(level=level, rows=rows, nbytes=nbytes)
        at.add(level=level, rows=rows, nbytes=nbytes, weight=1)


def judge(
    at: Admission,
    *,
    queue_timeout: float = math.inf,
    time_left: float = math.inf,
    level: int = 0,
    curve: CostCurve = LINEAR,
    running: RunningNow = IDLE,
    sizes: RunSizes = BATCHED,
    rows: int = 1,
) -> None:
    at.refuse_if_late(
        level=level,
        rows=rows,
        queue_timeout=queue_timeout,
        time_left=time_left,
        curve=curve,
        sizes=sizes,
        running=running,
    )


def test_a_full_level_refuses_the_next_request() -> None:
    at = with_policy(QueuePolicy(max_queue_size=2))
    fill(at, 2, rows=5)
    with pytest.raises(Refused, match="the queue of 'm' v3 is full: 2 requests wait") as caught:
        at.admit(level=0, rows=1, nbytes=0)
    assert caught.value.reason is RefusalReason.QUEUE_FULL
    assert caught.value.code is ErrorCode.OVERLOADED


def test_levels_are_bounded_one_by_one() -> None:
    at = admission(
        DynamicBatching(
            priority_levels=2,
            default_priority_level=2,
            priority_queue_policies={1: QueuePolicy(max_queue_size=1)},
        )
    )
    fill(at, 1, level=1)
    fill(at, 5, level=2)
    with pytest.raises(Refused):
        at.admit(level=1, rows=1, nbytes=0)
    at.remove(level=1, rows=1, nbytes=10, weight=1)
    at.admit(level=1, rows=1, nbytes=0)


def test_the_rows_of_an_unbounded_queue_are_bounded_all_the_same() -> None:
    at = admission()
    at.admit(level=0, rows=MAX_QUEUED_ROWS + 1, nbytes=0)
    fill(at, 1, rows=MAX_QUEUED_ROWS - 1)
    at.admit(level=0, rows=1, nbytes=0)
    with pytest.raises(Refused, match="the request has 2") as caught:
        at.admit(level=0, rows=2, nbytes=0)
    assert caught.value.reason is RefusalReason.QUEUE_FULL


def test_the_shells_of_a_queue_that_nobody_clears_are_bounded() -> None:
    at = admission()
    at.admit(level=0, rows=1, nbytes=0, shells=MAX_QUEUED_ROWS - 1)
    with pytest.raises(Refused, match="wait to be taken or cleared"):
        at.admit(level=0, rows=1, nbytes=0, shells=MAX_QUEUED_ROWS)


def test_the_bytes_of_a_model_and_of_the_server_are_bounded() -> None:
    at = admission(max_bytes=100, server_bytes=150)
    fill(at, 1, nbytes=80)
    with pytest.raises(Refused, match="the queue of 'm' v3 is full: 80 bytes wait") as caught:
        at.admit(level=0, rows=1, nbytes=30)
    assert caught.value.reason is RefusalReason.QUEUE_BYTES


def test_the_server_is_full_when_its_models_are_together() -> None:
    budget = ServerBudget(100)
    one, other = (Admission(IDENTITY, None, budget, max_bytes=90) for _ in range(2))
    fill(one, 1, nbytes=80)
    with pytest.raises(Refused, match="the server's queues are full: 80 bytes wait"):
        other.admit(level=0, rows=1, nbytes=30)
    one.remove(level=0, rows=1, nbytes=80, weight=1)
    other.admit(level=0, rows=1, nbytes=30)


def test_one_request_larger_than_all_bounds_is_taken_by_an_empty_queue() -> None:
    admission(max_bytes=10, server_bytes=10).admit(level=0, rows=1, nbytes=1000)


def test_a_priority_means_its_level_or_the_default_level() -> None:
    at = admission(DynamicBatching(priority_levels=3, default_priority_level=2))
    assert [at.level(priority) for priority in (0, 1, 3, 4)] == [2, 1, 3, 2]
    assert admission().level(5) == 0


@pytest.mark.parametrize(
    ("default", "override", "requested", "seconds"),
    [
        (0, False, 7, math.inf),
        (50, False, 7, 50e-6),
        (50, True, 7, 7e-6),
        (50, True, 70, 50e-6),
        (50, True, 0, 50e-6),
        (0, True, 7, 7e-6),
    ],
)
def test_a_request_may_shorten_its_timeout_where_the_policy_allows_it(
    default: int, override: bool, requested: int, seconds: float
) -> None:
    policy = QueuePolicy(default_timeout_us=default, allow_timeout_override=override)
    assert with_policy(policy).timeout(0, requested) == pytest.approx(seconds)


def test_the_predicted_wait_is_the_rest_of_the_run_and_the_batches_ahead() -> None:
    at = admission()
    fill(at, 20)  # two batches of 8 and one of 4: 10 + 10 + 6 ms
    wait = at.predicted_wait(level=0, curve=LINEAR, sizes=BATCHED, running=RunningNow(0.004, 1))
    assert wait == pytest.approx(0.030)
    shared = at.predicted_wait(
        level=0, curve=LINEAR, sizes=BATCHED, running=RunningNow(0.0, 2, 0.5)
    )
    assert shared == pytest.approx(0.026)


def test_the_wait_for_requests_that_run_alone_counts_their_runs() -> None:
    at = admission()
    fill(at, 10, rows=8)
    wait = at.predicted_wait(level=0, curve=LINEAR, sizes=ALONE, running=IDLE)
    assert wait == pytest.approx(10 * 0.010)
    fill(at, 10, rows=2)  # 5 rows each on average, and costs are a line
    wait = at.predicted_wait(level=0, curve=LINEAR, sizes=ALONE, running=IDLE)
    assert wait == pytest.approx(10 * 0.010 + 10 * 0.004)
    at.remove(level=0, rows=2, nbytes=10, weight=1)
    wait = at.predicted_wait(level=0, curve=LINEAR, sizes=ALONE, running=IDLE)
    assert wait == pytest.approx(10 * 0.010 + 9 * 0.004, rel=0.1)


def test_runs_that_have_company_take_longer_by_what_was_measured() -> None:
    at = admission()
    fill(at, 16)
    two = RunningNow(0.0, 2, slowdown=1.5)
    wait = at.predicted_wait(level=0, curve=LINEAR, sizes=BATCHED, running=two)
    assert wait == pytest.approx(2 * 0.010 * 1.5 / 2)


def test_a_request_in_parts_is_judged_by_all_of_them() -> None:
    at = admission()
    fill(at, 8)  # 10 ms ahead
    judge(at, rows=32, time_left=0.050 / 1.2 + 1e-9)
    with pytest.raises(Refused):
        judge(at, rows=32, time_left=0.050 / 1.2 - 1e-9)
    judge(at, rows=32, time_left=0.025 / 1.2 + 1e-9, running=RunningNow(0.0, 2))


def test_a_request_past_its_deadline_has_expired_and_is_not_told_to_retry() -> None:
    at = admission()
    fill(at, 80)
    judge(at, time_left=-0.001)
    judge(at, time_left=0.0)


def test_lower_levels_do_not_count_as_ahead() -> None:
    at = admission(DynamicBatching(priority_levels=2, default_priority_level=2))
    fill(at, 8, level=1)
    fill(at, 8, level=2)
    waits = [
        at.predicted_wait(level=level, curve=LINEAR, sizes=BATCHED, running=IDLE)
        for level in (1, 2)
    ]
    assert waits == pytest.approx([0.010, 0.020])


def test_a_request_that_would_be_late_is_refused_with_the_time_to_retry() -> None:
    at = admission()
    fill(at, 80)  # 100 ms ahead, and 3 ms for its own run
    judge(at, time_left=0.090)
    with pytest.raises(Refused, match="predicted wait 100 ms, the request allows 80 ms") as caught:
        judge(at, time_left=0.080)
    assert caught.value.reason is RefusalReason.PREDICTED_LATE
    assert caught.value.retry_after == pytest.approx(0.05)
    with pytest.raises(Refused) as caught:
        judge(at, time_left=0.010)
    assert caught.value.retry_after == pytest.approx(0.093)


def test_a_queue_timeout_bounds_the_wait_and_not_the_run() -> None:
    at = admission()
    fill(at, 80)
    judge(at, queue_timeout=0.100 / 1.2 + 1e-9)
    with pytest.raises(Refused):
        judge(at, queue_timeout=0.083)


def test_nobody_is_refused_without_a_limit_a_queue_or_a_measured_cost() -> None:
    at = admission()
    judge(at, time_left=0.0001, running=RunningNow(9.0, 1))  # nothing is queued
    fill(at, 80)
    judge(at)
    judge(at, time_left=0.0001, curve=CostCurve())


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(0, 99), st.integers(0, 1)),
        max_size=30,
    )
)
def test_what_was_added_and_removed_leaves_nothing(
    waiting: list[tuple[int, int, int, int]],
) -> None:
    budget = ServerBudget(10)
    at = Admission(IDENTITY, None, budget, max_bytes=10)
    for level, rows, nbytes, weight in waiting:
        at.add(level=level, rows=rows, nbytes=nbytes, weight=weight)
    assert at.rows == sum(rows for _, rows, _, _ in waiting)
    assert budget.queued_bytes == at.bytes == sum(nbytes for _, _, nbytes, _ in waiting)
    for level, rows, nbytes, weight in reversed(waiting):
        at.remove(level=level, rows=rows, nbytes=nbytes, weight=weight)
    assert (at.rows, at.bytes, budget.queued_bytes) == (0, 0, 0)
    assert not any(at.rows_by_level.values())
    assert not any(at.requests_by_level.values())
    assert not any(at.entries_by_level.values())
