"""How a request must fit its model: every refusal and its text, and what fits."""

import math
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.plan import REMEMBERED_KINDS, ModelPlan, PlannedOutput, parameter_is_off
from stoker.errors import InvalidRequest
from stoker.model import ModelConfig, ModelVersion, TensorConfig
from stoker.request import InferRequest
from stoker.tensor import DataType, Tensor

FP32 = DataType.FP32


def plan_of(
    *inputs: TensorConfig, max_batch_size: int = 8, splits: bool = False, outputs: int = 1
) -> ModelPlan:
    made = tuple(TensorConfig(f"y{number}", FP32, (2,)) for number in range(outputs))
    inputs = inputs or (TensorConfig("x", FP32, (3, -1)),)
    plan = ModelPlan(
        ModelVersion("m", 3), ModelConfig("m", max_batch_size, inputs, made, batching=None)
    )
    plan.splits_oversized = splits
    return plan


def tensor(name: str, *shape: int, datatype: DataType = FP32) -> Tensor:
    return Tensor(name, datatype, shape, bytes(max(0, math.prod(shape)) * datatype.size))


def held_after(times: int, step: Callable[[int], object]) -> int:
    """Bytes that are still held after so many steps."""
    tracemalloc.start()
    try:
        for number in range(times):
            step(number)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return held


def asked(*tensors: Tensor, outputs: tuple[str, ...] = ()) -> InferRequest:
    return InferRequest.of("m", inputs=tensors, requested_outputs=outputs)


PAIR = (TensorConfig("a", FP32, (2,)), TensorConfig("b", FP32, (2,), optional=True))


@pytest.mark.parametrize(
    ("plan", "request_", "text"),
    [
        (
            plan_of(),
            asked(tensor("z", 1, 3, 1)),
            "request to 'm' v3: expected inputs out of x, got 'z'",
        ),
        (
            plan_of(),
            asked(tensor("x", 1, 3, 1), tensor("x", 1, 3, 1)),
            "request to 'm' v3: expected each input once, got 'x' twice",
        ),
        (
            plan_of(*PAIR),
            asked(tensor("b", 1, 2)),
            "request to 'm' v3: expected 1 inputs, got 1; missing: a",
        ),
        (
            plan_of(),
            asked(),
            "request to 'm' v3: expected 1 inputs, got 0; missing: x",
        ),
        (
            plan_of(),
            asked(tensor("x", 1, 3, 1, datatype=DataType.FP64)),
            "input 'x' of 'm' v3: expected FP32 [-1,3,-1], got FP64 [1,3,1]",
        ),
        (
            plan_of(),
            asked(tensor("x", 1, 4, 1)),
            "input 'x' of 'm' v3: expected FP32 [-1,3,-1], got FP32 [1,4,1]",
        ),
        (
            plan_of(),
            asked(tensor("x", 3, 1)),
            "input 'x' of 'm' v3: expected FP32 [-1,3,-1], got FP32 [3,1]",
        ),
        (
            plan_of(),
            asked(tensor("x", 1, 3, -1)),
            "input 'x' of 'm' v3: expected FP32 [-1,3,-1], got FP32 [1,3,-1]",
        ),
        (
            plan_of(TensorConfig("x", FP32, (3,)), max_batch_size=0),
            asked(tensor("x", 1, 3)),
            "input 'x' of 'm' v3: expected FP32 [3], got FP32 [1,3]",
        ),
        (
            plan_of(),
            asked(tensor("x")),
            "input 'x' of 'm' v3: expected a batch dimension first, got shape []",
        ),
        (
            plan_of(*PAIR),
            asked(tensor("a", 2, 2), tensor("b", 3, 2)),
            "input 'b' of 'm' v3: expected 2 rows as the inputs before it, got 3",
        ),
        (
            plan_of(),
            asked(tensor("x", 0, 3, 1)),
            "request to 'm' v3: expected at least 1 row, got 0",
        ),
        (
            plan_of(),
            asked(tensor("x", 9, 3, 1)),
            "request to 'm' v3: expected at most max_batch_size 8 rows, got 9",
        ),
        (
            plan_of(),
            asked(tensor("x", 1, 3, 1), outputs=("y0", "w")),
            "request to 'm' v3: expected outputs out of y0, got 'w'",
        ),
        (
            plan_of(),
            asked(tensor("x", 1, 3, 1), outputs=("y0", "y0")),
            "request to 'm' v3: expected each output once, got y0, y0",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_told_why(
    plan: ModelPlan, request_: InferRequest, text: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan.check(request_)
    assert caught.value.message == text


def test_the_form_of_a_request_has_its_rows_item_shapes_and_outputs() -> None:
    plan = plan_of(*PAIR, outputs=3)
    form = plan.check(asked(tensor("b", 4, 2), tensor("a", 4, 2), outputs=("y2", "y0")))
    assert form.rows == 4
    assert form.signature == ((2,), (2,))
    assert form.order == (1, 0)
    assert form.outputs == (2, 0)
    assert form.elements == 4


def test_a_request_that_names_no_outputs_gets_all() -> None:
    assert plan_of(outputs=3).check(asked(tensor("x", 1, 3, 1))).outputs == (0, 1, 2)


def test_requests_with_and_without_an_optional_input_do_not_share_a_batch() -> None:
    plan = plan_of(*PAIR)
    with_b = plan.check(asked(tensor("a", 1, 2), tensor("b", 1, 2)))
    without = plan.check(asked(tensor("a", 1, 2)))
    assert without.signature == ((2,), None)
    assert without.order == (0, -1)
    assert with_b.signature != without.signature


def test_a_model_without_a_batch_dimension_takes_its_shape_as_it_is() -> None:
    plan = plan_of(TensorConfig("x", FP32, (3, -1)), max_batch_size=0)
    form = plan.check(asked(tensor("x", 3, 5)))
    assert (form.rows, form.signature, form.elements) == (1, ((3, 5),), 15)


def test_an_oversized_request_passes_where_it_can_be_split() -> None:
    assert plan_of(splits=True).check(asked(tensor("x", 9, 3, 1))).rows == 9


def test_zero_sized_items_are_items() -> None:
    assert plan_of().check(asked(tensor("x", 2, 3, 0))).elements == 0


def test_a_repeated_shape_is_looked_up_and_the_memory_of_shapes_is_bounded() -> None:
    plan = plan_of()
    first = plan.check(asked(tensor("x", 1, 3, 7)))
    assert plan.check(asked(tensor("x", 1, 3, 7))) is first
    for width in range(REMEMBERED_KINDS):
        plan.check(asked(tensor("x", 2, 3, width)))
    assert plan.check(asked(tensor("x", 1, 3, 7))) is not first


def test_a_reshape_gives_the_model_its_own_item_shape() -> None:
    config = TensorConfig("x", FP32, (-1, 6, -1), reshape=(-1, 2, 3, -1, 1))
    (planned,) = plan_of(config).inputs
    assert planned.model_item((5, 6, 7)) == (5, 2, 3, 7, 1)
    (scalar,) = plan_of(TensorConfig("x", FP32, (1,), reshape=())).inputs
    assert scalar.model_item((1,)) == ()


def test_an_output_is_reshaped_back_for_the_client() -> None:
    output = PlannedOutput("y", FP32, (1000,), (1, 1000, 1))
    assert output.client_item((1, 1000, 1)) == (1000,)
    variable = PlannedOutput("y", FP32, (-1, 4), (2, -1, 2))
    assert variable.client_item((2, 9, 2)) == (9, 4)


def test_an_output_of_another_rank_than_declared_is_passed_on_as_it_is() -> None:
    assert PlannedOutput("y", FP32, (4,), (2, 2)).client_item((4, 1, 1)) == (4, 1, 1)


def test_a_switch_is_off_only_when_the_file_says_so() -> None:
    for text in ("off", " OFF ", "0", "false", "no"):
        assert parameter_is_off({"split_oversized": text}, "split_oversized")
    for text in ("on", "1", ""):
        assert not parameter_is_off({"split_oversized": text}, "split_oversized")
    assert not parameter_is_off({}, "split_oversized")


shapes = st.lists(st.integers(-2, 9), max_size=4).map(tuple)


@given(st.lists(st.tuples(st.sampled_from("abz"), shapes), max_size=3), st.integers(0, 4))
def test_any_request_gets_a_form_or_is_invalid(
    tensors: list[tuple[str, tuple[int, ...]]], max_batch_size: int
) -> None:
    plan = plan_of(*PAIR, max_batch_size=max_batch_size)
    request = asked(*[tensor(name, *shape) for name, shape in tensors])
    try:
        form = plan.check(request)
    except InvalidRequest:
        return
    given_ = dict(tensors)
    assert set(given_) in ({"a"}, {"a", "b"})
    lead = (form.rows,) if max_batch_size else ()
    assert 1 <= form.rows <= max(1, max_batch_size)
    assert all(shape == (*lead, 2) for shape in given_.values())
    for name, place in zip("ab", form.order, strict=True):
        assert place == (list(given_).index(name) if name in given_ else -1)


@given(st.lists(st.sampled_from([-1, 2, 3]), max_size=4), st.data(), st.integers(0, 3))
def test_a_reshape_keeps_the_number_of_elements(
    dims: list[int], data: st.DataObject, ones: int
) -> None:
    reshape = list(dims)
    for _ in range(ones):
        reshape.insert(data.draw(st.integers(0, len(reshape))), 1)
    (planned,) = plan_of(TensorConfig("x", FP32, tuple(dims), reshape=tuple(reshape))).inputs
    item = tuple(dim if dim >= 0 else data.draw(st.integers(0, 9)) for dim in dims)
    assert math.prod(planned.model_item(item)) == math.prod(item)
    assert [size for size in planned.model_item(item) if size != 1] == [
        size for size in item if size != 1
    ]


def test_names_as_long_as_messages_are_not_kept() -> None:
    assert held_after(100, lambda number: InferRequest.of(f"{number}" * 100_000)) < 1 << 20


def test_parameters_as_long_as_messages_are_not_kept() -> None:
    plan = plan_of()

    def check(number: int) -> None:
        given = {"note": f"{number}" * 100_000}
        plan.check(InferRequest.of("m", inputs=[tensor("x", 1, 3, 1)], parameters=given))

    assert held_after(100, check) < 1 << 20
