"""One bad request, one bad run, one broken model: each harms nobody else."""

import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from stoker.errors import DeviceFailed, ExecutionFailed, OutOfMemory, ServingError
from stoker.tensor import Array

from tests import models
from tests.calls import (
    BATCHING,
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
from tests.conftest import RunningServer, Serving
from tests.fake_runtime import FakeClock, FakeModel, FakeRuntime

GUILTY = 13.0


def fails_on(*values: float) -> Callable[[Mapping[str, Array]], ServingError | None]:
    """A run fails when one of these values is among its rows."""

    def fail(feeds: Mapping[str, Array]) -> ServingError | None:
        if np.isin(feeds["x"][:, 0], values).any():
            return ExecutionFailed("index out of bounds")
        return None

    return fail


@on_both_protocols
@pytest.mark.parametrize("place", range(5))
def test_only_the_guilty_request_of_a_failing_batch_fails(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect, place: int
) -> None:
    server = serve_fake()
    runtime.model.fail = fails_on(GUILTY)
    values = [1.0, 2.0, 3.0, 4.0]
    values.insert(place, GUILTY)
    with connect(server.at) as client:
        occupy(client, runtime)
        calls = send_each(client, values, server)
        runtime.release()
        answers = [call.answer() for call in calls]
    for value, answer in zip(values, answers, strict=True):
        if value == GUILTY:
            assert answer.status == connect.statuses["EXECUTION_FAILED"]
            assert "index out of bounds" in answer.error
        else:
            np.testing.assert_array_equal(answer.output(), rows(2 * value))
    assert values_of(runtime.runs[1]) == values
    assert [GUILTY] in [values_of(run) for run in runtime.runs]
    at = server.at
    assert at.metric("nv_inference_request_failure", model="m", reason="BACKEND") == 1
    assert at.metric("stoker_batch_bisections_total", model="m") >= 2


def test_a_model_whose_failures_take_much_device_time_fails_batches_whole_and_retryably(
    serve: Serving, tmp_path: Path
) -> None:
    clock = FakeClock()  # a second of a busy machine would be over before the next batch
    runtime = FakeRuntime(clock=clock, sleep=clock.advance)
    server = serve(fake_repository(tmp_path, BATCHING), runtime=runtime, clock=clock)
    runtime.model.fail = fails_on(GUILTY)
    with RestClient(server.at) as client:
        try:
            occupy(client, runtime)
            first = send_each(client, [GUILTY, 1], server)
            runtime.step()
            runtime.wait_for_run(2)
            second = send_each(client, [GUILTY, 2], server)
            # More than 10 % of a second in one failing run.
            runtime.model.seconds = lambda rows: 0.15
        finally:
            runtime.release()
        assert [call.answer().status for call in first] == ["500", "OK"]
        answers = [call.answer() for call in second]
    assert [answer.status for answer in answers] == ["503", "503"]
    assert [answer.retry_after for answer in answers] == [1, 1]
    assert "may succeed when it is sent again" in answers[0].error


@on_both_protocols
def test_a_bad_request_is_refused_alone(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake()
    with connect(server.at) as client:
        occupy(client, runtime)
        calls = send_each(client, [1, 2], server)
        bad = [
            client.send("m", {"x": rows(1).astype(np.float64)}),
            client.send("m", {"x": rows(1, width=5)}),
            client.send("m", {"z": rows(1)}),
            client.send("m", {"x": rows(1)}, outputs=["z"]),
        ]
        assert [call.answer().status for call in bad] == [connect.statuses["INVALID_REQUEST"]] * 4
        assert statistics(server).pending == 2
        runtime.release()
        answers = [call.answer().output() for call in calls]
    np.testing.assert_array_equal(answers, [rows(2), rows(4)])
    assert server.at.metric("stoker_requests_refused_total", model="m", reason="invalid") == 4


def test_a_real_model_fails_only_the_request_whose_data_it_cannot_take(
    serve: Serving, tmp_path: Path
) -> None:
    entry = models.ModelEntry(models.fails_on_data(), BATCHING)
    server = serve(models.write_repository(tmp_path / "repository", {"m": entry}))
    with GrpcClient(server.at) as grpc, RestClient(server.at) as rest:
        calls = []
        for number in range(60):
            given = np.array([[99 if number % 10 == 9 else number % 4]])
            calls.append((given[0, 0], (grpc, rest)[number % 2].send("m", {"x": given})))
        for value, call in calls:
            answer = call.answer()
            if value == 99:
                assert answer.status in ("INTERNAL", "500", "UNAVAILABLE", "503")
                assert str(tmp_path) not in answer.error
            elif answer.status not in ("UNAVAILABLE", "503"):  # a whole batch may fail retryably
                np.testing.assert_array_equal(answer.output(), [[10 * (value + 1)]])
        np.testing.assert_array_equal(
            rest.send("m", {"x": np.array([[3]])}).answer().output(), [[40]]
        )


def two_models(folder: Path) -> Path:
    return models.write_repository(
        folder / "repository",
        {name: models.ModelEntry(b"fake", BATCHING) for name in ("m", "other")},
    )


def is_ready(server: RunningServer, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"{server.at.url}{path}", timeout=30) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False


@on_both_protocols
def test_a_broken_device_ends_every_request_of_its_model_and_readiness_but_no_other_model(
    serve: Serving, tmp_path: Path, connect: Connect
) -> None:
    broken = FakeModel()
    runtime = FakeRuntime(models={"m": broken})
    server = serve(two_models(tmp_path), runtime=runtime)
    assert server.at.probe("/readyz")[0] == 200
    with connect(server.at) as client:
        try:
            running = occupy(client, runtime)
            queued = send_each(client, range(1, 20), server)
            broken.fail = lambda feeds: DeviceFailed("CUDA error 700: illegal memory access")
        finally:
            runtime.release()
        for call in (running, *queued):
            answer = call.answer()
            assert answer.status == connect.statuses["DEVICE_FAILED"]
            assert "illegal memory access" in answer.error
        later = client.send("m", {"x": rows(1)}).answer()
        assert later.status == connect.statuses["MODEL_NOT_READY"]
        assert "illegal memory access" in later.error
        np.testing.assert_array_equal(
            client.send("other", {"x": rows(1)}).answer().output(), rows(2)
        )
    assert not is_ready(server, "/v2/models/m/ready")
    assert is_ready(server, "/v2/models/other/ready")
    status, reasons = server.at.probe("/readyz")
    assert status == 503
    assert "illegal memory access" in reasons
    assert server.at.probe("/livez")[0] == 200
    assert server.at.metric("stoker_model_ready", model="m") == 0


def out_of_memory_above(limit: int) -> Callable[[Mapping[str, Array]], ServingError | None]:
    def fail(feeds: Mapping[str, Array]) -> ServingError | None:
        if len(feeds["x"]) > limit:
            return OutOfMemory(f"{len(feeds['x'])} rows do not fit")
        return None

    return fail


@on_both_protocols
def test_a_batch_that_does_not_fit_into_memory_is_split_and_later_ones_are_smaller(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake()
    runtime.model.fail = out_of_memory_above(2)
    with connect(server.at) as client:
        for _ in range(2):
            occupied = occupy(client, runtime)
            calls = send_each(client, range(1, 9), server)
            runtime.release()
            occupied.answer().output()
            for value, call in enumerate(calls, start=1):
                np.testing.assert_array_equal(call.answer().output(), rows(2 * value))
    assert max(run.rows for run in runtime.runs) <= 2, "the second time nothing fails"
    assert server.at.metric("stoker_model_batch_limit_rows", model="m") <= 2
    assert sum(statistics(server).failures.values()) == 0


@on_both_protocols
def test_a_request_that_does_not_fit_even_alone_fails_alone(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake()
    runtime.model.fail = out_of_memory_above(2)
    with connect(server.at) as client:
        occupied = occupy(client, runtime)
        (small,) = send_each(client, [1], server)
        large = client.send("m", {"x": rows(1, 2, 3)})
        wait_for_queued(server, 2)
        runtime.release()
        assert large.answer().status == connect.statuses["OUT_OF_MEMORY"]
        np.testing.assert_array_equal(small.answer().output(), rows(2))
        occupied.answer().output()


@on_both_protocols
def test_a_run_that_ends_in_a_bug_is_answered_and_the_model_serves_on(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake()

    def stumble(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        raise RuntimeError("nobody foresaw this")

    compute = runtime.model.compute
    with connect(server.at) as client:
        runtime.model.compute = stumble
        answer = client.send("m", {"x": rows(1)}).answer()
        assert answer.status == connect.statuses["INTERNAL"]
        assert "nobody foresaw" not in answer.error
        runtime.model.compute = compute
        np.testing.assert_array_equal(client.send("m", {"x": rows(1)}).answer().output(), rows(2))
    wait_for_in_flight(server, 0)


@on_both_protocols
def test_a_model_that_answers_with_the_wrong_number_of_rows_fails_and_serves_on(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake()
    runtime.model.compute = lambda feeds: {"y": np.repeat(feeds["x"], 2, axis=0)}
    with connect(server.at) as client:
        answer = client.send("m", {"x": rows(1)}).answer()
    assert answer.status == connect.statuses["EXECUTION_FAILED"]
    assert "expected 1 rows first" in answer.error
    assert statistics(server).in_flight == 0
