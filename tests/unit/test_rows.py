"""Rows that run, found without knowing what they mean."""

from pathlib import Path

import numpy as np
import pytest
from stoker.errors import ExecutionFailed
from stoker.model import ModelConfig
from stoker.runtime.rows import MOST_DISTINCT, find
from stoker.runtime.session import Placement
from stoker.tensor import DataType, TensorSpec

from tests import models
from tests.fake_runtime import FakeClock, FakeModel, FakeRuntime, FakeSession

CONFIG = ModelConfig("m", 8, (), (), None)


def opened(model: FakeModel) -> FakeSession:
    runtime = FakeRuntime(model)
    runtime.open(Path("nowhere"), CONFIG, Placement("cpu", 1, 1))
    return runtime.sessions[0]


def test_rows_are_distinct_seeded_and_not_zero() -> None:
    session = opened(FakeModel())
    source = find(session, models.config_of(session))
    assert source is not None
    rows = source.feeds(MOST_DISTINCT)["x"]
    assert len({row.tobytes() for row in rows}) == MOST_DISTINCT
    assert rows.all()
    np.testing.assert_array_equal(source.feeds(MOST_DISTINCT)["x"], rows)
    np.testing.assert_array_equal(source.feeds(3)["x"], rows[:3])
    np.testing.assert_array_equal(source.feeds(MOST_DISTINCT + 2)["x"][-2:], rows[:2])
    assert (source.feeds(2, seed=1)["x"] != rows[:2]).any()


def test_integers_shrink_until_the_table_holds_them(tmp_path: Path) -> None:
    session = models.open_on_cpu(tmp_path, models.embedding(vocabulary=10))
    source = find(session, models.config_of(session))
    assert source is not None
    assert source.feeds(4)["ids"].max() < 10


@pytest.mark.parametrize("length", [1, 2, 4, 8, 16, 32, 64, 224])
def test_variable_dimensions_take_a_size_that_runs(length: int) -> None:
    session = opened(
        FakeModel(
            inputs=(TensorSpec("x", DataType.FP32, (-1, -1)),),
            fail=lambda feeds: (
                None if feeds["x"].shape[1] == length else ExecutionFailed("another length")
            ),
        )
    )
    source = find(session, models.config_of(session))
    assert source is not None
    assert source.items["x"] == (DataType.FP32, (length,))


def test_text_is_words_and_where_words_fail_numbers() -> None:
    text = (TensorSpec("x", DataType.BYTES, (-1, 1)),)
    words = opened(FakeModel(inputs=text, compute=lambda feeds: {"y": feeds["x"]}))
    source = find(words, models.config_of(words))
    assert source is not None
    assert source.feeds(1)["x"][0, 0].startswith("word")

    numbers = opened(
        FakeModel(
            inputs=text,
            compute=lambda feeds: {"y": feeds["x"]},
            fail=lambda feeds: (
                None if feeds["x"][0, 0].isdigit() else ExecutionFailed("not a number")
            ),
        )
    )
    source = find(numbers, models.config_of(numbers))
    assert source is not None
    assert source.feeds(1)["x"][0, 0].isdigit()


def test_a_model_without_batch_dimension_gets_one_item() -> None:
    session = opened(FakeModel(inputs=(TensorSpec("x", DataType.FP32, (2, 4)),)))
    source = find(session, models.config_of(session, 0))
    assert source is not None
    assert source.feeds(1)["x"].shape == (2, 4)


def test_the_search_ends_with_its_time() -> None:
    clock = FakeClock()
    model = FakeModel(
        inputs=(TensorSpec("x", DataType.INT64, (-1, -1)),),
        seconds=lambda rows: 4.0,
        fail=lambda feeds: ExecutionFailed("never"),
    )
    runtime = FakeRuntime(model, clock=clock, sleep=clock.advance)
    runtime.open(Path("nowhere"), CONFIG, Placement("cpu", 1, 1))
    session = runtime.sessions[0]
    assert find(session, models.config_of(session), budget_s=10, clock=clock) is None
    assert len(runtime.runs) == 3
