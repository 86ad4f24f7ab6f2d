"""Requests of different lengths in one batch: filled up to an edge, and cut back."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from stoker.engine.execution import Batch, Execution, FailureBudget
from stoker.engine.pending import Pending
from stoker.engine.plan import ModelPlan
from stoker.engine.served_model import ServedModel
from stoker.errors import InvalidRequest
from stoker.model import ModelConfig, ModelVersion
from stoker.request import InferRequest, InferResponse
from stoker.runtime.bucket_dimension import (
    MOST_EDGES,
    PARAMETER,
    DimensionBuckets,
    dimension_buckets,
)
from stoker.runtime.buckets import EXACT, Buckets
from stoker.runtime.session import Session
from stoker.telemetry.statistics import BatchEnd
from stoker.tensor import Array, DataType, Tensor

from tests import models

EDGES = (2, 4, 8)
MOST = 16


def masked() -> onnx.ModelProto:
    """x FP32 [batch, length, 3], mask FP32 [batch, length] -> y [batch, length, 3], twice x where
    the mask is 1; total [batch, 3], its sum over the length; count [batch, 1, length]."""
    return models.build(
        [
            helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
            helper.make_node("Mul", ["x", "wide"], ["kept"]),
            helper.make_node("Add", ["kept", "kept"], ["y"]),
            helper.make_node("ReduceSum", ["y", "first"], ["total"], keepdims=0),
            helper.make_node("Unsqueeze", ["mask", "first"], ["count"]),
        ],
        [
            models.tensor("x", DataType.FP32, ["batch", "length", 3]),
            models.tensor("mask", DataType.FP32, ["batch", "length"]),
        ],
        [
            models.tensor("y", DataType.FP32, ["batch", "length", 3]),
            models.tensor("total", DataType.FP32, ["batch", 3]),
            models.tensor("count", DataType.FP32, ["batch", 1, "length"]),
        ],
        {"last": np.array([2], np.int64), "first": np.array([1], np.int64)},
    )


def written(session: Session, text: str, max_batch_size: int = MOST) -> ModelConfig:
    return replace(models.config_of(session, max_batch_size), parameters={PARAMETER: text})


class Scene:
    """An instance of `masked` with edges."""

    def __init__(
        self,
        folder: Path,
        *,
        sizes: Buckets = EXACT,
        model: onnx.ModelProto | None = None,
        text: str = "x:1=2,4,8",
        max_batch_size: int = MOST,
    ) -> None:
        session = models.open_on_cpu(folder, model or masked())
        config = written(session, text, max_batch_size)
        dimension = dimension_buckets(config, session)
        assert dimension is not None
        self.plan = ModelPlan(ModelVersion("m", 1), config, dimension)
        self.execution = Execution(
            session, self.plan, max_rows=MOST, budget=FailureBudget(), sizes=sizes
        )

    def execute(self, *requests: InferRequest) -> list[InferResponse]:
        model = cast(ServedModel, None)  # an execution never looks at it
        pairs = [
            (Pending(model, each, self.plan.check(each), lambda result: None, 0.0), each)
            for each in requests
        ]
        assert len({entry.form.signature for entry, _ in pairs}) == 1, "no batch"
        rows = sum(entry.rows for entry, _ in pairs)
        answers = []
        for result in self.execution.execute(Batch(pairs, rows, BatchEnd.IDLE, 0.0, 1)).results:
            assert isinstance(result, InferResponse), result
            answers.append(result)
        return answers


def values(rows: int, length: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, length, 3)).astype(np.float32)


def asked(x: Array, *, is_bytes: bool = True, wanted: tuple[str, ...] = ()) -> InferRequest:
    mask = np.ones(x.shape[:2], np.float32)
    return InferRequest.of(
        "m",
        inputs=[
            Tensor(name, DataType.FP32, each.shape, each.tobytes() if is_bytes else each)
            for name, each in (("x", x), ("mask", mask))
        ],
        requested_outputs=wanted,
    )


def check(answer: InferResponse, x: Array) -> None:
    made = {tensor.name: tensor for tensor in answer.outputs}
    np.testing.assert_array_equal(made["y"].array(), 2 * x)
    assert made["y"].shape == x.shape
    np.testing.assert_allclose(made["total"].array(), 2 * x.sum(axis=1), rtol=1e-4, atol=1e-5)
    assert made["count"].array().tolist() == np.ones((len(x), 1, x.shape[1])).tolist()
    if answer.lease is not None:
        answer.lease.release()


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(3, 4), st.booleans()), min_size=1))
def test_requests_of_one_bucket_share_a_batch_and_get_their_own_lengths_back(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int, bool]]
) -> None:
    parts = parts[: MOST // 3]
    scene = Scene(tmp_path_factory.mktemp("model"))
    for turn in range(3):  # level 0 first, then level 1
        arrays = [
            values(rows, length, (10 * turn + seed)) for seed, (rows, length, _) in enumerate(parts)
        ]
        answers = scene.execute(
            *[
                asked(array, is_bytes=is_bytes)
                for array, (*_, is_bytes) in zip(arrays, parts, strict=True)
            ]
        )
        for answer, array in zip(answers, arrays, strict=True):
            check(answer, array)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 9, 20])
@pytest.mark.parametrize("sizes", [EXACT, Buckets((4, 16))], ids=["exact", "padded"])
def test_a_lone_request_of_any_length_is_answered(
    length: int, sizes: Buckets, tmp_path: Path
) -> None:
    scene = Scene(tmp_path, sizes=sizes)
    for seed in range(3):
        x = values(2, length, seed)
        (answer,) = scene.execute(asked(x))
        check(answer, x)


def test_what_an_earlier_batch_left_in_the_slabs_is_zeroed(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for length in (8, 8, 5, 7, 5):
        x = values(2, length, length)
        check(scene.execute(asked(x))[0], x)


def test_only_the_outputs_that_are_asked_for_come(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    x = values(1, 3)
    for _ in range(2):
        first, second = scene.execute(asked(x, wanted=("count", "y")), asked(x, wanted=("total",)))
        assert [each.name for each in first.outputs] == ["count", "y"]
        assert [each.shape for each in first.outputs] == [(1, 1, 3), (1, 3, 3)]
        assert [each.name for each in second.outputs] == ["total"]


def test_inputs_that_disagree_on_the_size_are_refused(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    x, mask = values(1, 3), np.ones((1, 4), np.float32)
    request = InferRequest.of(
        "m",
        inputs=[
            Tensor("x", DataType.FP32, x.shape, x.tobytes()),
            Tensor("mask", DataType.FP32, mask.shape, mask.tobytes()),
        ],
    )
    with pytest.raises(
        InvalidRequest, match="one size of the dimension 'length' in all inputs, got 3, 4"
    ):
        scene.plan.check(request)


def test_costs_are_kept_by_what_is_really_run(tmp_path: Path) -> None:
    plan = Scene(tmp_path).plan
    short, full = plan.check(asked(values(1, 5))), plan.check(asked(values(1, 8)))
    assert short.elements == full.elements == 8 * 3 + 8
    assert (short.size, short.edge) == (5, 8)


def pooled(hidden: int = 1024) -> onnx.ModelProto:
    """x FP32 [batch, length, 1] -> y [batch, length, hidden], x in every column; total
    [batch, 4 * hidden], whose rows need no symbol."""
    return models.build(
        [
            helper.make_node("Mul", ["x", "wide"], ["y"]),
            helper.make_node("ReduceSum", ["x", "first"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "wider"], ["total"]),
        ],
        [models.tensor("x", DataType.FP32, ["batch", "length", 1])],
        [
            models.tensor("y", DataType.FP32, ["batch", "length", hidden]),
            models.tensor("total", DataType.FP32, ["batch", 4 * hidden]),
        ],
        {
            "wide": np.ones(hidden, np.float32),
            "wider": np.ones(4 * hidden, np.float32),
            "first": np.array([1], np.int64),
        },
    )


@pytest.mark.parametrize("length", [7, 8])
def test_a_large_output_of_the_dimension_beside_a_large_one_without_it_is_answered(
    length: int, tmp_path: Path
) -> None:
    scene = Scene(tmp_path, model=pooled())
    for seed in range(3):  # only `total` has slabs that are lent
        arrays = [values(4, length, 10 * seed + each)[..., :1] for each in range(4)]
        requests = [
            InferRequest.of("m", inputs=[Tensor("x", DataType.FP32, each.shape, each.tobytes())])
            for each in arrays
        ]
        for answer, array in zip(scene.execute(*requests), arrays, strict=True):
            made = {tensor.name: tensor.array() for tensor in answer.outputs}
            np.testing.assert_array_equal(made["y"], np.broadcast_to(array, made["y"].shape))
            np.testing.assert_allclose(made["total"][:, :1], array.sum(axis=1), rtol=1e-5)
            if answer.lease is not None:
                answer.lease.release()


def pairs(width: int = 8) -> onnx.ModelProto:
    """x FP32 [batch, length, length, width] -> y, twice x."""
    shape: list[int | str | None] = ["batch", "length", "length", width]
    return models.build(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [models.tensor("x", DataType.FP32, shape)],
        [models.tensor("y", DataType.FP32, shape)],
    )


@pytest.mark.parametrize("length", [30, 40])
def test_a_large_lone_request_with_the_dimension_twice_in_an_input_is_answered(
    length: int, tmp_path: Path
) -> None:
    scene = Scene(tmp_path, model=pairs(), text="x:1=30,40")
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((2, length, length, 8)).astype(np.float32)
        request = InferRequest.of("m", inputs=[Tensor("x", DataType.FP32, x.shape, x.tobytes())])
        (answer,) = scene.execute(request)
        np.testing.assert_array_equal(answer.outputs[0].array(), 2 * x)
        if answer.lease is not None:
            answer.lease.release()


# Edges


@given(st.integers(0, 20))
def test_a_size_is_filled_up_to_the_least_edge_that_holds_it(size: int) -> None:
    found = DimensionBuckets("s", EDGES, {}, {})
    edge = found.edge(size)
    assert edge >= size
    if 0 < size <= EDGES[-1]:
        assert edge == min(each for each in EDGES if each >= size)
    else:
        assert edge == size


def test_the_symbol_tells_which_tensors_are_filled_up_and_cut(tmp_path: Path) -> None:
    session = models.open_on_cpu(tmp_path, masked())
    found = dimension_buckets(written(session, "mask:1=8, 2,4,4"), session)
    assert found is not None
    assert found.symbol == "length"
    assert found.edges == EDGES
    assert found.inputs == {"x": (0,), "mask": (0,)}
    assert found.outputs == {"y": (0,), "count": (1,)}


def test_without_the_parameter_there_are_none(tmp_path: Path) -> None:
    session = models.open_on_cpu(tmp_path, masked())
    assert dimension_buckets(models.config_of(session), session) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x=2,4", "expected an input, its dimension and sizes"),
        ("x:1", "expected an input, its dimension and sizes"),
        ("x:1=", "expected an input, its dimension and sizes"),
        ("x:one=2", "expected an input, its dimension and sizes"),
        ("x:1=2,-4", "expected an input, its dimension and sizes"),
        (":1=2", "expected an input, its dimension and sizes"),
        ("x:1=0,2", "sizes of at least 1"),
        ("x:1=" + ",".join(map(str, range(1, 2 + MOST_EDGES))), f"1 to {MOST_EDGES} sizes"),
        ("z:1=2", "the model has no input 'z'"),
        ("y:1=2", "the model has no input 'y'"),
        ("x:0=2", "expected a dimension of 'x' out of 1..2, got 0"),
        ("x:3=2", "expected a dimension of 'x' out of 1..2, got 3"),
        ("x:2=2", "dimension 2 of 'x' has no symbol in the model"),
    ],
)
def test_a_text_that_cannot_be_obeyed_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    session = models.open_on_cpu(tmp_path, masked())
    with pytest.raises(InvalidRequest, match=reason):
        dimension_buckets(written(session, text), session)


def test_a_reshape_and_bytes_are_refused(tmp_path: Path) -> None:
    session = models.open_on_cpu(tmp_path, masked())
    config = written(session, "x:1=2")
    reshaped = replace(config.inputs[0], reshape=(-1, 3))
    with pytest.raises(InvalidRequest, match="'x' has a reshape as well"):
        dimension_buckets(replace(config, inputs=(reshaped, *config.inputs[1:])), session)
    words = models.open_on_cpu(tmp_path, models.identity(DataType.BYTES, ("batch", "length")))
    with pytest.raises(InvalidRequest, match="'x' is BYTES"):
        dimension_buckets(written(words, "x:1=2"), words)


def test_a_model_without_batch_dimension_is_filled_up_as_well(tmp_path: Path) -> None:
    scene = Scene(tmp_path, model=models.double(("length", 3)), text="x:0=4,8", max_batch_size=0)
    for length in (3, 4, 3, 8, 9):
        x = values(1, length, length)[0]
        tensor = Tensor("x", DataType.FP32, x.shape, x.tobytes())
        (answer,) = scene.execute(InferRequest.of("m", inputs=[tensor]))
        np.testing.assert_array_equal(answer.outputs[0].array(), 2 * x)
