"""Deadlines hold: a request that cannot make its own is answered at that moment and never run."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from tests.calls import (
    Call,
    Client,
    Connect,
    GrpcClient,
    RestClient,
    ServeFake,
    occupy,
    on_both_protocols,
    rows,
    statistics,
    values_of,
    wait_for_in_flight,
    wait_for_queued,
)
from tests.conftest import RunningServer
from tests.fake_runtime import FakeRuntime

ONE_PLACE = """
max_batch_size: 8
dynamic_batching {
  default_queue_policy { max_queue_size: 1 allow_timeout_override: true }
}
"""
ANY_NUMBER = ONE_PLACE.replace("max_queue_size: 1", "")
LIMIT_S = 0.1
GENEROUS_S = 2.0
"""What a busy machine may add; the run ahead is held for longer."""

Send = Callable[[Client, float], Call]


def send_limited(client: Client, value: float, limit_s: float = LIMIT_S, size: int = 1) -> Call:
    """A request that is of no use after `limit_s`: by gRPC's deadline or REST's timeout."""
    inputs = {"x": rows(*[value] * size)}
    if isinstance(client, GrpcClient):
        return client.send("m", inputs, deadline_s=limit_s)
    return client.send("m", inputs, timeout_us=round(limit_s * 1e6))


def queued_bytes(server: RunningServer) -> int:
    return server.on_loop(lambda each: each.engine.served("m").admission.bytes)


@on_both_protocols
def test_a_deadline_behind_a_long_run_is_answered_when_it_passes_and_never_run(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake(ANY_NUMBER)
    with connect(server.at) as client:
        first = occupy(client, runtime)
        began = time.monotonic()
        answer = send_limited(client, 1).answer()
        took = time.monotonic() - began
        assert answer.status == connect.statuses["DEADLINE_EXCEEDED"]
        assert LIMIT_S * 0.95 <= took < LIMIT_S + GENEROUS_S
        wait_for_in_flight(server, 1)
        runtime.release()
        np.testing.assert_array_equal(first.answer().output(), rows(0))
        client.send("m", {"x": rows(2)}).answer().output()
    assert [values_of(run) for run in runtime.runs] == [[0], [2]]
    assert sum(statistics(server).failures.values()) == 1


@on_both_protocols
def test_an_expired_request_gives_back_its_place_and_bytes_at_once(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake(ONE_PLACE)
    with connect(server.at) as client:
        first = occupy(client, runtime)
        late = send_limited(client, 1, 0.5)
        wait_for_queued(server, 1)
        assert client.send("m", {"x": rows(2)}).answer().status == connect.statuses["OVERLOADED"]
        assert late.answer().status == connect.statuses["DEADLINE_EXCEEDED"]
        wait_for_queued(server, 0)
        assert queued_bytes(server) == 0
        next_one = client.send("m", {"x": rows(3)})
        wait_for_queued(server, 1)
        runtime.release()
        first.answer().output()
        np.testing.assert_array_equal(next_one.answer().output(), rows(6))
    assert [values_of(run) for run in runtime.runs] == [[0], [3]]


@on_both_protocols
def test_those_beside_an_expired_request_are_served(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake(ANY_NUMBER)
    with connect(server.at) as client:
        occupy(client, runtime)
        calls = [client.send("m", {"x": rows(1)})]
        wait_for_queued(server, 1)
        late = send_limited(client, 2)
        calls.append(client.send("m", {"x": rows(3)}))
        assert late.answer().status == connect.statuses["DEADLINE_EXCEEDED"]
        wait_for_queued(server, 2)
        runtime.release()
        answers = [call.answer().output() for call in calls]
    np.testing.assert_array_equal(answers, [rows(2), rows(6)])
    assert [values_of(run) for run in runtime.runs] == [[0], [1, 3]]


def test_a_deadline_that_passes_during_the_run_frees_the_request_at_once(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake(ANY_NUMBER)
    with GrpcClient(server.at) as client:
        runtime.hold()
        runtime.forget()
        late = client.send("m", {"x": rows(1)}, deadline_s=GENEROUS_S / 2)
        runtime.wait_for_run()
        assert late.answer().status == "DEADLINE_EXCEEDED"
        wait_for_in_flight(server, 0)
        runtime.release()
        np.testing.assert_array_equal(client.send("m", {"x": rows(2)}).answer().output(), rows(4))
    assert statistics(server).success_count == 1


def test_a_queue_timeout_does_not_end_a_run(serve_fake: ServeFake, runtime: FakeRuntime) -> None:
    server = serve_fake(ANY_NUMBER)
    with RestClient(server.at) as client:
        runtime.hold()
        runtime.forget()
        running = send_limited(client, 1, 0.5)
        runtime.wait_for_run()
        late = send_limited(client, 2, 0.7)  # passes later than the running one's
        assert late.answer().status == "504"
        runtime.release()
        running.answer().output()


@on_both_protocols
@pytest.mark.parametrize("config", [ANY_NUMBER, ONE_PLACE], ids=["unbounded", "one place"])
def test_an_expired_request_of_many_parts_is_one_request_and_no_part_runs(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect, config: str
) -> None:
    server = serve_fake(config)
    with connect(server.at) as client:
        first = occupy(client, runtime)
        late = send_limited(client, 1, size=30)
        assert late.answer().status == connect.statuses["DEADLINE_EXCEEDED"]
        wait_for_in_flight(server, 1)
        assert queued_bytes(server) == 0
        runtime.release()
        first.answer().output()
        client.send("m", {"x": rows(2)}).answer().output()
    assert [values_of(run) for run in runtime.runs] == [[0], [2]]
    assert sum(statistics(server).failures.values()) == 1
