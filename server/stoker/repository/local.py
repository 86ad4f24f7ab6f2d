"""Scans repositories on local disk: every model there is, servable or not.

The way from paths to what lifecycle loads: `layout` finds models, `model_folder` reads each.
Blocking: call it from a thread once the event loop runs.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from stoker.repository.layout import ModelLayout, read_layout
from stoker.repository.model_folder import ModelFolder, read_model_folder, with_problem


@dataclass(frozen=True, slots=True)
class Repository:
    """All models of all paths, by name."""

    models: Mapping[str, ModelFolder]
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """Paths from which nothing can be served, each with its reason."""


def scan(
    paths: Sequence[Path], *, model_name: str = "", default_max_batch_size: int = 4
) -> Repository:
    """Everything that the paths hold: repositories, folders of one model, .onnx files.

    `model_name` renames the model if there is exactly one. A name that occurs twice is one model
    with a problem. Never raises.
    """
    found: list[ModelLayout] = []
    warnings: list[str] = []
    problems: list[str] = []
    for path in _once(paths, warnings):
        layout = read_layout(path)
        found += layout.models
        warnings += layout.warnings
        problems += layout.problems
    name = model_name
    if model_name and len(found) != 1:
        name = ""
        warnings.append(
            f"the model name '{model_name}' is ignored; it needs exactly one model, "
            f"there are {len(found)}"
        )
    models: dict[str, ModelFolder] = {}
    for each in found:
        folder = read_model_folder(each, name=name, default_max_batch_size=default_max_batch_size)
        twin = models.get(folder.name)
        if twin is not None:
            folder = with_problem(
                twin,
                f"the name '{folder.name}' is in two places: '{_place(twin.folder)}' and "
                f"'{_place(folder.folder)}'; a name must be in one",
            )
        models[folder.name] = folder
    return Repository(MappingProxyType(models), tuple(warnings), tuple(problems))


def _once(paths: Sequence[Path], warnings: list[str]) -> list[Path]:
    """The paths without those that are the same place again."""
    seen: dict[str, Path] = {}
    for path in paths:
        place = os.path.realpath(path)
        if place in seen:
            warnings.append(f"'{path}' is given twice; it is read once")
        else:
            seen[place] = path
    return list(seen.values())


def _place(folder: Path) -> str:
    """Enough of the path to tell two folders of one name apart."""
    return "/".join(Path(os.path.realpath(folder)).parts[-2:])
