"""Scanning repositories: which models there are, which of them can be served, and why not."""

from pathlib import Path

import pytest
from stoker.errors import InvalidRequest
from stoker.repository.local import scan
from stoker.tensor import DataType, TensorSpec


def put(folder: Path, *files: str, **texts: str) -> Path:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name, text in texts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.pbtxt").write_text(text)
    return folder


class Opened:
    inputs = (TensorSpec("x", DataType.FP32, (-1, 3)),)
    outputs = (TensorSpec("y", DataType.FP32, (-1,)),)
    dimension_names: dict[str, tuple[str | None, ...]] = {}  # noqa: RUF012  # a constant
    unranked: frozenset[str] = frozenset()


def test_a_model_without_a_file_is_drafted_with_defaults(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx", "m/3/model.onnx")
    model = scan([tmp_path]).models["m"]
    assert (model.name, model.problems, model.warnings) == ("m", (), ())
    assert model.versions == {3: tmp_path / "m/3/model.onnx"}
    assert model.draft is not None
    assert (model.draft.name, model.draft.max_batch_size, model.draft.inputs) == ("m", 0, ())


def test_the_draft_has_what_a_session_needs(tmp_path: Path) -> None:
    put(
        tmp_path,
        "m/1/model.onnx",
        m='parameters { key: "intra_op_thread_count" value { string_value: "2" } } '
        "optimization { graph { level: -1 } } instance_group { count: 3 }",
    )
    draft = scan([tmp_path]).models["m"].draft
    assert draft is not None
    assert draft.parameters == {"intra_op_thread_count": "2"}
    assert draft.optimization.graph_level == -1
    assert draft.instance_groups[0].count == 3


def test_the_version_policy_chooses(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx", "m/2/model.onnx", m="version_policy { all { } }")
    assert sorted(scan([tmp_path]).models["m"].versions) == [1, 2]


def test_a_policy_that_leaves_nothing_is_a_problem(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx", m="version_policy { specific { versions: [4, 5] } }")
    model = scan([tmp_path]).models["m"]
    assert model.problems == (
        "m/config.pbtxt:1: version_policy: expected one of the versions 1, got 4, 5",
    )


def test_a_version_without_a_model_file_does_not_stop_the_others(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx", "m/2/resnet.onnx", m="version_policy { all { } }")
    model = scan([tmp_path]).models["m"]
    assert model.problems == ()
    assert list(model.versions) == [1]
    assert "version 2 of 'm' has no 'model.onnx'; it has resnet.onnx" in model.version_problems[2]
    assert any("version 2" in warning for warning in model.warnings)


def test_an_older_version_never_stands_in_for_a_broken_latest(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx", "m/2/model.plan")
    model = scan([tmp_path]).models["m"]
    assert model.versions == {}
    assert "version 2 of 'm' has no 'model.onnx'" in model.problems[0]


def test_the_file_names_the_model_file(tmp_path: Path) -> None:
    put(tmp_path, "m/1/net.onnx", m='default_model_filename: "net.onnx"')
    assert scan([tmp_path]).models["m"].versions == {1: tmp_path / "m/1/net.onnx"}


def test_a_broken_model_stands_beside_a_good_one(tmp_path: Path) -> None:
    put(tmp_path, "good/1/model.onnx", "bad/1/model.onnx", bad="max_batchsize: 4\nname: 'x'")
    models = scan([tmp_path]).models
    assert models["good"].problems == ()
    assert models["bad"].draft is None
    assert models["bad"].versions == {}
    assert [problem.split(": ")[0] for problem in models["bad"].problems] == [
        "bad/config.pbtxt:1",
        "bad/config.pbtxt:2",
    ]


def test_a_folder_without_a_model_is_a_model_with_a_problem(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "expected a version folder" in scan([tmp_path]).models["empty"].problems[0]


def test_a_name_in_two_repositories_is_one_model_with_a_problem(tmp_path: Path) -> None:
    put(tmp_path, "one/m/1/model.onnx", "two/m/1/model.onnx", "two/n/1/model.onnx")
    models = scan([tmp_path / "one", tmp_path / "two"]).models
    assert "'one/m' and 'two/m'" in models["m"].problems[0]
    assert (models["m"].versions, models["m"].draft) == ({}, None)
    assert models["n"].problems == ()
    with pytest.raises(InvalidRequest, match="two places"):
        models["m"].complete(Opened())


def test_the_same_repository_twice_is_read_once(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    repository = scan([tmp_path, tmp_path / "m" / ".."])
    assert repository.models["m"].problems == ()
    assert "twice" in repository.warnings[0]


def test_a_mounted_model_takes_the_given_name_then_its_own_then_the_folders(
    tmp_path: Path,
) -> None:
    folder = put(tmp_path / "models", "1/model.onnx")
    assert list(scan([folder]).models) == ["models"]
    (folder / "config.pbtxt").write_text('name: "resnet"')
    assert list(scan([folder]).models) == ["resnet"]
    (model,) = scan([folder], model_name="served").models.values()
    assert (model.name, model.problems) == ("served", ())
    assert model.complete(Opened()).name == "served"


def test_a_given_name_fits_one_model_only(tmp_path: Path) -> None:
    put(tmp_path, "a/1/model.onnx", "b/1/model.onnx")
    repository = scan([tmp_path], model_name="served")
    assert sorted(repository.models) == ["a", "b"]
    assert "'served' is ignored" in repository.warnings[0]


def test_a_loose_file_is_shown_under_its_own_name(tmp_path: Path) -> None:
    put(tmp_path, "net.onnx")
    (model,) = scan([tmp_path / "net.onnx"]).models.values()
    assert (model.name, model.versions) == ("net", {1: tmp_path / "net.onnx"})
    assert model.complete(Opened()).default_model_filename == "net.onnx"


def test_the_default_batch_size_reaches_completion(tmp_path: Path) -> None:
    put(tmp_path, "m/1/model.onnx")
    model = scan([tmp_path], default_max_batch_size=16).models["m"]
    assert model.complete(Opened()).max_batch_size == 16


def test_a_path_that_holds_nothing_is_a_problem_of_the_repository(tmp_path: Path) -> None:
    repository = scan([tmp_path / "nothing"])
    assert (dict(repository.models), len(repository.problems)) == ({}, 1)
