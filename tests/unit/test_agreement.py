"""Whether another session answers as the serving one does, with real sessions and false ones."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from stoker.errors import ExecutionFailed, InvalidRequest, ServingError
from stoker.model import Optimization, WarmupInput, WarmupSample
from stoker.runtime.agreement import SEEDS, Agreement, compare, disagreement, record
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.session import Placement, Session
from stoker.tensor import Array, DataType

from tests import models
from tests.engine_parts import config
from tests.fake_runtime import FakeModel, FakeRuntime
from tests.models import config_of, open_on_cpu

CORNERS = ({"x": (8, 4)}, {"x": (1, 4)})
ANYWHERE = Placement("cpu", 1, 1)


def fake(model: FakeModel) -> Session:
    return FakeRuntime(model).open(Path("model.onnx"), config(), ANYWHERE)


def off_by(part: float) -> Session:
    """y = 2x, with the greatest value of the first row off by a part of it."""

    def compute(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        made = feeds["x"] * 2
        made.flat[np.abs(made).argmax()] *= 1 - part
        return {"y": made}

    return fake(FakeModel(compute=compute))


def test_the_same_graph_at_another_level_of_optimisation_agrees(tmp_path: Path) -> None:
    model = models.mlp()
    session = open_on_cpu(tmp_path, model)
    described = config_of(session)
    other = OnnxRuntime("cpu").open(
        tmp_path / "model.onnx",
        replace(described, optimization=Optimization(graph_level=2)),
        ANYWHERE,
    )
    expected = record(session, described, tmp_path, CORNERS)
    found = compare(other, expected)
    assert found.runs == len(CORNERS) * len(SEEDS)
    assert found.difference <= expected.rounding
    assert disagreement(found, expected.rounding) is None


def test_other_weights_do_not_agree(tmp_path: Path) -> None:
    session = open_on_cpu(tmp_path / "one", models.mlp())
    described = config_of(session)
    wrong = models.mlp()
    for weights in wrong.graph.initializer:
        array = onnx.numpy_helper.to_array(weights)
        weights.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(1.5), weights.name))
    other = open_on_cpu(tmp_path / "other", wrong)
    found = compare(other, record(session, described, tmp_path, CORNERS))
    assert found.difference > 0.05
    why = disagreement(found, 5e-3)
    assert why is not None
    assert f"output '{found.output}' differs by" in why
    assert "0.005 is allowed" in why


@pytest.mark.parametrize(("part", "agrees"), [(0.004, True), (0.006, False)])
def test_the_greatest_difference_is_a_part_of_the_greatest_value(part: float, agrees: bool) -> None:
    expected = record(off_by(0), config(), Path(), CORNERS)
    found = compare(off_by(part), expected)
    assert found.difference == pytest.approx(part, rel=1e-3)
    assert (disagreement(found, 5e-3) is None) == agrees


def test_a_number_that_is_none_agrees_with_nothing() -> None:
    def compute(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        made = feeds["x"] * 2
        made[-1, -1] = np.nan
        return {"y": made}

    expected = record(off_by(0), config(), Path(), CORNERS)
    assert compare(fake(FakeModel(compute=compute)), expected).difference >= 1


def test_another_shape_agrees_with_nothing() -> None:
    other = fake(FakeModel(compute=lambda feeds: {"y": feeds["x"][:1]}))
    expected = record(off_by(0), config(), Path(), CORNERS)
    assert compare(other, expected).difference >= 1


def test_all_corners_are_run_with_different_rows_and_kept_as_copies() -> None:
    shared = np.zeros((8, 4), np.float32)

    def compute(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        rows = len(feeds["x"])
        shared[:rows] = feeds["x"] * 2
        return {"y": shared[:rows]}  # memory that the next run writes again

    expected = record(fake(FakeModel(compute=compute)), config(), Path(), CORNERS)
    assert [run.feeds()["x"].shape for run in expected.runs] == [(8, 4)] * 2 + [(1, 4)] * 2
    assert not np.array_equal(expected.runs[0].feeds()["x"], expected.runs[1].feeds()["x"])
    for run in expected.runs:
        np.testing.assert_array_equal(run.outputs["y"], run.feeds()["x"] * 2)


def test_warm_up_samples_are_compared_as_well() -> None:
    given = WarmupInput(DataType.FP32, (4,), "random")
    sampled = replace(config(), warmup=(WarmupSample("real", 2, 1, {"x": given}),))
    expected = record(off_by(0), sampled, Path(), CORNERS)
    assert expected.runs[0].feeds()["x"].shape == (2, 4)
    assert len(expected.runs) == 1 + len(CORNERS) * len(SEEDS)


def test_inputs_that_the_serving_session_does_not_run_are_left_out() -> None:
    def fail(feeds: Mapping[str, Array]) -> ServingError | None:
        return ExecutionFailed("too many") if len(feeds["x"]) > 4 else None

    expected = record(fake(FakeModel(fail=fail)), config(), Path(), CORNERS)
    assert [len(run.feeds()["x"]) for run in expected.runs] == [1, 1]


def test_a_model_for_which_no_inputs_are_known_cannot_be_compared() -> None:
    broken = fake(FakeModel(fail=lambda feeds: ExecutionFailed("never")))
    with pytest.raises(InvalidRequest, match="a model_warmup sample of real data would help"):
        record(broken, config(), Path(), CORNERS)


def test_a_comparison_stops_when_told() -> None:
    expected = record(off_by(0), config(), Path(), CORNERS)
    with pytest.raises(InterruptedError):
        compare(off_by(0), expected, proceed=lambda: False)


def test_what_agrees_to_the_last_digit_may_always_serve() -> None:
    assert disagreement(Agreement(0.0, "y", 4), 0.0) is None


def test_a_record_that_is_forgotten_holds_nothing() -> None:
    expected = record(off_by(0), config(), Path(), CORNERS)
    expected.forget()
    assert not expected.runs
