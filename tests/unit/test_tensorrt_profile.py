"""Which shapes an engine is built for, and which batches it may run."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.errors import InvalidRequest
from stoker.runtime.tensorrt_options import DimensionRange, TensorRtRequest
from stoker.runtime.tensorrt_profile import Profile, profile_of
from stoker.tensor import DataType, TensorSpec

BUCKETS = (1, 2, 4, 8)
IMAGE = TensorSpec("x", DataType.FP32, (-1, 3, 8, 8))
TOKENS = TensorSpec("tokens", DataType.INT64, (-1, -1))
MASK = TensorSpec("mask", DataType.INT64, (-1, -1))
SYMBOLS = {
    "x": ("batch", None, None, None),
    "tokens": ("batch", "sequence"),
    "mask": ("batch", None),
    "fixed": (None, None),
    "x:0": ("batch", None),
}


def made(
    *inputs: TensorSpec,
    request: TensorRtRequest | None = None,
    buckets: Sequence[int] | None = BUCKETS,
) -> Profile:
    return profile_of("m", inputs, SYMBOLS, request or TensorRtRequest({}), buckets=buckets)


def ranges(**given: tuple[int, int, int]) -> TensorRtRequest:
    return TensorRtRequest({}, ranges={key: DimensionRange(*each) for key, each in given.items()})


def test_the_batch_ranges_from_the_least_bucket_to_the_most_which_is_the_likely_one() -> None:
    assert made(IMAGE).options() == {
        "trt_profile_min_shapes": "x:1x3x8x8",
        "trt_profile_opt_shapes": "x:8x3x8x8",
        "trt_profile_max_shapes": "x:8x3x8x8",
    }


def test_a_declared_symbol_gives_the_range_of_every_dimension_of_that_name() -> None:
    request = TensorRtRequest(
        {}, ranges={"sequence": DimensionRange(1, 64, 128), "mask:1": DimensionRange(2, 3, 4)}
    )
    assert made(TOKENS, MASK, request=request).options() == {
        "trt_profile_min_shapes": "tokens:1x1,mask:1x2",
        "trt_profile_opt_shapes": "tokens:8x64,mask:8x3",
        "trt_profile_max_shapes": "tokens:8x128,mask:8x4",
    }


def test_the_axis_of_one_input_wins_over_its_symbol() -> None:
    request = TensorRtRequest(
        {}, ranges={"sequence": DimensionRange(1, 2, 3), "tokens:1": DimensionRange(4, 5, 6)}
    )
    assert made(TOKENS, request=request).inputs["tokens"].most == (8, 6)


def test_a_dimension_of_unknown_size_is_refused_with_what_to_declare() -> None:
    with pytest.raises(InvalidRequest) as refused:
        made(TOKENS, MASK)
    assert 'trt_dimension_ranges "sequence=1..512,mask:1=1..512"' in refused.value.message


def test_the_rows_of_a_model_that_does_not_batch_are_a_dimension_like_others() -> None:
    with pytest.raises(InvalidRequest, match=r'trt_dimension_ranges "batch=1\.\.512"'):
        made(IMAGE, buckets=None)
    profile = made(IMAGE, request=ranges(batch=(1, 1, 16)), buckets=None)
    assert profile.inputs["x"].most == (16, 3, 8, 8)


def test_a_range_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'sequnce', which is no variable dimension"):
        made(IMAGE, request=ranges(sequnce=(1, 2, 3)))


def test_fixed_shapes_need_no_options_and_a_declared_single_size_does() -> None:
    fixed = TensorSpec("fixed", DataType.FP32, (2, 3))
    assert made(fixed, buckets=None).options() == {}
    single = made(TOKENS, request=ranges(sequence=(5, 5, 5)), buckets=(1,))
    assert single.options()["trt_profile_max_shapes"] == "tokens:1x5"


def test_shapes_that_the_model_writes_are_used_as_they_are_within_its_batches() -> None:
    request = TensorRtRequest(
        {}, shapes={"tokens": ((1, 1), (16, 64), (64, 128)), "inner": ((1,), (2,), (3,))}
    )
    profile = made(TOKENS, request=request)
    assert profile.options() == {
        "trt_profile_min_shapes": "tokens:1x1,inner:1",
        "trt_profile_opt_shapes": "tokens:8x64,inner:2",
        "trt_profile_max_shapes": "tokens:8x128,inner:3",
    }
    assert set(profile.inputs) == {"tokens"}


def test_shapes_that_are_not_the_inputs_are_refused() -> None:
    request = TensorRtRequest({}, shapes={"x": ((1, 4, 8, 8),) * 3})
    with pytest.raises(InvalidRequest, match=r"expected shapes of \[-1,3,8,8\]"):
        made(IMAGE, request=request)
    beyond = TensorRtRequest({}, shapes={"x": ((9, 3, 8, 8),) * 3})
    with pytest.raises(InvalidRequest, match="at most 8 rows"):
        made(IMAGE, request=beyond)


def test_optional_inputs_are_left_out_and_a_batch_that_gives_one_is_outside() -> None:
    optional = TensorSpec("fixed", DataType.FP32, (2, 3), True)
    profile = made(IMAGE, optional)
    assert set(profile.inputs) == {"x"}
    assert profile.covers({"x": (1, 3, 8, 8)})
    assert not profile.covers({"x": (1, 3, 8, 8), "fixed": (2, 3)})


def test_a_batch_without_an_input_is_outside() -> None:
    profile = made(IMAGE, TOKENS, request=ranges(sequence=(1, 2, 3)))
    assert not profile.covers({"x": (1, 3, 8, 8)})


def test_a_dimension_with_buckets_needs_no_declaration_and_a_declaration_wins() -> None:
    implied = {"sequence": DimensionRange(64, 256, 256)}
    profile = profile_of(
        "m", [TOKENS], SYMBOLS, TensorRtRequest({}), buckets=BUCKETS, implied=implied
    )
    assert profile.inputs["tokens"].least == (1, 64)
    declared = profile_of(
        "m", [TOKENS], SYMBOLS, ranges(sequence=(1, 2, 3)), buckets=BUCKETS, implied=implied
    )
    assert declared.inputs["tokens"].most == (8, 3)


def test_an_input_whose_name_the_options_cannot_hold_is_refused() -> None:
    colon = TensorSpec("x:0", DataType.FP32, (-1, 4))
    with pytest.raises(InvalidRequest, match="'x:0', whose name has a colon"):
        made(colon)
    fixed = TensorSpec("x:0", DataType.FP32, (2, 4))
    assert made(fixed, buckets=None).options() == {}


def test_corners_begin_with_the_most_and_come_once() -> None:
    profile = made(TOKENS, request=ranges(sequence=(1, 4, 16)))
    assert profile.corners() == ({"tokens": (8, 16)}, {"tokens": (8, 4)}, {"tokens": (1, 1)})
    assert len(made(IMAGE).corners()) == 2


@given(
    least=st.integers(1, 8),
    spans=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    rows=st.integers(0, 20),
    size=st.integers(0, 30),
)
def test_exactly_the_shapes_between_the_ends_are_covered(
    least: int, spans: tuple[int, int], rows: int, size: int
) -> None:
    likely = least + spans[0]
    most = likely + spans[1]
    profile = made(TOKENS, request=ranges(sequence=(least, likely, most)))
    covered = profile.covers({"tokens": (rows, size)})
    assert covered == (1 <= rows <= 8 and least <= size <= most)
    assert not profile.covers({"tokens": (rows, size, 1)})
    assert all(profile.covers(corner) for corner in profile.corners())
