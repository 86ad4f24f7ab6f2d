"""Too much work is refused at once, with a time to come back, and leaves no trace behind it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stoker.tensor import DataType, TensorSpec

from tests.calls import (
    Call,
    Client,
    Connect,
    GrpcClient,
    RestClient,
    ServeFake,
    fake_repository,
    occupy,
    on_both_protocols,
    rows,
    send_each,
    statistics,
    values_of,
    wait_for_in_flight,
    wait_for_queued,
)
from tests.conftest import FREE_PORTS, RunningServer, Serving
from tests.fake_runtime import FakeModel, FakeRuntime

RUN_S = 0.02
"""What a run costs at any size, as the server measures it at warm-up."""

ONE_BY_ONE = """
max_batch_size: 1
dynamic_batching { default_queue_policy { allow_timeout_override: true } }
parameters { key: "batching_proof" value { string_value: "off" } }
"""


def refused(server: RunningServer, reason: str) -> float:
    return server.at.metric("stoker_requests_refused_total", model="m", reason=reason)


def limited(client: Client, value: float, limit_s: float) -> Call:
    """A request that waits no longer than `limit_s`: by gRPC's deadline or REST's timeout."""
    if isinstance(client, GrpcClient):
        return client.send("m", {"x": rows(value)}, deadline_s=limit_s)
    return client.send("m", {"x": rows(value)}, timeout_us=round(limit_s * 1e6))


def measured(
    serve: Serving, runtime: FakeRuntime, folder: Path, config: str = ONE_BY_ONE
) -> RunningServer:
    """A server that believes that a run takes RUN_S, while in truth it takes no time."""
    runtime.model.seconds = lambda rows: RUN_S
    server = serve(fake_repository(folder, config), runtime=runtime, profile_seconds=2.0)
    runtime.model.seconds = None
    return server


@on_both_protocols
def test_a_request_that_is_predicted_to_be_late_is_refused_with_the_time_to_come_back(
    serve: Serving, runtime: FakeRuntime, tmp_path: Path, connect: Connect
) -> None:
    server = measured(serve, runtime, tmp_path)
    with connect(server.at) as client:
        calls = [occupy(client, runtime), *send_each(client, range(1, 101), server)]
        answer = limited(client, 999, 50 * RUN_S).answer()  # a hundred runs wait
        assert answer.status == connect.statuses["OVERLOADED"]
        assert "predicted wait" in answer.error
        assert answer.retry_after is not None
        in_whole_seconds = connect is RestClient
        assert 50 * RUN_S <= answer.retry_after <= 75 * RUN_S + in_whole_seconds
        in_time = limited(client, 101, 60.0)
        wait_for_queued(server, 101)
        runtime.release()
        for call in (*calls, in_time):
            call.answer().output()
    assert [999.0] not in [values_of(run) for run in runtime.runs]
    assert refused(server, "predicted_late") == 1


@on_both_protocols
def test_a_refusal_that_proves_wrong_is_counted_as_such(
    serve: Serving, runtime: FakeRuntime, tmp_path: Path, connect: Connect
) -> None:
    server = measured(serve, runtime, tmp_path)
    with connect(server.at) as client:
        calls = [occupy(client, runtime), *send_each(client, range(1, 200), server)]
        answer = limited(client, 999, 2.0).answer()  # 4 s of work wait, and take no time at all
        assert answer.status == connect.statuses["OVERLOADED"]
        runtime.release()
        for call in calls:
            call.answer().output()
    assert server.at.metric("stoker_requests_refused_wrongly_total", model="m") == 1


@on_both_protocols
def test_a_request_without_a_limit_is_never_refused_for_the_wait(
    serve: Serving, runtime: FakeRuntime, tmp_path: Path, connect: Connect
) -> None:
    server = measured(serve, runtime, tmp_path)
    with connect(server.at) as client:
        calls = [occupy(client, runtime), *send_each(client, range(1, 101), server)]
        runtime.release()
        for call in calls:
            call.answer().output()
    assert refused(server, "predicted_late") == 0


@on_both_protocols
def test_nobody_is_refused_for_a_wait_while_nothing_is_queued(
    serve: Serving, runtime: FakeRuntime, tmp_path: Path, connect: Connect
) -> None:
    server = measured(serve, runtime, tmp_path)
    with connect(server.at) as client:
        occupy(client, runtime)
        hopeful = limited(client, 1, RUN_S / 20)
        assert hopeful.answer().status == connect.statuses["DEADLINE_EXCEEDED"]
        runtime.release()
    assert refused(server, "predicted_late") == 0


@on_both_protocols
def test_nobody_is_refused_for_a_wait_that_was_never_measured(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake(ONE_BY_ONE)
    with connect(server.at) as client:
        calls = [occupy(client, runtime), *send_each(client, range(1, 101), server)]
        calls.append(limited(client, 101, 20.0))  # nobody knows whether it can be met
        wait_for_queued(server, 101)
        runtime.release()
        for call in calls:
            call.answer().output()
    assert refused(server, "predicted_late") == 0


def test_higher_levels_do_not_wait_for_lower_ones_in_the_prediction(
    serve: Serving, runtime: FakeRuntime, tmp_path: Path
) -> None:
    levels = "dynamic_batching { priority_levels: 2 default_priority_level: 2"
    config = ONE_BY_ONE.replace("dynamic_batching {", levels)
    server = measured(serve, runtime, tmp_path, config)
    with GrpcClient(server.at) as client:
        calls = [occupy(client, runtime), *send_each(client, range(1, 200), server)]
        late = client.send("m", {"x": rows(0)}, priority=2, deadline_s=2.0).answer()
        assert late.status == "RESOURCE_EXHAUSTED"
        urgent = client.send("m", {"x": rows(500)}, priority=1, deadline_s=2.0)
        wait_for_queued(server, 200)
        runtime.release()
        for call in (*calls, urgent):
            call.answer().output()
    assert values_of(runtime.runs[1]) == [500]


def test_the_rows_that_wait_for_one_model_are_bounded(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    config = "max_batch_size: 65536\ndynamic_batching { }\n"
    server = serve_fake(config)
    many = np.zeros((40_000, 4), np.float32)
    with RestClient(server.at) as client:
        first = occupy(client, runtime)
        queued = client.send("m", {"x": many})
        wait_for_queued(server, 1)
        answer = client.send("m", {"x": many}).answer()
        assert answer.status == "429"
        assert "40000 rows wait, the limit is 65536" in answer.error
        runtime.release()
        first.answer().output()
        queued.answer().output()
        client.send("m", {"x": many}).answer().output()
    assert refused(server, "queue_full") == 1


@on_both_protocols
def test_the_bytes_that_the_server_holds_are_bounded(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    runtime.model = FakeModel(
        inputs=(TensorSpec("x", DataType.FP32, (-1, -1)),),
        outputs=(TensorSpec("y", DataType.FP32, (-1, -1)),),
    )
    settings = replace(FREE_PORTS, max_buffered_bytes=1 << 20)
    config = "max_batch_size: 65536\ndynamic_batching { }\n"
    server = serve_fake(config, settings=settings)
    large = np.ones((10_000, 16), np.float32)  # 640 kB: two of them are too many
    with connect(server.at) as client:
        first = occupy(client, runtime)
        queued = client.send("m", {"x": large})
        wait_for_queued(server, 1)
        answer = client.send("m", {"x": large}).answer()
        assert answer.status == connect.statuses["OVERLOADED"]
        assert "bytes" in answer.error
        small = send_each(client, [1], server)
        runtime.release()
        for call in (first, queued, *small):
            call.answer().output()
        np.testing.assert_array_equal(client.send("m", {"x": large}).answer().output(), large * 2)


@on_both_protocols
@pytest.mark.parametrize("flood", [300])
def test_a_flood_is_answered_or_refused_and_service_goes_on_after_it(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect, flood: int
) -> None:
    config = "max_batch_size: 4\ndynamic_batching { default_queue_policy { max_queue_size: 16 } }\n"
    server = serve_fake(config)
    with connect(server.at) as client:
        occupied = occupy(client, runtime)
        calls = [client.send("m", {"x": rows(value)}) for value in range(flood)]
        wait_for_in_flight(server, 1 + 16)
        answers = [call.answer() for call in calls[16:]]
        runtime.release()
        occupied.answer().output()
        answers += [call.answer() for call in calls[:16]]
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {"OK", connect.statuses["OVERLOADED"]}
        assert statuses.count("OK") == 16
        for value, call in enumerate(calls):
            if call.answer().status == "OK":
                np.testing.assert_array_equal(call.answer().output(), rows(2 * value))
        for value in range(5):
            answer = client.send("m", {"x": rows(value)}).answer()
            np.testing.assert_array_equal(answer.output(), rows(2 * value))
    counted = statistics(server)
    assert (counted.in_flight, counted.pending) == (0, 0)
    assert refused(server, "queue_full") == flood - 16
