"""Who is served first, who is refused and who is late: priority levels and queue policies."""

import pytest

from tests.calls import (
    Call,
    Connect,
    GrpcClient,
    ServeFake,
    occupy,
    on_both_protocols,
    rows,
    send_each,
    values_of,
    wait_for_queued,
)
from tests.fake_runtime import FakeRuntime
from tests.stopwatch import Stopwatch

# Priorities and queue policies
ONE_BY_ONE = """
max_batch_size: 1
dynamic_batching {{ {} }}
"""


@on_both_protocols
def test_levels_are_served_strictly_in_order_and_no_level_means_the_default(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    config = ONE_BY_ONE.format("priority_levels: 3 default_priority_level: 2")
    server = serve_fake(config)
    with connect(server.at) as client:
        calls = [occupy(client, runtime)]
        for number, priority in enumerate([3, 0, 1, 2, 1, 9], start=1):
            calls.append(client.send("m", {"x": rows(number)}, priority=priority))
            wait_for_queued(server, number)
        runtime.release()
        for call in calls:
            call.answer().output()
    assert [values_of(run) for run in runtime.runs] == [[0], [3], [5], [2], [4], [6], [1]]


def test_of_one_level_the_nearest_deadline_is_served_first(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake(ONE_BY_ONE.format(""))
    with GrpcClient(server.at) as client:
        calls: list[Call] = [occupy(client, runtime)]
        for number, deadline_s in enumerate([None, 50.0, 40.0], start=1):
            calls.append(client.send("m", {"x": rows(number)}, deadline_s=deadline_s))
            wait_for_queued(server, number)
        runtime.release()
        for call in calls:
            call.answer().output()
    assert [values_of(run) for run in runtime.runs] == [[0], [3], [2], [1]]


@on_both_protocols
def test_a_full_queue_refuses_at_once(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    config = ONE_BY_ONE.format("default_queue_policy { max_queue_size: 2 }")
    server = serve_fake(config)
    with connect(server.at) as client:
        first = occupy(client, runtime)
        queued = send_each(client, [1, 2], server)
        refused = client.send("m", {"x": rows(3)}).answer()
        assert refused.status == connect.statuses["OVERLOADED"]
        assert "max_queue_size is 2" in refused.error
        runtime.release()
        for call in (first, *queued):
            call.answer().output()
    at = server.at
    assert at.metric("stoker_requests_refused_total", model="m", reason="queue_full") == 1
    assert at.metric("nv_inference_request_failure", model="m", reason="REJECTED") == 1


@on_both_protocols
def test_a_full_queue_says_when_to_come_again_once_the_cost_is_known(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    runtime.model.seconds = lambda rows: 0.02
    config = ONE_BY_ONE.format("default_queue_policy { max_queue_size: 3 }")
    server = serve_fake(config, profile_seconds=1.0)
    with connect(server.at) as client:
        occupy(client, runtime)
        send_each(client, [1, 2, 3], server)
        refused = client.send("m", {"x": rows(4)}).answer()
        runtime.release()
    assert refused.status == connect.statuses["OVERLOADED"]
    assert refused.retry_after is not None
    assert 0.06 <= refused.retry_after <= 1  # three runs; whole seconds on REST


@on_both_protocols
def test_each_level_has_its_own_queue_policy(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    config = ONE_BY_ONE.format(
        "priority_levels: 2 default_priority_level: 2 default_queue_policy { max_queue_size: 2 } "
        "priority_queue_policy { key: 1 value { max_queue_size: 1 } }"
    )
    server = serve_fake(config)
    with connect(server.at) as client:
        calls = [occupy(client, runtime)]
        for number, priority in enumerate([1, 2, 2], start=1):
            calls.append(client.send("m", {"x": rows(number)}, priority=priority))
            wait_for_queued(server, number)
        for priority in (1, 2):
            refused = client.send("m", {"x": rows(9)}, priority=priority).answer()
            assert refused.status == connect.statuses["OVERLOADED"]
        runtime.release()
        for call in calls:
            call.answer().output()


@on_both_protocols
def test_a_request_that_waits_too_long_is_rejected(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    config = ONE_BY_ONE.format(
        "default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 20000 }"
    )
    clock = Stopwatch()
    server = serve_fake(config, clock=clock)
    with connect(server.at) as client:
        first = occupy(client, runtime)
        clock.start()
        late = client.send("m", {"x": rows(1)}).answer()
        assert late.status == connect.statuses["DEADLINE_EXCEEDED"]
        assert "its queue timeout" in late.error
        runtime.release()
        first.answer().output()  # a timeout of the queue does not bind a run
    assert [values_of(run) for run in runtime.runs] == [[0]]
    assert server.at.metric("nv_inference_request_failure", reason="REJECTED") == 1


@on_both_protocols
def test_a_delayed_request_goes_behind_all_others_and_never_fails(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    config = ONE_BY_ONE.format(
        "default_queue_policy { timeout_action: DELAY allow_timeout_override: true }"
    )
    server = serve_fake(config)
    with connect(server.at) as client:
        calls = [occupy(client, runtime)]
        for number, timeout_us in enumerate([1, 0, 60_000_000], start=1):
            calls.append(client.send("m", {"x": rows(number)}, timeout_us=timeout_us))
            wait_for_queued(server, number)
        runtime.release()
        for call in calls:
            call.answer().output()
    assert [values_of(run) for run in runtime.runs] == [[0], [2], [3], [1]]


@on_both_protocols
@pytest.mark.parametrize(
    ("default_us", "allowed", "requested_us", "is_rejected"),
    [
        (0, True, 10_000, True),
        (60_000_000, True, 10_000, True),
        (10_000, True, 60_000_000, True),
        (0, False, 10_000, False),
        (60_000_000, False, 10_000, False),
    ],
    ids=["sets", "shortens", "cannot lengthen", "not allowed", "not allowed to shorten"],
)
def test_a_request_may_shorten_its_timeout_where_the_policy_allows_it(
    serve_fake: ServeFake,
    runtime: FakeRuntime,
    connect: Connect,
    default_us: int,
    allowed: bool,
    requested_us: int,
    is_rejected: bool,
) -> None:
    config = ONE_BY_ONE.format(
        f"default_queue_policy {{ default_timeout_microseconds: {default_us} "
        f"allow_timeout_override: {str(allowed).lower()} }}"
    )
    clock = Stopwatch()
    server = serve_fake(config, clock=clock)
    with connect(server.at) as client:
        first = occupy(client, runtime)
        clock.start()
        call = client.send("m", {"x": rows(1)}, timeout_us=requested_us)
        if is_rejected:
            assert call.answer().status == connect.statuses["DEADLINE_EXCEEDED"]
            runtime.release()
        else:
            wait_for_queued(server, 1)
            runtime.release()
            call.answer().output()
        first.answer().output()
