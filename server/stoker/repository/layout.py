"""What a folder holds: a repository of models, one model, or nothing of the kind.

Looks at names only: no file is opened here, no configuration read. These are understood, in this
order; the first that fits decides:
  1. a file `x.onnx`: the model `x`;
  2. a folder with `config.pbtxt`, or with `<version>/*.onnx`: one model, named after the folder;
  3. a folder with folders like (2) or (4) in it: a repository of models;
  4. a folder with one `*.onnx`, or with `model.onnx`: one model, served as version 1.
A model file may itself be a folder that holds `model.onnx` and its data.

Source: Triton's model repository layout; KServe mounts such folders at /mnt/models.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

CONFIG_FILE: Final = "config.pbtxt"
MODEL_FILE: Final = "model.onnx"

_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_KNOWN_FOLDERS: Final = frozenset({"warmup", "initial_state", "configs"})
_NOT_MODELS: Final = frozenset({"lost+found", "__pycache__"})


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """One model as it lies on disk."""

    name: str
    folder: Path
    config_file: Path | None
    version_folders: Mapping[int, Path]
    loose_file: Path | None = None
    """A model file without version folder: version 1."""
    is_named_by_folder: bool = True
    """False: the folder is a mount whose name means little; a name in the file wins."""
    warnings: tuple[str, ...] = ()
    problem: str = ""
    """Why the folder could not be read."""

    @property
    def versions(self) -> tuple[int, ...]:
        """Every version there is, in rising order."""
        return tuple(sorted(self.version_folders)) or ((1,) if self.loose_file else ())

    def model_file(self, version: int, filename: str) -> Path | None:
        """The version's model file; None if it is not there. `filename` empty: model.onnx."""
        if self.loose_file is not None:
            return _model_at(self.folder / (filename or self.loose_file.name))
        return _model_at(self.version_folders[version] / (filename or MODEL_FILE))


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that one path holds."""

    models: tuple[ModelLayout, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """Why nothing can be served from this path."""


def read_layout(path: Path) -> Layout:
    """What the path holds. Never raises: what cannot be read is a problem."""
    try:
        if path.is_file():
            return _of_file(path)
        if not path.is_dir():
            return Layout(problems=(f"'{path}': no such file or folder",))
        if _is_versioned_model(path):
            return Layout((read_model(path, is_named_by_folder=False),))
        return _of_repository(path)
    except OSError as error:
        return Layout(problems=(f"'{path}': cannot be read: {error.strerror}",))


def read_model(folder: Path, *, is_named_by_folder: bool = True) -> ModelLayout:
    """One model's folder: its configuration, versions, and what in it is ignored."""
    versions: dict[int, Path] = {}
    warnings = []
    for entry in _entries(folder):
        if not entry.is_dir() or entry.name in _KNOWN_FOLDERS or _is_onnx(entry):
            continue
        if _VERSION.fullmatch(entry.name):
            versions[int(entry.name)] = entry
        elif entry.name.isdecimal():
            warnings.append(
                f"'{folder.name}/{entry.name}' is ignored; "
                "version folders are numbers from 1 without leading zeros"
            )
        else:
            warnings.append(f"'{folder.name}/{entry.name}' is ignored; it is not a version folder")
    loose = None
    if not versions:
        loose = _loose_file(folder)
    elif _loose_file(folder) is not None:
        warnings.append(f"model files beside the version folders of '{folder.name}' are ignored")
    config = folder / CONFIG_FILE
    return ModelLayout(
        name=_name(folder),
        folder=folder,
        config_file=config if config.is_file() else None,
        version_folders=MappingProxyType(versions),
        loose_file=loose,
        is_named_by_folder=is_named_by_folder,
        warnings=tuple(warnings),
    )


def onnx_names(folder: Path) -> tuple[str, ...]:
    """The `*.onnx` entries of a folder; none if it cannot be read."""
    try:
        return tuple(entry.name for entry in _entries(folder) if _is_onnx(entry))
    except OSError:
        return ()


def _of_file(path: Path) -> Layout:
    if not _is_onnx(path):
        return Layout(
            problems=(f"'{path}': expected a folder or a file that ends in .onnx, got a file",)
        )
    return Layout(
        (ModelLayout(path.stem, path.parent, None, MappingProxyType({}), loose_file=path),)
    )


def _of_repository(path: Path) -> Layout:
    models, warnings = [], []
    for entry in _entries(path):
        if entry.is_dir() and entry.name in _NOT_MODELS:
            warnings.append(f"'{entry.name}' is ignored; it is not a model")
        elif entry.is_dir() and not _is_onnx(entry):
            models.append(entry)
    loose = onnx_names(path)
    if loose and not any(_looks_like_model(entry) for entry in models):
        if _loose_file(path) is not None:
            return Layout((read_model(path, is_named_by_folder=False),))
        return Layout(
            problems=(
                f"'{path}': expected one .onnx file or folders of models, got {len(loose)} files: "
                f"{', '.join(loose)}; name the files one by one to serve them all",
            )
        )
    warnings += [
        f"'{name}' is ignored; models of a repository have a folder each" for name in loose
    ]
    if not models:
        found = f"; {'; '.join(warnings)}" if warnings else ""
        return Layout(problems=(f"'{path}': expected folders of models, found none{found}",))
    return Layout(tuple(map(_read_or_tell, models)), tuple(warnings))


def _read_or_tell(folder: Path) -> ModelLayout:
    """One unreadable folder does not hide the models beside it."""
    try:
        return read_model(folder)
    except OSError as error:
        return ModelLayout(
            folder.name,
            folder,
            None,
            MappingProxyType({}),
            problem=f"the folder cannot be read: {error.strerror}",
        )


def _is_versioned_model(folder: Path) -> bool:
    if (folder / CONFIG_FILE).is_file():
        return True
    return any(
        _VERSION.fullmatch(entry.name) and entry.is_dir() and onnx_names(entry)
        for entry in _entries(folder)
    )


def _looks_like_model(folder: Path) -> bool:
    try:
        return _is_versioned_model(folder) or bool(onnx_names(folder))
    except OSError:
        return False


def _name(folder: Path) -> str:
    """The folder's name as it is called, not where a link leads; also of `.` and `..`."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def _loose_file(folder: Path) -> Path | None:
    names = onnx_names(folder)
    if MODEL_FILE in names:
        return folder / MODEL_FILE
    return folder / names[0] if len(names) == 1 else None


def _entries(folder: Path) -> list[Path]:
    """Sorted by name, without hidden ones (`.git`, and `..data` of Kubernetes' volumes)."""
    return sorted(
        (entry for entry in folder.iterdir() if not entry.name.startswith(".")),
        key=lambda entry: entry.name,
    )


def _is_onnx(path: Path) -> bool:
    return path.suffix == ".onnx"


def _model_at(path: Path) -> Path | None:
    inside = path / MODEL_FILE
    try:
        if path.is_dir():
            return inside if inside.is_file() else None
        return path if path.is_file() else None
    except (OSError, ValueError):
        return None
