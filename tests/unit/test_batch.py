"""Requests to arrays and back: `split` undoes `assemble`, whatever the tensors are made of."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.batch import JOIN_BYTES, InputSlabs, assemble, split, wanted_outputs
from stoker.engine.plan import ModelPlan, RequestForm
from stoker.errors import ExecutionFailed
from stoker.model import ModelConfig, ModelVersion, TensorConfig
from stoker.request import InferRequest
from stoker.tensor import Array, DataType, Raw, Tensor

FORMS = ("bytes", "bytearray", "memoryview", "unaligned", "ndarray", "strided")
WORDS = ("", "a", "two words", "é")


def values(datatype: DataType, shape: tuple[int, ...], seed: int) -> Array:
    """Any bit pattern of the datatype: batching copies bits and never looks at numbers."""
    chance = np.random.default_rng(seed)
    if datatype is DataType.BYTES:
        return chance.choice(np.array(WORDS, object), shape)
    if datatype is DataType.BOOL:
        return chance.integers(0, 2, shape).astype(bool)
    raw = chance.bytes(math.prod(shape) * datatype.size)
    return np.frombuffer(raw, datatype.numpy).reshape(shape)


def held(array: Array, datatype: DataType, form: str) -> Raw | Array:
    """The array in one of the ways in which codecs hold tensors."""
    if form == "ndarray" or array.dtype.hasobject or datatype is DataType.BOOL:
        return array
    if form == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
    raw = array.tobytes()
    if form == "bytes":
        return raw
    if form == "bytearray":
        return bytearray(raw)
    if form == "memoryview":
        return memoryview(raw)
    return memoryview(b"?" + raw)[1:]


def same(got: Array, expected: Array) -> bool:
    if expected.dtype.hasobject:
        return bool(np.array_equal(got, expected))
    return got.dtype == expected.dtype and got.tobytes() == expected.tobytes()


def plan_of(datatype: DataType, dims: tuple[int, ...], *, max_batch_size: int = 64) -> ModelPlan:
    config = ModelConfig(
        "m",
        max_batch_size,
        (TensorConfig("x", datatype, dims), TensorConfig("n", DataType.INT64, (1,))),
        (TensorConfig("y", datatype, dims), TensorConfig("k", DataType.INT64, (1,))),
        batching=None,
    )
    return ModelPlan(ModelVersion("m", 1), config)


def asked(plan: ModelPlan, *tensors: Tensor) -> tuple[InferRequest, RequestForm]:
    request = InferRequest.of("m", inputs=tensors)
    return request, plan.check(request)


def echoed(feeds: dict[str, Array]) -> dict[int, Array]:
    """What a model gives that returns its inputs; its outputs are never views of them."""
    return {0: feeds["x"].copy(), 1: feeds["n"].copy()}


@given(
    st.sampled_from(list(DataType)),
    st.lists(st.integers(0, 3), max_size=2).map(tuple),
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from(FORMS)), min_size=1, max_size=5),
    st.booleans(),
    st.integers(0, 99),
)
def test_splitting_undoes_assembling(
    datatype: DataType,
    item: tuple[int, ...],
    parts: list[tuple[int, str]],
    swaps: bool,
    seed: int,
) -> None:
    plan = plan_of(datatype, tuple(-1 for _ in item))
    arrays = [
        values(datatype, (rows, *item), seed + place) for place, (rows, _) in enumerate(parts)
    ]
    pairs = []
    for place, (array, (rows, form)) in enumerate(zip(arrays, parts, strict=True)):
        x = Tensor("x", datatype, array.shape, held(array, datatype, form))
        number = np.full((rows, 1), place, np.int64)
        n = Tensor("n", DataType.INT64, (rows, 1), held(number, DataType.INT64, form))
        pairs.append(asked(plan, *((n, x) if swaps and place % 2 else (x, n))))
    slabs = InputSlabs(8)
    for _ in range(2):  # slabs are used again
        feeds = assemble([one for one, _ in pairs], [form for _, form in pairs], plan, slabs)
        assert all(array.flags.c_contiguous and array.flags.aligned for array in feeds.values())
        answers = split_of(echoed(feeds), [form for _, form in pairs], plan)
        for place, (answer, array) in enumerate(zip(answers, arrays, strict=True)):
            y, k = answer
            assert (y.name, y.datatype, y.shape) == ("y", datatype, array.shape)
            assert same(y.array(), array)
            assert (k.array() == place).all()


def fp32(plan: ModelPlan, *arrays: Array) -> tuple[list[InferRequest], list[RequestForm]]:
    pairs = [
        asked(
            plan,
            Tensor("x", DataType.FP32, array.shape, array.tobytes()),
            Tensor("n", DataType.INT64, (len(array), 1), bytes(8 * len(array))),
        )
        for array in arrays
    ]
    return [request for request, _ in pairs], [form for _, form in pairs]


def ones(rows: int, width: int = 4) -> Array:
    return np.ones((rows, width), np.float32)


def test_a_lone_request_is_fed_its_own_aligned_bytes() -> None:
    plan = plan_of(DataType.FP32, (4,))
    requests, forms = fp32(plan, ones(2))
    fed = assemble(requests, forms, plan, InputSlabs(8))["x"]
    assert np.shares_memory(fed, np.frombuffer(requests[0].inputs[0].data, np.float32))


def test_large_rows_go_into_the_same_slab_batch_after_batch() -> None:
    plan = plan_of(DataType.FP32, (-1,))
    requests, forms = fp32(plan, ones(2, JOIN_BYTES), ones(1, JOIN_BYTES))
    slabs = InputSlabs(4)
    first = assemble(requests, forms, plan, slabs)["x"]
    assert first.shape == (3, JOIN_BYTES)
    again = assemble(requests[:1] * 2, forms[:1] * 2, plan, slabs)["x"]
    assert again.shape == (4, JOIN_BYTES)
    assert np.shares_memory(first, again)


def test_a_slab_for_huge_items_has_no_room_for_batches_that_do_not_come() -> None:
    plan = plan_of(DataType.FP32, (-1,))
    (planned, _) = plan.inputs
    slabs = InputSlabs(128)

    def room(rows: int, width: int) -> int:
        slab = slabs.rows(planned, rows, (width,)).base
        assert slab is not None
        return len(slab)

    assert room(2, 1 << 22) == 4  # of 16 MiB each
    assert room(9, 1 << 22) == 9
    assert room(2, 16) == 128


def test_a_model_without_a_batch_dimension_gets_and_gives_its_shape() -> None:
    plan = plan_of(DataType.FP32, (2, 4), max_batch_size=0)
    array = np.arange(8, dtype=np.float32).reshape(2, 4)
    request, form = asked(
        plan,
        Tensor("x", DataType.FP32, (2, 4), array.tobytes()),
        Tensor("n", DataType.INT64, (1,), bytes(8)),
    )
    feeds = assemble([request], [form], plan, InputSlabs(1))
    assert feeds["x"].shape == (2, 4)
    ((y, _),) = split_of(echoed(feeds), [form], plan)
    assert y.shape == (2, 4)
    np.testing.assert_array_equal(y.array(), array)


def test_an_input_left_out_is_not_fed() -> None:
    inputs = (
        TensorConfig("x", DataType.FP32, (4,)),
        TensorConfig("b", DataType.FP32, (4,), optional=True),
    )
    plan = ModelPlan(ModelVersion("m", 1), ModelConfig("m", 8, inputs, (), None))
    request, form = asked(plan, Tensor("x", DataType.FP32, (1, 4), ones(1).tobytes()))
    assert list(assemble([request], [form], plan, InputSlabs(8))) == ["x"]


def test_reshapes_are_applied_on_both_sides() -> None:
    inputs = (TensorConfig("x", DataType.FP32, (4,), reshape=(2, 2)),)
    outputs = (TensorConfig("y", DataType.FP32, (4,), reshape=(2, 2)),)
    plan = ModelPlan(ModelVersion("m", 1), ModelConfig("m", 8, inputs, outputs, None))
    pairs = [
        asked(plan, Tensor("x", DataType.FP32, (rows, 4), ones(rows).tobytes())) for rows in (1, 2)
    ]
    forms = [form for _, form in pairs]
    feeds = assemble([request for request, _ in pairs], forms, plan, InputSlabs(8))
    assert feeds["x"].shape == (3, 2, 2)
    answers = split_of({0: feeds["x"]}, forms, plan)
    assert [answer[0].shape for answer in answers] == [(1, 4), (2, 4)]
    assert [answer[0].array().shape for answer in answers] == [(1, 4), (2, 4)]


@pytest.mark.parametrize("shape", [(2, 4), (4, 4), ()])
def test_an_output_with_other_rows_than_the_batch_fails(shape: tuple[int, ...]) -> None:
    plan = plan_of(DataType.FP32, (4,))
    _, forms = fp32(plan, ones(1), ones(2))
    with pytest.raises(ExecutionFailed, match=r"output 'y' of 'm' v1: expected 3 rows first"):
        split_of({0: np.zeros(shape, np.float32)}, forms, plan)


def split_of(
    outputs: Mapping[int, Array], forms: Sequence[RequestForm], plan: ModelPlan
) -> list[tuple[Tensor, ...]]:
    """The answers' outputs."""
    requests = [InferRequest.of("m")] * len(forms)
    answers = split(tuple(outputs), list(outputs.values()), requests, forms, plan)
    return [answer.outputs for answer in answers]


def forms_asking(*outputs: tuple[int, ...]) -> Sequence[RequestForm]:
    return [RequestForm(1, ((4,),), (0,), each, 4) for each in outputs]


def test_a_batch_computes_the_outputs_that_anybody_wants() -> None:
    assert wanted_outputs(forms_asking((1, 0), (1, 0))) == (1, 0)
    assert wanted_outputs(forms_asking((2,), (0, 2), (2,))) == (0, 2)


def test_each_request_gets_the_outputs_it_asked_for_in_its_order() -> None:
    plan = plan_of(DataType.FP32, (4,))
    outputs = {0: ones(2), 1: np.array([[7], [8]], np.int64)}
    first, second = split_of(outputs, forms_asking((1, 0), (1,)), plan)
    assert [tensor.name for tensor in first] == ["k", "y"]
    assert [tensor.name for tensor in second] == ["k"]
    assert second[0].array().tolist() == [[8]]
