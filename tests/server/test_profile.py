"""What the server knows of a model's cost is true: the curve, the batch limit that follows from it,
the wait it predicts, the demand it reports, and whether rows may share a batch at all."""

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import pytest

from tests import models
from tests.calls import (
    Call,
    Client,
    GrpcClient,
    RestClient,
    fake_repository,
    occupy,
    rows,
    send_each,
    statistics,
    values_of,
)
from tests.conftest import RunningServer, Serving
from tests.fake_runtime import FakeModel, FakeRuntime, double
from tests.recording_runtime import RecordingRuntime, all_at_once

PROFILE_S = 10.0
LIMIT = 128
"""The largest batch that a knee may ask for."""


def cost(size: int) -> float:
    """l(b) = 2 + b ms."""
    return (2 + size) / 1000


def knee() -> int:
    """The power of two from which doubling the rows gives less than 10 % more rows a second."""
    size = 1
    while 2 * size <= LIMIT and 2 * cost(size) / cost(2 * size) >= 1.1:
        size *= 2
    return size


class TrueCost:
    """What runs of the fake model really cost: a test may multiply it while it serves."""

    def __init__(self) -> None:
        self.factor = 1.0
        self.began: list[float] = []
        """time.monotonic() of the begin of each run."""

    def seconds(self, size: int) -> float:
        """`FakeModel.seconds`."""
        return self.factor * cost(size)

    def compute(self, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """`FakeModel.compute`: a run has begun."""
        self.began.append(time.monotonic())
        return double(feeds)

    def spend(self, seconds: float) -> None:
        """`FakeRuntime`'s sleep, to some microseconds: awake at its end, since sleeps end late."""
        end = time.monotonic() + seconds
        time.sleep(max(0.0, seconds - 0.0005))
        while time.monotonic() < end:
            pass


QUIET: Final = 1.05
"""Runs that took longer than this many times their cost were disturbed by other work on the
machine. They do cost more then, and the server is right to say so; but no longer what the test
knows. Such measurements are made again."""
BETWEEN_S: Final = 0.001
"""Seconds between two runs that are no disturbance: the executor splits one batch and assembles the
next meanwhile, some 0.5 ms of Python on a slow core."""
BUSY: Final = "the machine is too busy with something else to measure anything on it"


def mean_run_seconds(server: RunningServer, size: int, since: tuple[int, int] = (0, 0)) -> float:
    """Of the runs of so many rows as the server timed them, after the (count, ns) of `since`."""
    count, spent = timed(server, size)
    return (spent - since[1]) / 1e9 / (count - since[0])


def timed(server: RunningServer, size: int) -> tuple[int, int]:
    """Number of runs of so many rows, and their nanoseconds."""
    batch = statistics(server).batches.get(size)
    return (0, 0) if batch is None else (batch.count, batch.infer_ns)


def points(server: RunningServer) -> dict[int, float]:
    return dict(server.on_loop(lambda each: each.engine.served("m").costs.usual.points()))


def waits(
    server: RunningServer, runtime: FakeRuntime, true: TrueCost, client: Client
) -> tuple[float, float, float]:
    """Fills the queue behind a held run. Gives what the next request's wait is said to be, what it
    is, and what it were if next to nothing but the model took time."""
    first = occupy(client, runtime)
    ahead = [*send_each(client, range(1, 81), server), first]
    predicted = server.on_loop(
        lambda each: each.engine.served("m").predicted_wait(time.monotonic())
    )
    assert predicted is not None
    (probe,) = send_each(client, [1000], server)
    true.began.clear()
    released = time.monotonic()
    runtime.release()
    for call in (*ahead, probe):
        call.answer().output()
    in_turn = next(place for place, run in enumerate(runtime.runs) if 1000 in values_of(run))
    needed = sum(true.seconds(run.rows) + BETWEEN_S for run in runtime.runs[:in_turn])
    return predicted, true.began[in_turn] - released, needed


def assert_wait_is_predicted(
    server: RunningServer, runtime: FakeRuntime, true: TrueCost, client: Client
) -> None:
    """The predicted wait is within 20 % of the real one."""
    was_quiet = True  # a disturbed time before it would have taught the server another cost
    for _ in range(10):
        predicted, real, needed = waits(server, runtime, true, client)
        is_quiet = real < QUIET * needed
        if is_quiet and was_quiet:
            assert predicted == pytest.approx(real, rel=0.2)
            return
        was_quiet = is_quiet
    pytest.skip(BUSY)


def run_twenty_batches(server: RunningServer, true: TrueCost, client: Client) -> None:
    """Of one row each."""
    for _ in range(10):
        before = timed(server, 1)
        for _ in range(20):
            client.send("m", {"x": rows(1)}).answer().output()
        if mean_run_seconds(server, 1, since=before) < QUIET * true.seconds(1):
            return
    pytest.skip(BUSY)


@pytest.mark.alone
def test_curve_knee_and_predicted_wait_are_true_and_follow_a_change_of_cost(
    serve: Serving, tmp_path: Path
) -> None:
    true = TrueCost()
    runtime = FakeRuntime(FakeModel(compute=true.compute, seconds=true.seconds), sleep=true.spend)
    server = serve(fake_repository(tmp_path, ""), runtime=runtime, profile_seconds=PROFILE_S)
    measured = points(server)
    assert list(measured) == [1, 2, 4, 8, 16, 32, 64, 128]
    for size, seconds in measured.items():
        assert seconds == pytest.approx(cost(size), rel=0.1)
    assert knee() == 16
    assert server.at.metric("stoker_model_batch_limit_rows", model="m") == knee()
    per_row = server.at.metric("stoker_model_row_seconds", model="m")
    assert per_row == pytest.approx(cost(knee()) / knee(), rel=0.1)

    with RestClient(server.at) as client:
        try:
            assert_wait_is_predicted(server, runtime, true, client)
            true.factor = 2.0
            run_twenty_batches(server, true, client)
            for size, seconds in points(server).items():
                assert seconds == pytest.approx(2 * cost(size), rel=0.1)
            assert_wait_is_predicted(server, runtime, true, client)
        finally:
            runtime.release()


RUN_S: Final = 0.02
"""A run of the models below, of any size."""
TWO_INSTANCES: Final = (
    "max_batch_size: 4\ndynamic_batching { }\ninstance_group [ { count: 2 kind: KIND_CPU } ]\n"
)


@pytest.mark.alone
@pytest.mark.parametrize("is_shared", [True, False], ids=["one after the other", "both at once"])
def test_the_predicted_wait_of_two_instances_knows_what_their_device_does_at_once(
    serve: Serving, tmp_path: Path, is_shared: bool
) -> None:
    true, one = TrueCost(), threading.Lock()

    def spend(seconds: float) -> None:
        with one if is_shared else nullcontext():
            true.spend(seconds)

    model = FakeModel(compute=true.compute, seconds=lambda size: RUN_S)
    runtime = FakeRuntime(model, sleep=spend)
    repository = fake_repository(tmp_path, TWO_INSTANCES)
    server = serve(repository, runtime=runtime, profile_seconds=1.0)
    needed = 20 * (RUN_S + BETWEEN_S) / (1 if is_shared else 2)
    with RestClient(server.at) as client:
        for _ in range(10):
            held = [occupy(client, runtime), client.send("m", {"x": rows(0)})]
            runtime.wait_for_run(2)
            ahead = send_each(client, range(1, 81), server)
            predicted = server.on_loop(
                lambda each: each.engine.served("m").predicted_wait(time.monotonic())
            )
            (probe,) = send_each(client, [1000], server)
            true.began.clear()
            released = time.monotonic()
            runtime.release()
            for call in (*held, *ahead, probe):
                call.answer().output()
            in_turn = next(at for at, run in enumerate(runtime.runs) if 1000 in values_of(run))
            real = true.began[in_turn] - released
            if real < QUIET * (needed + 2 * (RUN_S + BETWEEN_S)):
                assert predicted == pytest.approx(real, rel=0.2)
                return
        pytest.skip(BUSY)


@pytest.mark.alone
@pytest.mark.slow
def test_an_open_loop_of_twice_the_capacity_shows_as_a_demand_of_two(
    serve: Serving, tmp_path: Path
) -> None:
    true = TrueCost()
    runtime = FakeRuntime(FakeModel(compute=true.compute, seconds=true.seconds), sleep=true.spend)
    config = "max_batch_size: 16\ndynamic_batching { default_queue_policy { max_queue_size: 4 } }\n"
    server = serve(fake_repository(tmp_path, config), runtime=runtime, profile_seconds=PROFILE_S)
    at = server.at
    limit = int(at.metric("stoker_model_batch_limit_rows", model="m"))
    every = cost(limit) / 2  # full batches at twice the rate at which they can be run
    given = {"x": np.ones((limit, 4), np.float32)}
    begin = time.monotonic()
    with GrpcClient(at) as client:
        calls: list[Call] = []
        while (passed := time.monotonic() - begin) < 7.0:
            if passed < len(calls) * every:
                time.sleep(len(calls) * every - passed)  # open loop: at its times, answered or not
            calls.append(client.send("m", given))
        in_5_s = at.metric("stoker_demand_ratio_5s")
        in_30_s = at.metric("stoker_demand_ratio")
        of_model = at.metric("stoker_model_demand", model="m")
        statuses = {call.answer().status for call in calls}
    assert statuses == {"OK", "RESOURCE_EXHAUSTED"}
    if mean_run_seconds(server, limit) > QUIET * cost(limit):
        pytest.skip(BUSY)
    assert 1.9 <= in_5_s <= 2.1
    assert 1.9 <= in_30_s <= 2.1
    assert 1.9 <= of_model <= 2.1
    assert at.metric("stoker_demand_ratio_5s") <= in_5_s


def test_demand_is_zero_when_idle_and_absent_before_anything_is_measured(
    serve: Serving, runtime: FakeRuntime, tmp_path: Path
) -> None:
    unmeasured = serve(fake_repository(tmp_path / "a", ""), runtime=runtime)
    assert "\nstoker_demand_ratio " not in unmeasured.at.metrics()
    assert "\nstoker_model_demand{" not in unmeasured.at.metrics()
    measured = serve(fake_repository(tmp_path / "b", ""), runtime=runtime, profile_seconds=0.2)
    assert 'stoker_model_demand{model="m",version="1"} 0' in measured.at.metrics()
    assert 'stoker_device_demand{device="cpu"} 0' in measured.at.metrics()


# The proof of independence, by what it leads to

EXPLICIT = "max_batch_size: 8\ndynamic_batching { }\n"
REQUESTS = 24

DEPENDENT = {
    "softmax over the rows": models.softmax_over_rows(),
    "mean over the rows": models.mean_over_rows(),
    "running sum down the rows": models.previous_row(),
}


def requests_of(width: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(3)
    sizes = random.integers(1, 4, REQUESTS)
    return [{"x": random.standard_normal((size, width)).astype(np.float32)} for size in sizes]


def verdict(log: pytest.LogCaptureFixture) -> tuple[str, str]:
    """The verdict that the server logged, and at which level."""
    (record,) = [
        each for each in log.records if getattr(each, "stoker_event", "") == "batching_proof"
    ]
    fields: dict[str, str] = getattr(record, "stoker_fields", {})
    return fields["verdict"], record.levelname


def piled_up(
    serve: Serving, folder: Path, model: onnx.ModelProto, config: str | None, width: int
) -> tuple[RecordingRuntime, bool]:
    """Serves requests that come all at once: what was run, and whether every answer was that of
    its request alone."""
    entry = models.ModelEntry(model, config)
    repository = models.write_repository(folder / "repository", {"m": entry})
    runtime = RecordingRuntime()
    server = serve(repository, runtime=runtime)
    requests = requests_of(width)
    answers = all_at_once(server, runtime, requests)
    session = models.open_on_cpu(folder, model)
    alone = [session.run(request, ["y"])[0] for request in requests]
    session.close()
    return runtime, all(
        np.allclose(answer.output(), expected, rtol=1e-5, atol=1e-5)
        for answer, expected in zip(answers, alone, strict=True)
    )


@pytest.mark.parametrize("config", [EXPLICIT, None], ids=["explicit batching", "no config"])
@pytest.mark.parametrize("model", DEPENDENT.values(), ids=DEPENDENT)
def test_a_model_that_mixes_rows_runs_each_request_alone_and_answers_right(
    serve: Serving,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    model: onnx.ModelProto,
    config: str | None,
) -> None:
    caplog.set_level(logging.DEBUG, "stoker")
    runtime, is_right = piled_up(serve, tmp_path, model, config, width=4)
    assert verdict(caplog) == ("dependent", "WARNING")
    assert len(runtime.runs) == REQUESTS
    assert is_right


def test_a_model_that_keeps_state_runs_each_request_alone(
    serve: Serving, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "stoker")
    # ONNX Runtime updates the moments from run to run: no answer is right but the first.
    runtime, _ = piled_up(serve, tmp_path, models.batch_norm_training(), EXPLICIT, width=4)
    assert verdict(caplog) == ("dependent", "WARNING")
    assert len(runtime.runs) == REQUESTS


def test_a_request_above_the_limit_of_a_model_that_mixes_rows_is_refused_not_split(
    serve: Serving, tmp_path: Path
) -> None:
    entry = models.ModelEntry(models.softmax_over_rows(), EXPLICIT)
    server = serve(models.write_repository(tmp_path / "repository", {"m": entry}))
    with RestClient(server.at) as client:
        answer = client.send("m", {"x": rows(*range(9))}).answer()
    assert answer.status == "400"
    assert "max_batch_size 8" in answer.error


def test_a_model_of_independent_rows_is_batched_and_answers_right(
    serve: Serving, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "stoker")
    runtime, is_right = piled_up(serve, tmp_path, models.mlp(), None, width=4)
    assert verdict(caplog) == ("independent", "DEBUG")
    assert len(runtime.runs) < REQUESTS
    assert is_right


def test_a_dynamically_quantised_model_is_batched_with_a_warning(
    serve: Serving, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "stoker")
    runtime, _ = piled_up(serve, tmp_path, models.dynamic_quantized(), None, width=16)
    assert verdict(caplog) == ("approximate", "WARNING")
    assert len(runtime.runs) < REQUESTS


@pytest.mark.parametrize(
    ("model", "width"), [(models.dropout(), 16), (models.noisy(), 4)], ids=["dropout", "noise"]
)
def test_a_random_model_is_unproven_and_batched_as_configured(
    serve: Serving,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    model: onnx.ModelProto,
    width: int,
) -> None:
    caplog.set_level(logging.DEBUG, "stoker")
    runtime, _ = piled_up(serve, tmp_path, model, EXPLICIT, width)
    assert verdict(caplog)[0] == "unproven"
    assert len(runtime.runs) < REQUESTS


def test_the_proof_can_be_switched_off(
    serve: Serving, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "stoker")
    off = EXPLICIT + 'parameters { key: "batching_proof" value { string_value: "off" } }\n'
    runtime, _ = piled_up(serve, tmp_path, models.mean_over_rows(), off, width=4)
    assert verdict(caplog)[0] == "unproven"
    assert len(runtime.runs) < REQUESTS
