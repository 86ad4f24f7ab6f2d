"""Batches at level 1: which go there, how their rows get into the slabs, who owns the outputs."""

import logging
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.execution import Batch, Execution, FailureBudget
from stoker.engine.fixed_batch import LONE_BYTES
from stoker.engine.outputs import POOL_SLABS, SLAB_BYTES
from stoker.engine.pending import Pending
from stoker.engine.plan import ModelPlan
from stoker.engine.served_model import ServedModel
from stoker.model import ModelVersion
from stoker.request import InferRequest, InferResponse, Lease
from stoker.runtime.buckets import EXACT, Buckets
from stoker.runtime.session import Placement, Session
from stoker.telemetry.statistics import BatchEnd
from stoker.tensor import Array, DataType, Tensor, TensorSpec

from tests import models
from tests.engine_parts import config
from tests.fake_runtime import FakeModel, FakeRuntime

MOST = 16


class Scene:
    """One instance of a model that doubles its rows."""

    def __init__(self, *, width: int = 4, sizes: Buckets = EXACT, optional: bool = False) -> None:
        spec = TensorSpec("x", DataType.FP32, (-1, width))
        self.model = FakeModel((spec,), (TensorSpec("y", DataType.FP32, (-1, width)),))
        self.runtime = FakeRuntime(self.model)
        described = config(max_batch_size=MOST)
        session = self.runtime.open(Path("model.onnx"), described, Placement("cpu", 1, 1))
        self.open(session, sizes)

    def open(self, session: Session, sizes: Buckets) -> None:
        self.plan = ModelPlan(ModelVersion("m", 1), models.config_of(session, MOST))
        self.execution = Execution(
            session, self.plan, max_rows=MOST, budget=FailureBudget(), sizes=sizes
        )

    def execute(self, *requests: InferRequest) -> list[InferResponse]:
        model = cast(ServedModel, None)  # an execution never looks at it
        pairs = [
            (Pending(model, each, self.plan.check(each), lambda result: None, 0.0), each)
            for each in requests
        ]
        rows = sum(entry.rows for entry, _ in pairs)
        answers = []
        for result in self.execution.execute(Batch(pairs, rows, BatchEnd.IDLE, 0.0, 1)).results:
            assert isinstance(result, InferResponse), result
            answers.append(result)
        return answers

    @property
    def bound(self) -> list[tuple[str, ...]]:
        """Outputs of each run that were bound."""
        return [run.into for run in self.runtime.runs]


class RealScene(Scene):
    """The same with a model of ONNX Runtime."""

    def __init__(
        self, folder: Path, model: onnx.ModelProto | None = None, sizes: Buckets = EXACT
    ) -> None:
        self.open(models.open_on_cpu(folder, model or models.double()), sizes)


def numbers(rows: int, seed: int = 0, width: int = 4) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def as_bytes(array: Array) -> InferRequest:
    tensor = Tensor("x", DataType.FP32, array.shape, array.tobytes())
    return InferRequest.of("m", inputs=(tensor,))


def as_view(array: Array) -> InferRequest:
    """The bytes as they lie in a message: anywhere."""
    message = memoryview(b"?" + array.tobytes() + b"?")
    return InferRequest.of(
        "m", inputs=(Tensor("x", DataType.FP32, array.shape, message[1 : 1 + array.nbytes]),)
    )


def as_array(array: Array) -> InferRequest:
    return InferRequest.of("m", inputs=(Tensor("x", DataType.FP32, array.shape, array),))


FORMS = [as_bytes, as_view, as_array]


def got(answer: InferResponse) -> Array:
    return answer.outputs[0].array()


def release(answers: list[InferResponse]) -> None:
    for answer in answers:
        if answer.lease is not None:
            answer.lease.release()


def test_the_first_run_is_at_level_0_and_the_next_ones_are_bound() -> None:
    scene = Scene()
    for _ in range(3):
        scene.execute(as_bytes(numbers(2)))
    assert scene.bound == [(), ("y",), ("y",)]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from(FORMS)), min_size=1, max_size=4),
    st.sampled_from([EXACT, Buckets((4, 16))]),
)
def test_every_request_gets_its_own_rows_whatever_its_bytes_are_held_in(
    parts: list[tuple[int, object]], sizes: Buckets
) -> None:
    scene = Scene(sizes=sizes)
    scene.execute(as_bytes(numbers(1)))
    arrays = [numbers(rows, seed) for seed, (rows, _) in enumerate(parts)]
    requests = [
        FORMS[FORMS.index(form)](array)  # type: ignore[arg-type]  # drawn out of FORMS
        for array, (_, form) in zip(arrays, parts, strict=True)
    ]
    answers = scene.execute(*requests)
    for answer, array in zip(answers, arrays, strict=True):
        np.testing.assert_array_equal(got(answer), 2 * array)
    assert scene.bound[-1] == ("y",)
    rows = sum(len(array) for array in arrays)
    assert scene.runtime.runs[-1].rows == sizes.of(rows)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1, 16])
def test_large_rows_are_laid_out_as_well(rows: int, form: object, tmp_path: Path) -> None:
    width = LONE_BYTES // 4 + 1
    scene = RealScene(tmp_path, models.double(("batch", width)))
    for seed in range(3):
        array = numbers(rows, seed, width)
        lone = scene.execute(FORMS[FORMS.index(form)](array))  # type: ignore[arg-type]  # one of FORMS
        np.testing.assert_array_equal(got(lone[0]), 2 * array)
        release(lone)
        pieces = [numbers(1, each, width) for each in range(rows)]
        answers = scene.execute(*[as_view(piece) for piece in pieces])
        for answer, piece in zip(answers, pieces, strict=True):
            np.testing.assert_array_equal(got(answer), 2 * piece)
        release(answers)


def test_an_answer_stays_as_it_is_while_later_batches_run() -> None:
    scene = Scene()
    scene.execute(as_bytes(numbers(1)))
    (kept,) = scene.execute(as_bytes(numbers(3, 1)))
    for seed in range(2, 6):
        scene.execute(as_bytes(numbers(3, seed)))
    np.testing.assert_array_equal(got(kept), 2 * numbers(3, 1))


@given(st.lists(st.booleans(), max_size=24))
def test_no_batch_writes_into_a_slab_that_an_answer_still_holds(releases: list[bool]) -> None:
    width = SLAB_BYTES // 4
    scene = Scene(width=width)
    scene.execute(as_bytes(numbers(1, 0, width)))
    held: list[tuple[int, InferResponse, Lease]] = []
    for seed, gives_back in enumerate(releases, 1):
        (answer,) = scene.execute(as_bytes(numbers(1, seed, width)))
        if answer.lease is not None:
            held.append((seed, answer, answer.lease))
        assert len(held) <= POOL_SLABS
        for known, each, _ in held:
            np.testing.assert_array_equal(got(each), 2 * numbers(1, known, width))
        if gives_back and held:
            held.pop(0)[2].release()


def test_without_a_free_slab_a_batch_is_answered_at_level_0() -> None:
    width = SLAB_BYTES // 4
    scene = Scene(width=width)
    answers = [
        scene.execute(as_bytes(numbers(1, seed, width)))[0] for seed in range(POOL_SLABS + 3)
    ]
    for seed, answer in enumerate(answers):
        np.testing.assert_array_equal(got(answer), 2 * numbers(1, seed, width))
    assert scene.bound == [(), *[("y",)] * POOL_SLABS, (), ()]


def test_an_output_that_is_not_made_as_declared_is_never_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()
    scene.model.compute = lambda feeds: {"y": feeds["x"][:, None]}
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            scene.execute(as_bytes(numbers(2)))
    assert scene.bound == [()] * 3
    assert "without fixed bindings: output 'y' is not made as it is declared" in caplog.text


def test_a_model_that_makes_another_shape_later_goes_back_to_level_0() -> None:
    scene = Scene()
    scene.execute(as_bytes(numbers(2)))
    scene.model.compute = lambda feeds: {"y": feeds["x"][:, None]}
    for _ in range(2):
        (answer,) = scene.execute(as_bytes(numbers(2)))
        assert got(answer).shape == (2, 1, 4)
    assert scene.bound == [(), ("y",), (), ()]


def test_an_output_that_nobody_asked_for_yet_is_not_bound_before_it_was_seen(
    tmp_path: Path,
) -> None:
    scene = RealScene(tmp_path, models.simple())
    ones = Tensor("INPUT0", DataType.INT32, (1, 16), np.ones((1, 16), np.int32).tobytes())
    other = Tensor("INPUT1", DataType.INT32, (1, 16), np.ones((1, 16), np.int32).tobytes())
    for wanted in ("OUTPUT0", "OUTPUT0", "OUTPUT1", "OUTPUT1"):
        request = InferRequest.of("m", inputs=(ones, other), requested_outputs=(wanted,))
        (answer,) = scene.execute(request)
        assert got(answer).tolist() == [[2 if wanted == "OUTPUT0" else 0] * 16]


def test_a_batch_larger_than_the_slabs_is_run_at_level_0() -> None:
    scene = Scene(width=1 << 20)  # 4 MiB a row: 16 rows of input are the room
    assert scene.plan.max_batch_size == MOST
    for rows in (1, 1, 16):
        release(scene.execute(as_array(np.ones((rows, 1 << 20), np.float32))))
    scene.plan.splits_oversized = True
    release(scene.execute(as_array(np.ones((17, 1 << 20), np.float32))))
    assert scene.bound[-1] == ()
