"""Verdicts on models whose rows do, or do not, touch each other."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from stoker.errors import DeviceFailed, ExecutionFailed
from stoker.model import ModelConfig, WarmupInput, WarmupSample
from stoker.runtime.independence import Independence, Verdict, gap, prove
from stoker.runtime.session import Placement
from stoker.tensor import Array, DataType, TensorSpec

from tests import models
from tests.fake_runtime import FakeModel, FakeRuntime

CONFIG = ModelConfig("m", 8, (), (), None)
CPU = Placement("cpu", 1, 1)
Build = Callable[[], onnx.ModelProto]
INDEPENDENT, DEPENDENT = Independence.INDEPENDENT, Independence.DEPENDENT
APPROXIMATE, UNPROVEN = Independence.APPROXIMATE, Independence.UNPROVEN


def verdict_on(folder: Path, model: onnx.ModelProto) -> Verdict:
    session = models.open_on_cpu(folder, model)
    config = models.config_of(session)
    given = {spec.name for spec in session.inputs if not spec.optional}
    inputs = tuple(each for each in config.inputs if each.name in given)
    return prove(session, replace(config, inputs=inputs), folder)


@pytest.mark.parametrize(
    "build",
    [
        models.simple,
        models.mlp,
        models.conv,
        models.slow,
        models.half_mlp,
        models.embedding,
        models.fails_on_data,
        models.label,
        models.string_identity,
        models.string_concat,
        models.dynamic,
        models.row_sum,
        models.overridable,
    ],
    ids=lambda build: build.__name__,
)
def test_models_of_separate_rows_are_independent(tmp_path: Path, build: Build) -> None:
    verdict = verdict_on(tmp_path, build())
    assert verdict.independence is INDEPENDENT, verdict.reason


@pytest.mark.parametrize("datatype", DataType, ids=lambda each: each.wire)
def test_rows_of_every_datatype_can_be_tried(tmp_path: Path, datatype: DataType) -> None:
    assert verdict_on(tmp_path, models.identity(datatype)).independence is INDEPENDENT


@pytest.mark.parametrize(
    "build",
    [
        models.softmax_over_rows,
        models.mean_over_rows,
        models.batch_norm_training,
        models.previous_row,
        models.wrong_output_rank,
        models.wrong_output_rows,
        models.extra_dimension,
    ],
    ids=lambda build: build.__name__,
)
def test_models_that_mix_rows_are_dependent(tmp_path: Path, build: Build) -> None:
    verdict = verdict_on(tmp_path, build())
    assert verdict.independence is DEPENDENT, verdict.reason


@pytest.mark.parametrize(("channels", "side"), [(16, 1), (3, 8), (64, 2)])
def test_normalisation_by_the_batchs_own_moments_is_dependent(
    tmp_path: Path, channels: int, side: int
) -> None:
    shape: models.Shape = ["batch", channels, side, side]
    moments = {"g": 1, "b": 0, "m": 0, "v": 1}
    model = models.build(
        [
            helper.make_node(
                "BatchNormalization", ["x", *moments], ["y", "mean", "var"], training_mode=1
            )
        ],
        [models.tensor("x", DataType.FP32, shape)],
        [models.tensor("y", DataType.FP32, shape)],
        {name: np.full(channels, value, np.float32) for name, value in moments.items()},
    )
    assert verdict_on(tmp_path, model).independence is DEPENDENT


def test_dynamic_quantisation_is_approximate_with_its_difference(tmp_path: Path) -> None:
    verdict = verdict_on(tmp_path, models.dynamic_quantized())
    assert verdict.independence is APPROXIMATE
    assert 1e-4 < verdict.difference < 0.05


def test_a_weak_mean_over_the_batch_is_not_taken_for_quantisation(tmp_path: Path) -> None:
    model = models.mean_over_rows()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.05, np.float32), "s"))
    model.graph.node.insert(1, helper.make_node("Mul", ["m", "s"], ["weak"]))
    model.graph.node[2].input[1] = "weak"
    assert verdict_on(tmp_path, model).independence is DEPENDENT


@pytest.mark.parametrize("build", [models.noisy, models.dropout], ids=["noisy", "dropout"])
def test_random_models_stay_unproven(tmp_path: Path, build: Build) -> None:
    verdict = verdict_on(tmp_path, build())
    assert verdict.independence is UNPROVEN
    assert "random" in verdict.reason


def proved(model: FakeModel) -> Verdict:
    runtime = FakeRuntime(model)
    runtime.open(Path("nowhere"), CONFIG, CPU)
    session = runtime.sessions[0]
    return prove(session, models.config_of(session), Path("nowhere"))


def test_a_model_that_answers_all_rows_alike_stays_unproven() -> None:
    verdict = proved(FakeModel(compute=lambda feeds: {"y": np.ones_like(feeds["x"])}))
    assert verdict.independence is UNPROVEN
    assert "model_warmup" in verdict.reason


def test_a_model_that_runs_no_row_stays_unproven() -> None:
    verdict = proved(FakeModel(fail=lambda feeds: ExecutionFailed("never")))
    assert verdict.independence is UNPROVEN


def test_a_device_that_breaks_ends_the_proof() -> None:
    with pytest.raises(DeviceFailed):
        proved(FakeModel(fail=lambda feeds: DeviceFailed("dead")))


def test_a_neighbour_that_changes_just_one_label_makes_rows_dependent() -> None:
    def neighbours(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        x = feeds["x"]
        return {"y": (x.argmax(axis=1) + len(x)).reshape(-1, 1)}

    labels = (TensorSpec("y", DataType.INT64, (-1, 1)),)
    assert proved(FakeModel(outputs=labels, compute=neighbours)).independence is DEPENDENT


def test_a_written_sample_finds_rows_where_random_ones_fail(tmp_path: Path) -> None:
    def large_only(feeds: Mapping[str, Array]) -> ExecutionFailed | None:
        return ExecutionFailed("small") if np.abs(feeds["x"]).min() < 100 else None

    runtime = FakeRuntime(FakeModel(fail=large_only))
    runtime.open(tmp_path, CONFIG, CPU)
    session = runtime.sessions[0]
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "row").write_bytes(np.full(4, 1000, np.float32).tobytes())
    given = WarmupInput(DataType.FP32, (4,), "file", "row")
    sample = WarmupSample("row", 1, 1, {"x": given})
    config = models.config_of(session)
    assert prove(session, config, tmp_path).independence is UNPROVEN
    assert prove(session, replace(config, warmup=(sample,)), tmp_path).independence is INDEPENDENT


def test_the_proof_can_be_switched_off() -> None:
    runtime = FakeRuntime()
    runtime.open(Path("nowhere"), CONFIG, CPU)
    session = runtime.sessions[0]
    config = replace(models.config_of(session), parameters={"batching_proof": "off"})
    assert prove(session, config, Path("nowhere")).independence is UNPROVEN
    assert runtime.runs == []


@pytest.mark.parametrize(
    ("datatype", "left", "right", "expected"),
    [
        (DataType.FP32, [1.0, 2.0], [1.0, 2.0], 0.0),
        (DataType.FP32, [1.0, 2.0], [1.0, 1.0], 0.5),
        (DataType.FP32, [np.nan, 2.0], [np.nan, 2.0], 0.0),
        (DataType.FP32, [np.nan, 2.0], [1.0, 2.0], 1.0),
        (DataType.FP32, [np.inf], [-np.inf], 1.0),
        (DataType.FP32, [], [], 0.0),
        (DataType.INT64, [1, 2], [1, 3], 1.0),
        (DataType.UINT8, [200] * 500, [200] * 499 + [201], 1 / 201),
        (DataType.BOOL, [True], [False], 1.0),
        (DataType.BYTES, ["a"], ["a"], 0.0),
        (DataType.BYTES, ["a"], ["b"], 1.0),
    ],
)
def test_differences_are_relative_and_labels_exact(
    datatype: DataType, left: list[object], right: list[object], expected: float
) -> None:
    one, other = (np.array(each, datatype.numpy) for each in (left, right))
    assert gap(datatype, one, other) == pytest.approx(expected)


def test_differences_are_told_only_for_equal_shapes() -> None:
    assert gap(DataType.FP32, np.zeros(2, np.float32), np.zeros(3, np.float32)) == 1


def test_a_difference_of_bfloat16_is_one_of_its_values() -> None:
    one, two = np.array([0x3F80], np.uint16), np.array([0x4000], np.uint16)
    assert gap(DataType.BF16, one, two) == 0.5
