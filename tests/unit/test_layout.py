"""What folders hold, by their names alone."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from stoker.repository.layout import read_layout


def put(folder: Path, *files: str) -> Path:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def names(path: Path) -> list[str]:
    return [model.name for model in read_layout(path).models]


def test_a_repository_holds_a_model_in_each_folder(tmp_path: Path) -> None:
    put(tmp_path, "b/1/model.onnx", "a/config.pbtxt", "a/3/model.onnx", "README.md")
    assert names(tmp_path) == ["a", "b"]


def test_a_folder_without_models_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "notes.txt").touch()
    (problem,) = read_layout(tmp_path).problems
    assert problem.startswith(f"'{tmp_path}': expected folders of models, found none")


def test_a_file_is_a_model_named_after_it(tmp_path: Path) -> None:
    layout = read_layout(put(tmp_path, "resnet.v2.onnx") / "resnet.v2.onnx")
    (model,) = layout.models
    assert (model.name, model.versions) == ("resnet.v2", (1,))
    assert model.model_file(1, "") == tmp_path / "resnet.v2.onnx"


def test_a_file_that_is_no_model_is_a_problem(tmp_path: Path) -> None:
    layout = read_layout(put(tmp_path, "weights.bin") / "weights.bin")
    assert layout.models == ()
    assert "ends in .onnx" in layout.problems[0]


def test_a_path_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    assert "no such file or folder" in read_layout(tmp_path / "nothing").problems[0]


def test_a_folder_with_one_model_file_is_that_model(tmp_path: Path) -> None:
    folder = put(tmp_path / "models", "net.onnx", "net.onnx.data", "assets/vocabulary.txt")
    (model,) = read_layout(folder).models
    assert (model.name, model.versions, model.is_named_by_folder) == ("models", (1,), False)
    assert model.model_file(1, "net.onnx") == folder / "net.onnx"


def test_a_folder_with_version_folders_is_that_model(tmp_path: Path) -> None:
    folder = put(tmp_path / "models", "1/model.onnx", "12/model.onnx")
    (model,) = read_layout(folder).models
    assert (model.name, model.versions) == ("models", (1, 12))


def test_a_folder_with_a_configuration_is_that_model(tmp_path: Path) -> None:
    (model,) = read_layout(put(tmp_path / "models", "config.pbtxt", "model.onnx")).models
    assert model.config_file == tmp_path / "models" / "config.pbtxt"
    assert model.versions == (1,)


def test_a_model_called_by_a_number_is_not_taken_for_a_version(tmp_path: Path) -> None:
    assert names(put(tmp_path, "1/1/model.onnx", "2/1/model.onnx")) == ["1", "2"]


def test_several_loose_model_files_are_a_problem_that_names_them(tmp_path: Path) -> None:
    layout = read_layout(put(tmp_path, "a.onnx", "b.onnx"))
    assert layout.models == ()
    assert "a.onnx, b.onnx" in layout.problems[0]


def test_loose_model_files_beside_models_are_ignored_with_a_warning(tmp_path: Path) -> None:
    layout = read_layout(put(tmp_path, "stray.onnx", "good/1/model.onnx"))
    assert [model.name for model in layout.models] == ["good"]
    assert "stray.onnx" in layout.warnings[0]


def test_a_model_file_may_be_a_folder(tmp_path: Path) -> None:
    put(tmp_path, "big/1/model.onnx/model.onnx", "big/1/model.onnx/weights.bin")
    (model,) = read_layout(tmp_path).models
    assert model.model_file(1, "") == tmp_path / "big/1/model.onnx/model.onnx"


def test_a_version_without_a_model_file_has_none(tmp_path: Path) -> None:
    (model,) = read_layout(put(tmp_path, "m/1/model.plan", "m/2/model.onnx")).models
    assert model.model_file(1, "") is None
    assert model.model_file(2, "") == tmp_path / "m/2/model.onnx"


def test_folders_that_are_no_versions_are_ignored_and_told(tmp_path: Path) -> None:
    files = [
        "1/model.onnx",
        "0/x",
        "007/x",
        "v2/x",
        "warmup/x",
        "configs/x",
        ".git/x",
        "labels.txt",
    ]
    (model,) = read_layout(put(tmp_path, *[f"m/{file}" for file in files])).models
    assert model.versions == (1,)
    told = [warning.split("'")[1] for warning in model.warnings]
    assert told == ["m/0", "m/007", "m/v2"]


def test_the_folders_of_a_kubernetes_volume_are_no_models(tmp_path: Path) -> None:
    put(tmp_path, "..2024_01_01/m/1/model.onnx", "lost+found/x")
    (tmp_path / "..data").symlink_to("..2024_01_01")
    (tmp_path / "m").symlink_to("..data/m")
    layout = read_layout(tmp_path)
    assert [model.name for model in layout.models] == ["m"]
    assert layout.models[0].versions == (1,)
    assert "lost+found" in layout.warnings[0]


def test_a_linked_model_keeps_the_name_of_the_link(tmp_path: Path) -> None:
    put(tmp_path / "store", "bert-7f3/1/model.onnx")
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "bert").symlink_to(tmp_path / "store" / "bert-7f3")
    assert names(tmp_path / "repository") == ["bert"]


PARTS = st.sampled_from(["1", "02", "m", "model.onnx", "x.onnx", "config.pbtxt", ".git", "warmup"])


@given(st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join), max_size=6))
@settings(max_examples=25, deadline=None)
def test_any_tree_of_folders_is_read_without_an_exception(paths: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in paths:
            (folder / path).mkdir(parents=True, exist_ok=True)
        layout = read_layout(folder)
        for model in layout.models:
            for version in model.versions:
                file = model.model_file(version, "")
                assert file is None or file.is_file()
