"""Runs of one request without a batch: when there are some, and that they do what a batch does."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.execution import Batch, Execution, FailureBudget
from stoker.engine.fixed_batch import LONE_BYTES
from stoker.engine.lone import LoneRun
from stoker.engine.pending import Pending
from stoker.engine.plan import ModelPlan
from stoker.engine.served_model import ServedModel
from stoker.model import ModelVersion
from stoker.request import InferRequest, InferResponse
from stoker.runtime.buckets import EXACT, Buckets
from stoker.runtime.fixed import COPIED_BYTES
from stoker.runtime.session import OutputMismatch, Placement, Session
from stoker.telemetry.statistics import BatchEnd, ModelStatistics
from stoker.tensor import Array, DataType, Tensor, TensorSpec

from tests import models
from tests.engine_parts import config
from tests.fake_runtime import FakeModel, FakeRuntime

MOST = 16


class Scene:
    """One instance of a model that doubles its rows, by ONNX Runtime where there is a folder."""

    def __init__(
        self, *, width: int = 4, sizes: Buckets = EXACT, folder: Path | None = None
    ) -> None:
        spec = TensorSpec("x", DataType.FP32, (-1, width))
        self.model = FakeModel((spec,), (TensorSpec("y", DataType.FP32, (-1, width)),))
        self.width = width
        if folder is not None:
            self.open(models.open_on_cpu(folder, models.double()))
            return
        runtime, described = FakeRuntime(self.model), config(max_batch_size=MOST)
        self.open(runtime.open(Path("model.onnx"), described, Placement("cpu", 1, 1)), sizes)

    def open(self, session: Session, sizes: Buckets = EXACT) -> None:
        self.plan = ModelPlan(ModelVersion("m", 1), models.config_of(session, MOST))
        self.execution = Execution(
            session, self.plan, max_rows=MOST, budget=FailureBudget(), sizes=sizes
        )

    def warm(self) -> None:
        """Shows the outputs: before, nothing is bound."""
        self.in_a_batch(self.request(1))

    def numbers(self, rows: int, seed: int = 0) -> Array:
        shape = (rows, self.width)
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    def request(self, rows: int, seed: int = 0, *, is_view: bool = False) -> InferRequest:
        array = self.numbers(rows, seed)
        data = array.tobytes()
        lies = memoryview(b"?" + data)[1:] if is_view else data
        return InferRequest.of("m", inputs=(Tensor("x", DataType.FP32, array.shape, lies),))

    def prepared(self, one: InferRequest) -> LoneRun | None:
        return self.execution.lone(self.plan.check(one))

    def alone(self, one: InferRequest) -> InferResponse:
        lone = self.prepared(one)
        assert lone is not None
        assert lone.lay(one.data)
        lone.run()
        return lone.answer(one)

    def in_a_batch(self, one: InferRequest) -> InferResponse:
        model = cast(ServedModel, None)  # an execution never looks at it
        entry = Pending(model, one, self.plan.check(one), lambda result: None, 0.0)
        batch = Batch([(entry, one)], entry.rows, BatchEnd.IDLE, 0.0, 1)
        (result,) = self.execution.execute(batch).results
        assert isinstance(result, InferResponse), result
        return result


def got(answer: InferResponse) -> Array:
    (output,) = answer.outputs
    return output.array()


@given(st.integers(1, MOST), st.integers(0, 9), st.booleans())
def test_a_lone_run_answers_what_a_batch_of_one_does(rows: int, seed: int, is_view: bool) -> None:
    scene = Scene()
    scene.warm()
    one = scene.request(rows, seed, is_view=is_view)
    alone, batched = scene.alone(one), scene.in_a_batch(one)
    assert got(alone).tolist() == got(batched).tolist() == (2 * scene.numbers(rows, seed)).tolist()
    assert alone.outputs[0].shape == batched.outputs[0].shape
    assert (alone.model, alone.version, alone.id) == (batched.model, batched.version, batched.id)


def test_onnx_runtime_runs_it_as_well(tmp_path: Path) -> None:
    scene = Scene(folder=tmp_path)
    scene.warm()
    answers = [scene.alone(scene.request(rows, rows)) for rows in (1, 3, 1)]
    for rows, answer in zip((1, 3, 1), answers, strict=True):  # the next run has not changed it
        assert got(answer).tolist() == (2 * scene.numbers(rows, rows)).tolist()


def test_it_is_prepared_once_for_a_form() -> None:
    scene = Scene()
    scene.warm()
    first = scene.prepared(scene.request(2))
    assert first is not None
    assert scene.prepared(scene.request(2, 1)) is first
    assert scene.prepared(scene.request(3)) is not first


def test_nothing_is_prepared_before_a_run_has_shown_the_outputs() -> None:
    scene = Scene()
    assert scene.prepared(scene.request(1)) is None
    scene.warm()
    assert scene.prepared(scene.request(1)) is not None


def test_a_run_that_is_filled_up_is_for_a_batch() -> None:
    scene = Scene(sizes=Buckets((4, 16)))
    scene.warm()
    assert scene.prepared(scene.request(2)) is None
    assert scene.prepared(scene.request(4)) is not None


@pytest.mark.parametrize("nbytes", [LONE_BYTES, COPIED_BYTES])
def test_what_is_read_in_place_or_needs_a_slab_is_for_a_batch(nbytes: int) -> None:
    scene = Scene(width=nbytes // 8)
    scene.warm()
    assert scene.prepared(scene.request(3)) is None


def test_data_that_is_no_bytes_is_for_a_batch() -> None:
    scene = Scene()
    scene.warm()
    one = scene.request(2)
    lone = scene.prepared(one)
    assert lone is not None
    assert not lone.lay((scene.numbers(2),))


def test_a_model_that_makes_another_shape_later_is_run_in_batches_from_then_on() -> None:
    scene = Scene()
    scene.warm()
    one = scene.request(2)
    lone = scene.prepared(one)
    assert lone is not None
    scene.model.compute = lambda feeds: {"y": feeds["x"][:, None]}
    assert lone.lay(one.data)
    with pytest.raises(OutputMismatch):
        lone.run()
    assert got(scene.in_a_batch(one)).shape == (2, 1, 4)
    assert scene.prepared(one) is None


def test_inputs_go_where_they_belong_in_whatever_order_they_come(tmp_path: Path) -> None:
    scene = Scene()
    scene.open(models.open_on_cpu(tmp_path, models.simple()))
    a, b = (
        Tensor(f"INPUT{at}", DataType.INT32, (1, 16), np.full((1, 16), value, np.int32).tobytes())
        for at, value in enumerate((5, 3))
    )
    for inputs in ((a, b), (b, a)):
        one = InferRequest.of("m", inputs=inputs, requested_outputs=("OUTPUT1",))
        scene.in_a_batch(one)
        assert got(scene.alone(one)).tolist() == [[2] * 16]


@pytest.mark.parametrize("rows", [1, 3])
def test_a_lone_run_counts_as_a_run_and_a_success(rows: int) -> None:
    apart, at_once = ModelStatistics("m", 1), ModelStatistics("m", 1)
    for step in range(3):
        input_ns, infer_ns, output_ns, now_ms, request_ns, queue_ns = (
            10 ** (step + place) for place in range(6)
        )
        apart.record_run(
            rows=rows,
            requests=1,
            input_ns=input_ns,
            infer_ns=infer_ns,
            output_ns=output_ns,
            end=BatchEnd.IDLE,
            now_ms=now_ms,
        )
        apart.record_success(request_ns, queue_ns)
        at_once.record_lone(
            rows, input_ns, infer_ns, output_ns, BatchEnd.IDLE, now_ms, request_ns, queue_ns
        )
    assert counted(at_once) == counted(apart)


def counted(thing: object) -> object:
    """All that statistics hold, down to numbers."""
    if isinstance(thing, dict):
        return {key: counted(value) for key, value in thing.items()}
    names = getattr(type(thing), "__slots__", ())
    return {name: counted(getattr(thing, name)) for name in names} or thing
