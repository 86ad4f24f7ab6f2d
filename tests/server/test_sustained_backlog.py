"""A model that gains little by large batches: a burst is answered one by one, and clients that keep
it busy are run in large batches."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.calls import (
    Call,
    Connect,
    fake_repository,
    occupy,
    on_both_protocols,
    rows,
    send_each,
    statistics,
    values_of,
)
from tests.conftest import RunningServer, Serving
from tests.fake_runtime import FakeRuntime

CLIENTS = 32
LIMIT = 8
"""Rows of the smallest batch whose row costs next to what it costs in the best."""
PROFILE_S = 1.0


def cost(size: int) -> float:
    """A row costs 7 % more alone than in a batch of eight, from which on nothing is gained."""
    return 0.004 * size * {1: 1.07, 2: 1.06, 4: 1.05}.get(size, 1.0)


@pytest.fixture
def server(serve: Serving, runtime: FakeRuntime, tmp_path: Path) -> RunningServer:
    """The cost is measured at the load; then runs take no time."""
    runtime.model.seconds = cost
    server = serve(fake_repository(tmp_path, ""), runtime=runtime, profile_seconds=PROFILE_S)
    runtime.model.seconds = None
    if limits(server) != (1, LIMIT):
        pytest.skip("the machine is too busy with something else to measure anything on it")
    return server


def limits(server: RunningServer) -> tuple[float, float]:
    names = ("stoker_model_batch_limit_rows", "stoker_model_sustained_batch_limit_rows")
    small, large = (server.at.metric(name, model="m") for name in names)
    return small, large


def check(calls: Sequence[Call], values: Sequence[float]) -> None:
    for call, value in zip(calls, values, strict=True):
        np.testing.assert_array_equal(call.answer().output(), rows(2 * value))


@on_both_protocols
def test_a_burst_is_answered_one_by_one_in_its_order(
    server: RunningServer, runtime: FakeRuntime, connect: Connect
) -> None:
    with connect(server.at) as client:
        calls = [occupy(client, runtime), *send_each(client, range(1, CLIENTS), server)]
        for number, call in enumerate(calls):
            runtime.step()
            np.testing.assert_array_equal(call.answer().output(), rows(2 * number))
            assert not any(later.is_answered for later in calls[number + 1 :])
        runtime.release()
    assert [values_of(run) for run in runtime.runs] == [[value] for value in range(CLIENTS)]


@on_both_protocols
def test_clients_that_send_again_when_they_are_answered_are_run_in_large_batches(
    server: RunningServer, runtime: FakeRuntime, connect: Connect
) -> None:
    with connect(server.at) as client:
        calls = [occupy(client, runtime), *send_each(client, range(1, CLIENTS), server)]
        sent, batches = CLIENTS, 0
        while batches < 2 * LIMIT:
            begun = len(runtime.runs)
            answered, calls = calls[: runtime.runs[-1].rows], calls[runtime.runs[-1].rows :]
            runtime.step()
            check(answered, values_of(runtime.runs[-1]))
            runtime.wait_for_run(begun + 1)
            batches += 1
            calls += send_each(client, range(sent, sent + len(answered)), server)
            sent += len(answered)
        runtime.release()
        check(calls, range(sent - CLIENTS, sent))
    taken = [run.rows for run in runtime.runs][: batches + 1]
    assert taken == [1] * (LIMIT + 1) + [LIMIT] * LIMIT
    assert [value for run in runtime.runs for value in values_of(run)] == list(range(sent))
    assert statistics(server).success_count == sent
