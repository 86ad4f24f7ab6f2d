"""Requests that pile up while a model runs form one batch; how it is cut follows config.pbtxt."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from stoker.tensor import Array, DataType, TensorSpec

from tests import models
from tests.calls import (
    BATCHING,
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
