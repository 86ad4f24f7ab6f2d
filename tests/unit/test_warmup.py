"""Warm-up samples as feeds, and what a failing one does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stoker.errors import DeviceFailed, ExecutionFailed, InvalidRequest
from stoker.model import ModelConfig, TensorConfig, WarmupInput, WarmupSample
from stoker.runtime.session import Placement
from stoker.runtime.warmup import samples, warm_up, zeros
from stoker.tensor import DataType, TensorSpec, encode_bytes

from tests.fake_runtime import FakeModel, FakeRuntime, FakeSession

CPU = Placement("cpu", 1, 1)


def opened(
    model: FakeModel | None = None, runtime: FakeRuntime | None = None
) -> tuple[FakeRuntime, FakeSession]:
    runtime = runtime or FakeRuntime(model)
    runtime.open(Path("nowhere"), config(), CPU)
    return runtime, runtime.sessions[0]


def config(*warmup: WarmupSample, dims: tuple[int, ...] = (4,), batch: int = 8) -> ModelConfig:
    x = TensorConfig("x", DataType.FP32, dims)
    y = TensorConfig("y", DataType.FP32, dims)
    return ModelConfig("m", batch, (x,), (y,), None, warmup=warmup)


def sample(
    source: str = "random", batch_size: int = 1, count: int = 0, **kwargs: str
) -> WarmupSample:
    given = WarmupInput(DataType.FP32, (4,), source, kwargs.get("file", ""))
    return WarmupSample("first", batch_size, count, {"x": given})


def test_zeros_run_with_one_row_and_with_the_largest_batch(tmp_path: Path) -> None:
    runtime, session = opened()
    warm_up(config(), session, tmp_path)
    assert [run.feeds["x"].shape for run in runtime.runs] == [(1, 4), (8, 4)]
    assert not any(run.feeds["x"].any() for run in runtime.runs)


def test_a_model_without_batches_runs_zeros_once(tmp_path: Path) -> None:
    model = FakeModel(inputs=(TensorSpec("x", DataType.FP32, (4,)),))
    runtime, session = opened(model)
    warm_up(config(batch=0), session, tmp_path)
    assert [run.feeds["x"].shape for run in runtime.runs] == [(4,)]


def test_a_variable_dimension_is_one_and_optional_inputs_are_left_out() -> None:
    spec = TensorSpec("scale", DataType.FP32, (4,), optional=True)
    _, session = opened(FakeModel(inputs=(TensorSpec("x", DataType.FP32, (-1, -1)), spec)))
    scale = TensorConfig("scale", DataType.FP32, (4,))
    completed = config(dims=(-1,))
    completed = replace(completed, inputs=(*completed.inputs, scale))
    feeds = zeros(completed, session, 3)
    assert {name: array.shape for name, array in feeds.items()} == {"x": (3, 1)}


def test_samples_run_as_often_as_they_say_after_the_zeros(tmp_path: Path) -> None:
    runtime, session = opened()
    warm_up(config(sample(batch_size=2, count=3)), session, tmp_path)
    assert [len(run.feeds["x"]) for run in runtime.runs] == [1, 8, 2, 2, 2]
    assert runtime.runs[2].feeds["x"].any()


def test_a_file_of_one_row_fills_the_batch(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    row = np.arange(4, dtype=np.float32)
    (tmp_path / "warmup" / "row").write_bytes(row.tobytes())
    _, session = opened()
    (made,) = samples(config(sample("file", 3, file="row")), session, tmp_path)
    np.testing.assert_array_equal(made.feeds["x"], np.tile(row, (3, 1)))


def test_a_file_of_all_rows_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    (tmp_path / "warmup" / "rows").write_bytes(rows.tobytes())
    _, session = opened()
    (made,) = samples(config(sample("file", 2, file="rows")), session, tmp_path)
    np.testing.assert_array_equal(made.feeds["x"], rows)


def test_texts_come_from_files_with_length_prefixes(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    texts = np.array(["a", "bc"], object)
    (tmp_path / "warmup" / "texts").write_bytes(encode_bytes(texts))
    given = WarmupInput(DataType.BYTES, (2,), "file", "texts")
    tensor = TensorConfig("x", DataType.BYTES, (2,))
    completed = replace(config(), inputs=(tensor,), warmup=(WarmupSample("s", 2, 0, {"x": given}),))
    _, session = opened(FakeModel(inputs=(TensorSpec("x", DataType.BYTES, (-1, 2)),)))
    (made,) = samples(completed, session, tmp_path)
    assert made.feeds["x"].tolist() == [["a", "bc"], ["a", "bc"]]


def test_a_reshaped_input_is_fed_as_the_model_wants_it(tmp_path: Path) -> None:
    tensor = TensorConfig("x", DataType.FP32, (-1, 6), reshape=(2, -1, 3))
    given = WarmupInput(DataType.FP32, (5, 6), "random")
    completed = replace(config(), inputs=(tensor,), warmup=(WarmupSample("s", 2, 0, {"x": given}),))
    _, session = opened(FakeModel(inputs=(TensorSpec("x", DataType.FP32, (-1, 2, -1, 3)),)))
    (made,) = samples(completed, session, tmp_path)
    assert made.feeds["x"].shape == (2, 2, 5, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (sample(batch_size=9), "expected a batch_size of at most 8, got 9"),
        (WarmupSample("first", 1, 0, {}), "expected all inputs of the model, x; got none"),
        (
            WarmupSample("first", 1, 0, {"x": WarmupInput(DataType.FP64, (4,), "zero")}),
            r"input 'x': expected FP32 \[4\], got FP64 \[4\]",
        ),
        (
            WarmupSample("first", 1, 0, {"x": WarmupInput(DataType.FP32, (5,), "zero")}),
            r"input 'x': expected FP32 \[4\], got FP32 \[5\]",
        ),
        (sample("file", file="none"), "cannot read 'warmup/none'"),
        (sample("file", file="short"), "expected 16 bytes for one row in 'warmup/short', got 3"),
        (sample("file", file="../secret"), "inside of the model's 'warmup' folder"),
    ],
)
def test_a_sample_that_does_not_fit_is_told_by_name(
    tmp_path: Path, wrong: WarmupSample, message: str
) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "short").write_bytes(b"abc")
    (tmp_path / "secret").write_bytes(bytes(16))
    _, session = opened()
    with pytest.raises(InvalidRequest, match=f"warm-up sample 'first'.*{message}") as caught:
        samples(config(wrong), session, tmp_path)
    assert str(tmp_path) not in caught.value.message


def test_zeros_that_the_model_cannot_run_are_no_failure(tmp_path: Path) -> None:
    _, session = opened(FakeModel(fail=lambda feeds: ExecutionFailed("no zeros")))
    warm_up(config(), session, tmp_path)


def test_a_written_sample_that_fails_fails_the_warm_up(tmp_path: Path) -> None:
    def refuse(feeds: object) -> ExecutionFailed | None:
        return ExecutionFailed("not this") if feeds["x"].any() else None  # type: ignore[index]

    _, session = opened(FakeModel(fail=refuse))
    with pytest.raises(ExecutionFailed, match="not this"):
        warm_up(config(sample()), session, tmp_path)


def test_a_device_that_breaks_under_zeros_fails_the_warm_up(tmp_path: Path) -> None:
    _, session = opened(FakeModel(fail=lambda feeds: DeviceFailed("dead")))
    with pytest.raises(DeviceFailed):
        warm_up(config(), session, tmp_path)
