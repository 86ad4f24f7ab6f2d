"""A faster session takes over while clients call: with real sessions, over real sockets."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from stoker.errors import DeviceFailed, Reach
from stoker.model import ModelConfig
from stoker.runtime.candidate import Candidate
from stoker.runtime.session import Placement, Session
from stoker.tensor import Array

from tests.calls import Connect, fake_repository, on_both_protocols, rows, wait_until
from tests.conftest import Endpoints, RunningServer, Serving, sample
from tests.fake_candidate import FakeCandidate
from tests.fake_runtime import FakeRuntime
from tests.models import mlp, scaled, write_model, write_repository
from tests.rest_call import get
from tests.upgrading_runtime import MOST_ROWS, UpgradingRuntime

NEARLY = 2.001
"""The candidate's factor; the model's own is 2. Near enough to be taken, and told apart."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "models", {"m": scaled(2.0)})


@pytest.fixture
def held(tmp_path: Path) -> Iterator[UpgradingRuntime]:
    """A runtime whose candidate multiplies by NEARLY and is not opened before the test says so."""
    runtime = UpgradingRuntime(write_model(tmp_path / "nearly.onnx", scaled(NEARLY)))
    runtime.may_open.clear()
    yield runtime
    runtime.may_open.set()


def details(at: Endpoints) -> list[str]:
    status, body = at.probe("/readyz")
    assert status == 200
    found: list[str] = json.loads(body).get("details", [])
    return found


def state(at: Endpoints) -> str:
    """What the metrics say of the candidate of `m`."""
    states = ("waiting", "building", "comparing", "serving", "failed", "stopped")
    scraped = at.metrics()
    (present,) = [
        each for each in states if sample(scraped, "stoker_tensorrt_state", model="m", state=each)
    ]
    return present


def wait_for(server: RunningServer, wanted: str) -> None:
    wait_until(lambda: state(server.at) == wanted, f"a candidate that is {wanted}")


def factor(made: Array, given: Array) -> float:
    (found,) = {round(float(each), 4) for each in (made / given).ravel()}
    return found


@on_both_protocols
def test_clients_are_answered_all_through_the_swap_first_by_one_session_then_by_the_other(
    serve: Serving, repository: Path, held: UpgradingRuntime, connect: Connect
) -> None:
    server = serve(repository, runtime=held)
    seen: set[float] = set()
    problems: list[str] = []
    ended = threading.Event()

    def call(seed: int) -> None:
        with connect(server.at) as client:
            number = seed
            while not ended.is_set():
                given = rows(*range(number % 7 + 1, number % 7 + 1 + number % MOST_ROWS + 1))
                answer = client.send("m", {"x": given}).answer()
                if answer.status != "OK":
                    problems.append(answer.error)
                    return
                seen.add(factor(answer.output(), given))
                number += 1

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert held.is_opening.wait(30)
        wait_until(lambda: seen == {2.0}, "answers of the first session")
        assert state(server.at) == "building"
        (said,) = details(server.at)
        assert said.startswith("model 'm' v1: TensorRT: building ")
        held.may_open.set()
        wait_for(server, "serving")
        seen.clear()
        wait_until(lambda: bool(seen), "answers behind the swap")
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not problems
    with connect(server.at) as client:
        assert factor(client.send("m", {"x": rows(3)}).answer().output(), rows(3)) == NEARLY
    assert details(server.at) == ["model 'm' v1: TensorRT: ready, differs by 0.0005"]
    assert server.at.metric("stoker_tensorrt_cache_misses_total", model="m") == 1


@on_both_protocols
def test_a_batch_that_the_faster_session_does_not_cover_runs_in_the_first_one(
    serve: Serving, repository: Path, held: UpgradingRuntime, connect: Connect
) -> None:
    held.may_open.set()
    (repository / "m" / "config.pbtxt").write_text("max_batch_size: 8")
    server = serve(repository, runtime=held)
    wait_for(server, "serving")
    with connect(server.at) as client:
        most, more = rows(*range(1, MOST_ROWS + 1)), rows(*range(1, MOST_ROWS + 2))
        assert factor(client.send("m", {"x": most}).answer().output(), most) == NEARLY
        assert factor(client.send("m", {"x": more}).answer().output(), more) == 2


def test_the_same_model_without_optimisation_is_proved_and_takes_over(
    serve: Serving, tmp_path: Path
) -> None:
    repository = write_repository(tmp_path / "models", {"m": mlp()})
    server = serve(repository, runtime=UpgradingRuntime())
    wait_for(server, "serving")
    (said,) = details(server.at)
    assert "TensorRT: ready, differs by " in said
    described = get(server.at, "/v2/models/m").json()
    assert described["stoker_faster"].startswith("TensorRT: ready, differs by ")
    assert [each["device"] for each in described["stoker_devices"]] == ["cpu", "cpu"]


@on_both_protocols
def test_a_session_that_computes_something_else_never_answers_a_client(
    serve: Serving, repository: Path, tmp_path: Path, connect: Connect
) -> None:
    runtime = UpgradingRuntime(write_model(tmp_path / "wrong.onnx", scaled(2.5)))
    server = serve(repository, runtime=runtime)
    wait_for(server, "failed")
    with connect(server.at) as client:
        assert factor(client.send("m", {"x": rows(3)}).answer().output(), rows(3)) == 2
    (said,) = details(server.at)
    assert "TensorRT: failed: output 'y' differs by 0.2 of its greatest value" in said


def test_a_session_that_cannot_be_opened_leaves_the_model_serving_and_says_why(
    serve: Serving, repository: Path, tmp_path: Path
) -> None:
    runtime = UpgradingRuntime(write_model(tmp_path / "broken.onnx", b"no model"))
    server = serve(repository, runtime=runtime)
    wait_for(server, "failed")
    (said,) = details(server.at)
    assert "ONNX Runtime cannot open 'broken.onnx'" in said
    assert server.at.metric("stoker_model_ready", model="m") == 1


def test_a_model_that_may_have_none_serves_without_one_and_the_details_say_why(
    serve: Serving, repository: Path
) -> None:
    runtime = UpgradingRuntime(refusal="declare the sizes of 'sequence'")
    server = serve(repository, runtime=runtime)
    assert details(server.at) == ["model 'm' v1: TensorRT: failed: declare the sizes of 'sequence'"]
    assert state(server.at) == "failed"


class FakeUpgrading(FakeRuntime):
    """Every model is on a GPU and has a candidate there, both of them fake."""

    def __init__(self) -> None:
        super().__init__(placements=(Placement("cuda:0", 1, 1),))
        self.faster = FakeCandidate()

    def candidate(
        self, path: Path, folder: Path, config: ModelConfig, session: Session, *, max_rows: int
    ) -> Candidate | None:
        return self.faster


@on_both_protocols
def test_the_metrics_of_a_version_that_broke_do_not_say_that_its_candidate_serves(
    serve: Serving, tmp_path: Path, connect: Connect
) -> None:
    runtime = FakeUpgrading()
    server = serve(fake_repository(tmp_path, "max_batch_size: 8"), runtime=runtime)
    wait_for(server, "serving")
    broken = DeviceFailed("no kernel image", reach=Reach.MODEL)
    with connect(server.at) as client:
        assert client.send("m", {"x": rows(1)}).answer().status == "OK"
        for each in (runtime.model, runtime.faster.runtime.model):
            each.fail = lambda feeds: broken
        assert client.send("m", {"x": rows(1)}).answer().status == connect.statuses["DEVICE_FAILED"]
    wait_for(server, "stopped")
    assert server.at.metric("stoker_model_ready", model="m") == 0


@on_both_protocols
def test_a_drain_waits_for_requests_and_not_for_a_build(
    serve: Serving, repository: Path, held: UpgradingRuntime, connect: Connect
) -> None:
    server = serve(repository, runtime=held)
    assert held.is_opening.wait(30)
    with connect(server.at) as client:
        assert client.send("m", {"x": rows(3)}).answer().status == "OK"
        assert server.drain() == 0
        held.may_open.set()
        wait_for(server, "stopped")
    np.testing.assert_equal(server.at.metric("stoker_tensorrt_state", state="serving"), 0)
