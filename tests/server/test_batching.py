"""Requests that pile up while a model runs form one batch; how it is cut follows config.pbtxt."""

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from stoker.tensor import Array, DataType, TensorSpec

from tests import models
from tests.calls import (
    BATCHING,
    Call,
    Connect,
    GrpcClient,
    RestClient,
    ServeFake,
    occupy,
    on_both_protocols,
    rows,
    send_each,
    statistics,
    values_of,
    wait_for_queued,
)
from tests.conftest import Serving
from tests.fake_runtime import FakeModel, FakeRuntime

SHORT_S = 0.5
"""Bound for what should take a few milliseconds, on a machine that does other things as well."""


@on_both_protocols
def test_requests_that_pile_up_during_a_run_form_one_batch(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake()
    with connect(server.at) as client:
        first = occupy(client, runtime)
        later = send_each(client, [1, 2, 3, 4, 5], server)
        runtime.release()
        answers = [call.answer().output() for call in (first, *later)]
    assert [values_of(run) for run in runtime.runs] == [[0], [1, 2, 3, 4, 5]]
    for value, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, rows(2 * value))


def test_statistics_and_metrics_tell_of_batches(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with RestClient(server.at) as client:
        first = occupy(client, runtime)
        later = [client.send("m", {"x": rows(1, 2)}), client.send("m", {"x": rows(3)})]
        wait_for_queued(server, 2)
        runtime.release()
        for call in (first, *later):
            call.answer().output()
    counted = statistics(server)
    assert (counted.success_count, counted.inference_count, counted.execution_count) == (3, 4, 2)
    assert {rows: batch.count for rows, batch in counted.batches.items()} == {1: 1, 3: 1}
    at = server.at
    assert at.metric("nv_inference_request_success", model="m", version="1") == 3
    assert at.metric("nv_inference_count", model="m", version="1") == 4
    assert at.metric("nv_inference_exec_count", model="m", version="1") == 2
    assert at.metric("stoker_batch_rows_count", model="m") == 2
    assert at.metric("stoker_batch_rows_sum", model="m") == 4
    assert at.metric("stoker_batch_rows_bucket", model="m", le="1.0") == 1
    assert at.metric("stoker_batch_rows_bucket", model="m", le="4.0") == 2
    assert at.metric("stoker_batches_total", model="m", reason="idle") == 2


def test_a_running_request_does_not_count_as_pending(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    with RestClient(server.at) as client:
        occupy(client, runtime)
        assert server.at.metric("nv_inference_pending_request_count", model="m") == 0
        assert server.at.metric("stoker_model_requests_in_flight", model="m") == 1
        runtime.release()


@on_both_protocols
def test_a_lone_request_runs_at_once(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake()
    with connect(server.at) as client:
        client.send("m", {"x": rows(1)}).answer()  # starts the thread
        runtime.forget()
        client.send("m", {"x": rows(7)}).answer()
    assert [values_of(run) for run in runtime.runs] == [[7]]
    assert statistics(server).queue_ns / 2 < SHORT_S * 1e9


def test_a_batch_takes_rows_up_to_the_limit_and_never_cuts_a_request(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    sizes = [3, 3, 3, 5, 8, 1]
    with RestClient(server.at) as client:
        first = occupy(client, runtime)
        calls = []
        for number, size in enumerate(sizes, start=1):
            calls.append(client.send("m", {"x": rows(*[number] * size)}))
            wait_for_queued(server, number)
        runtime.release()
        answers = [call.answer().output() for call in (first, *calls)][1:]
    assert [run.rows for run in runtime.runs] == [1, 6, 8, 8, 1]
    for number, (size, answer) in enumerate(zip(sizes, answers, strict=True), start=1):
        np.testing.assert_array_equal(answer, rows(*[2 * number] * size))


def test_a_request_above_the_limit_is_run_in_parts_and_answered_as_one(
    serve_fake: ServeFake,
) -> None:
    server = serve_fake()
    given = np.arange(20 * 4, dtype=np.float32).reshape(20, 4)
    with GrpcClient(server.at) as client:
        answer = client.send("m", {"x": given}).answer().output()
    np.testing.assert_array_equal(answer, given * 2)
    counted = statistics(server)
    assert (counted.success_count, counted.inference_count) == (1, 20)
    assert max(counted.batches) <= 8
    assert (counted.in_flight, counted.pending) == (0, 0)


def test_a_request_above_the_limit_is_refused_where_splitting_is_off(serve_fake: ServeFake) -> None:
    config = BATCHING + ('parameters { key: "split_oversized" value { string_value: "off" } }\n')
    server = serve_fake(config)
    with RestClient(server.at) as client:
        answer = client.send("m", {"x": rows(*range(9))}).answer()
    assert answer.status == "400"
    assert "max_batch_size 8" in answer.error


def test_thirty_two_clients_of_a_slow_model_fill_batches(serve: Serving, tmp_path: Path) -> None:
    model = models.slow(width=768, depth=64)  # a run outlasts the sending of several requests
    repository = models.write_repository(
        tmp_path / "repository",
        {"slow": models.ModelEntry(model, "max_batch_size: 32\ndynamic_batching { }\n")},
    )
    (tmp_path / "alone").mkdir()
    session = models.open_on_cpu(tmp_path / "alone", model)
    server = serve(repository)
    clients, rounds = 32, 10
    given = np.random.default_rng(5).standard_normal((clients, 1, 768)).astype(np.float32)
    answers = []
    with RestClient(server.at) as connections:
        calls = [connections.send("slow", {"x": each}) for each in given]
        for last in range(clients * rounds):  # each client sends again when it has its answer
            answers.append(calls[last].answer().output())
            if len(calls) < clients * rounds:
                calls.append(connections.send("slow", {"x": given[len(calls) % clients]}))
    (expected,) = session.run({"x": given.reshape(clients, 768)}, ["y"])
    np.testing.assert_allclose(
        np.array(answers).reshape(rounds, clients, 768),
        np.broadcast_to(expected, (rounds, clients, 768)),
        atol=1e-4,
    )
    counted = statistics(server, "slow")
    assert counted.success_count == clients * rounds
    assert counted.infer_ns / counted.compute_count >= 1e6, "the run must take at least 1 ms"
    assert counted.inference_count / counted.execution_count > 4
    at = server.at
    in_metrics = at.metric("nv_inference_count") / at.metric("nv_inference_exec_count")
    assert in_metrics == counted.inference_count / counted.execution_count


def of_any_length() -> FakeModel:
    return FakeModel(
        inputs=(TensorSpec("x", DataType.FP32, (-1, -1)),),
        outputs=(TensorSpec("y", DataType.FP32, (-1, -1)),),
    )


def test_requests_of_different_shapes_form_batches_of_their_own(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    runtime.model = of_any_length()
    server = serve_fake()
    widths = [2, 3, 2, 3, 2]
    with RestClient(server.at) as client:
        first = occupy(client, runtime)
        calls = []
        for number, width in enumerate(widths, start=1):
            calls.append(client.send("m", {"x": rows(number, width=width)}))
            wait_for_queued(server, number)
        runtime.release()
        answers = [call.answer().output() for call in (first, *calls)][1:]
    shapes = [run.feeds["x"].shape for run in runtime.runs]
    assert shapes == [(1, 4), (3, 2), (2, 3)]
    for number, (width, answer) in enumerate(zip(widths, answers, strict=True), start=1):
        np.testing.assert_array_equal(answer, rows(2 * number, width=width))


def two_outputs(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    return {"twice": feeds["x"] * 2, "less": feeds["x"] - 1}


@on_both_protocols
def test_each_request_of_a_batch_gets_the_outputs_it_asked_for(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    runtime.model = FakeModel(
        outputs=(
            TensorSpec("twice", DataType.FP32, (-1, 4)),
            TensorSpec("less", DataType.FP32, (-1, 4)),
            TensorSpec("unwanted", DataType.FP32, (-1, 4)),
        ),
        compute=lambda feeds: {**two_outputs(feeds), "unwanted": feeds["x"]},
    )
    server = serve_fake()
    with connect(server.at) as client:
        first = occupy(client, runtime)
        wishes = [("less",), ("twice",), ("less", "twice")]
        calls = []
        for number, wish in enumerate(wishes, start=1):
            calls.append(client.send("m", {"x": rows(number)}, outputs=wish))
            wait_for_queued(server, number)
        runtime.release()
        answers = [call.answer() for call in calls]
        assert list(first.answer().outputs) == ["twice", "less", "unwanted"]
    for number, (wish, answer) in enumerate(zip(wishes, answers, strict=True), start=1):
        assert tuple(answer.outputs) == wish
        for name, output in answer.outputs.items():
            np.testing.assert_array_equal(output, two_outputs({"x": rows(number)})[name])
    together = runtime.runs[1]
    assert together.rows == 3
    assert set(together.outputs) == {"twice", "less"}


def test_a_preferred_size_is_sent_without_waiting_for_the_delay(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    config = (
        "max_batch_size: 8\n"
        "dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 60000000 }\n"
    )
    server = serve_fake(config)
    runtime.forget()
    with RestClient(server.at) as client:
        calls = send_each(client, [1, 2, 3], server)
        calls.append(client.send("m", {"x": rows(4)}))
        for call in calls:
            call.answer().output()
    assert [values_of(run) for run in runtime.runs] == [[1, 2, 3, 4]]
    assert server.at.metric("stoker_batches_total", reason="preferred") == 1


def test_a_batch_goes_out_as_it_is_when_the_delay_is_over(serve_fake: ServeFake) -> None:
    delay_us = 50_500
    config = f"max_batch_size: 8\ndynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}\n"
    server = serve_fake(config)
    with RestClient(server.at) as client:
        client.send("m", {"x": rows(1)}).answer().output()
    counted = statistics(server)
    assert delay_us * 1000 <= counted.queue_ns < (delay_us / 1e6 + SHORT_S) * 1e9
    assert server.at.metric("stoker_batches_total", reason="delay") == 1


def test_a_full_batch_does_not_wait_for_the_delay(serve_fake: ServeFake) -> None:
    config = "max_batch_size: 4\ndynamic_batching { max_queue_delay_microseconds: 60000000 }\n"
    server = serve_fake(config)
    with RestClient(server.at) as client:
        client.send("m", {"x": rows(1, 2, 3, 4)}).answer().output()
    assert server.at.metric("stoker_batches_total", reason="full") == 1


def test_without_dynamic_batching_in_the_file_a_model_of_batch_size_one_runs_requests_alone(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake("max_batch_size: 1\n")
    with RestClient(server.at) as client:
        first = occupy(client, runtime)
        later = send_each(client, [1, 2, 3], server)
        runtime.release()
        for call in (first, *later):
            call.answer().output()
    assert [values_of(run) for run in runtime.runs] == [[0], [1], [2], [3]]


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
    server = serve_fake(config)
    with connect(server.at) as client:
        first = occupy(client, runtime)
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
    server = serve_fake(config)
    with connect(server.at) as client:
        first = occupy(client, runtime)
        call = client.send("m", {"x": rows(1)}, timeout_us=requested_us)
        if is_rejected:
            assert call.answer().status == connect.statuses["DEADLINE_EXCEEDED"]
            runtime.release()
        else:
            wait_for_queued(server, 1)
            runtime.release()
            call.answer().output()
        first.answer().output()


# Instances and threads


class Gates:
    """A model's computation that stops until the test opens the gate of a row's value."""

    def __init__(self) -> None:
        self._gates: dict[float, threading.Event] = {}

    def close(self, *values: float) -> None:
        self._gates.update({value: threading.Event() for value in values})

    def open(self, value: float) -> None:
        self._gates[value].set()

    def compute(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        for row in feeds["x"]:
            gate = self._gates.get(float(row[0]))
            assert gate is None or gate.wait(30), "the gate was never opened"
        return {"y": feeds["x"] * 2}


def two_instances(ordered: bool) -> str:
    return (
        "max_batch_size: 1\ninstance_group [ { count: 2 kind: KIND_CPU } ]\n"
        f"dynamic_batching {{ preserve_ordering: {str(ordered).lower()} }}\n"
    )


def test_two_instances_run_at_the_same_time_and_the_faster_answers_first(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    gates = Gates()
    runtime.model.compute = gates.compute
    server = serve_fake(two_instances(ordered=False))
    gates.close(1, 2)
    runtime.forget()
    with RestClient(server.at) as client:
        slow, fast = client.send("m", {"x": rows(1)}), client.send("m", {"x": rows(2)})
        runtime.wait_for_run(2)
        gates.open(2)
        np.testing.assert_array_equal(fast.answer().output(), rows(4))
        assert not slow.is_answered
        gates.open(1)
        slow.answer().output()
    assert len({run.thread for run in runtime.runs}) == 2


def test_with_preserve_ordering_a_slow_batch_holds_back_the_answers_of_later_ones(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    gates = Gates()
    runtime.model.compute = gates.compute
    server = serve_fake(two_instances(ordered=True))
    gates.close(1, 2, 3)
    runtime.forget()
    with RestClient(server.at) as client:
        slow = client.send("m", {"x": rows(1)})
        runtime.wait_for_run(1)
        fast = client.send("m", {"x": rows(2)})
        runtime.wait_for_run(2)
        third = client.send("m", {"x": rows(3)})
        wait_for_queued(server, 1)
        gates.open(2)
        runtime.wait_for_run(3)  # the fast instance goes on: its outcome is with the loop
        assert statistics(server).success_count == 0
        assert not fast.is_answered
        gates.open(1)
        slow.answer().output()
        fast.answer().output()
        gates.open(3)
        third.answer().output()


def two_models(folder: Path) -> Path:
    return models.write_repository(
        folder / "repository",
        {name: models.ModelEntry(b"fake", BATCHING) for name in ("a", "b")},
    )


def test_models_of_long_runs_do_not_wait_for_each_other(serve: Serving, tmp_path: Path) -> None:
    runtime = FakeRuntime(FakeModel(seconds=lambda rows: 0.002))
    server = serve(two_models(tmp_path), runtime=runtime, profile_seconds=0.5)
    runtime.forget()
    runtime.hold()
    with RestClient(server.at) as client:
        calls = [client.send(name, {"x": rows(1)}) for name in ("a", "b")]
        try:
            runtime.wait_for_run(2)
        finally:
            runtime.release()
        for call in calls:
            call.answer().output()
    assert {run.thread for run in runtime.runs} == {"a-1-0", "b-1-0"}


def test_models_of_short_runs_share_one_thread_or_run_on_the_loop(
    serve: Serving, tmp_path: Path
) -> None:
    runtime = FakeRuntime()
    server = serve(two_models(tmp_path), runtime=runtime, profile_seconds=0.5)
    runtime.forget()
    with RestClient(server.at) as client:
        calls = [client.send(name, {"x": rows(1)}) for name in ("a", "b") for _ in range(4)]
        for call in calls:
            call.answer().output()
    assert {run.thread for run in runtime.runs} <= {"shared-cpu", "server"}
    assert {run.session for run in runtime.runs} == set(runtime.sessions)
