"""The same promises for the fake session and the real one, so that the fake stays true."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stoker.errors import ExecutionFailed, OutOfMemory
from stoker.model import ModelConfig
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.session import Placement, Session
from stoker.tensor import DataType, TensorSpec

from tests import models
from tests.fake_runtime import FakeClock, FakeModel, FakeRuntime

CONFIG = ModelConfig("double", 8, (), (), None)
CPU = Placement("cpu", 1, 1)
Open = Callable[[], Session]


def fake(folder: Path) -> Session:
    model = FakeModel(dimension_names={"x": ("batch", None), "y": ("batch", None)})
    return FakeRuntime(model).open(folder / "model.onnx", CONFIG, CPU)


def real(folder: Path) -> Session:
    path = models.write_model(folder / "model.onnx", models.double())
    return OnnxRuntime("cpu").open(path, CONFIG, CPU)


@pytest.fixture(params=[fake, real], ids=["fake", "real"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Session:
    made: Session = request.param(tmp_path)
    return made


def rows(*first: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.repeat(np.array(first, np.float32)[:, None], 4, axis=1)


def test_a_session_tells_its_tensors(session: Session) -> None:
    assert session.inputs == (TensorSpec("x", DataType.FP32, (-1, 4)),)
    assert session.outputs == (TensorSpec("y", DataType.FP32, (-1, 4)),)
    assert session.dimension_names == {"x": ("batch", None), "y": ("batch", None)}
    assert session.unranked == frozenset()
    assert session.device == "cpu"


def test_a_run_gives_the_asked_outputs(session: Session) -> None:
    (y,) = session.run({"x": rows(1, 2, 3)}, ["y"])
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, rows(2, 4, 6))


def test_a_run_of_no_rows_gives_no_rows(session: Session) -> None:
    (y,) = session.run({"x": np.empty((0, 4), np.float32)}, ["y"])
    assert y.shape == (0, 4)


def test_a_run_writes_into_the_memory_it_is_given(session: Session) -> None:
    slab = np.zeros((8, 4), np.float32)
    target = slab[2:4]
    (y,) = session.run({"x": rows(1, 2)}, ["y"], {"y": target})
    assert y is target
    np.testing.assert_array_equal(slab[2:4], rows(2, 4))
    assert not slab[:2].any()
    assert not slab[4:].any()


@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (2, 2)])
def test_memory_of_another_shape_fails_the_run(session: Session, shape: tuple[int, int]) -> None:
    with pytest.raises(ExecutionFailed):
        session.run({"x": rows(1, 2)}, ["y"], {"y": np.zeros(shape, np.float32)})


def test_memory_of_another_datatype_fails_the_run(session: Session) -> None:
    with pytest.raises(ExecutionFailed):
        session.run({"x": rows(1, 2)}, ["y"], {"y": np.zeros((2, 4), np.float64)})


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"z": rows(1)},
        {"x": rows(1), "z": rows(1)},
        {"x": rows(1).astype(np.float64)},
        {"x": np.zeros((1, 5), np.float32)},
        {"x": np.zeros(4, np.float32)},
    ],
    ids=["missing", "misnamed", "surplus", "datatype", "dimension", "rank"],
)
def test_feeds_that_do_not_fit_fail_the_run(session: Session, feeds: dict[str, object]) -> None:
    with pytest.raises(ExecutionFailed):
        session.run(feeds, ["y"])  # type: ignore[arg-type]


def test_an_unknown_output_fails_the_run(session: Session) -> None:
    with pytest.raises(ExecutionFailed):
        session.run({"x": rows(1)}, ["nothing"])


def test_several_threads_may_run_one_session(session: Session) -> None:
    answers: dict[int, object] = {}

    def run(number: int) -> None:
        answers[number] = session.run({"x": rows(number)}, ["y"])[0][0, 0]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: 2 * number for number in range(8)}


# What only the fake can do


def test_a_held_run_goes_on_after_its_release() -> None:
    runtime = FakeRuntime()
    session = runtime.open(Path("nowhere"), CONFIG, CPU)
    runtime.hold()
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(session.run({"x": rows(1)}, ["y"])))
    thread.start()
    runtime.wait_for_run(1)
    assert answers == []
    runtime.release()
    thread.join()
    assert len(answers) == 1


def test_a_step_lets_just_one_run_pass() -> None:
    runtime = FakeRuntime()
    session = runtime.open(Path("nowhere"), CONFIG, CPU)
    runtime.hold()
    threads = [
        threading.Thread(target=session.run, args=({"x": rows(number)}, ["y"]))
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    runtime.wait_for_run(2)
    runtime.step()
    runtime.wait_for_finish(1)
    assert sum(thread.is_alive() for thread in threads) >= 1
    runtime.release()
    for thread in threads:
        thread.join()


def test_a_run_is_recorded_with_copies_of_its_feeds() -> None:
    runtime = FakeRuntime()
    session = runtime.open(Path("nowhere"), CONFIG, CPU)
    feed = rows(1, 2)
    session.run({"x": feed}, ["y"])
    feed[:] = 0
    np.testing.assert_array_equal(runtime.runs[0].feeds["x"], rows(1, 2))
    assert runtime.runs[0].rows == 2
    runtime.forget()
    assert runtime.runs == []


def test_a_run_fails_for_the_feeds_that_the_test_chose() -> None:
    def refuse(feeds: object) -> OutOfMemory | None:
        return OutOfMemory("too much") if len(feeds["x"]) > 1 else None  # type: ignore[index]

    runtime = FakeRuntime(FakeModel(fail=refuse))
    session = runtime.open(Path("nowhere"), CONFIG, CPU)
    with pytest.raises(OutOfMemory):
        session.run({"x": rows(1, 2)}, ["y"])
    session.run({"x": rows(1)}, ["y"])


def test_a_run_costs_what_its_rows_cost() -> None:
    clock = FakeClock()
    runtime = FakeRuntime(
        FakeModel(seconds=lambda rows: 2 + rows), clock=clock, sleep=clock.advance
    )
    session = runtime.open(Path("nowhere"), CONFIG, CPU)
    session.run({"x": rows(1, 2, 3)}, ["y"])
    assert clock() == 5


def test_an_opening_waits_for_its_gate(tmp_path: Path) -> None:
    gate = threading.Event()
    runtime = FakeRuntime(FakeModel(may_open=gate))
    opening = threading.Thread(target=runtime.open, args=(tmp_path, CONFIG, CPU))
    opening.start()
    assert not runtime.sessions
    gate.set()
    opening.join()
    assert len(runtime.sessions) == 1
