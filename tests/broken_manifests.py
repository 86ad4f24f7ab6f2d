"""The good manifests of `good_manifests.yaml`, and how tests break them: one edit after another.

An edit changes the list in place: `put` writes a value, `take` removes one, `add` appends a
manifest, `drop` removes those of a kind.
"""

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias, cast

import yaml
from stoker.deploy.finding import Finding
from stoker.deploy.lint import lint
from stoker.deploy.manifest import JsonObject, JsonValue, Manifest, at, parse_manifests
from stoker.deploy.measurement import MeasuredModel, Measurement

GOOD: Final = parse_manifests(
    Path(__file__).with_name("good_manifests.yaml").read_text(), "good_manifests.yaml"
)

Edit: TypeAlias = Callable[[list[Manifest]], None]
Path_: TypeAlias = tuple[str | int, ...]

POD: Final[Path_] = ("spec", "template", "spec")
SERVER: Final[Path_] = (*POD, "containers", 0)


def good() -> list[Manifest]:
    """A fresh copy, to be broken."""
    return deepcopy(GOOD)


def edited(*edits: Edit) -> list[Manifest]:
    """The good manifests after these edits."""
    manifests = good()
    for edit in edits:
        edit(manifests)
    return manifests


def put(kind: str, *path: str | int, value: JsonValue) -> Edit:
    """Writes `value` at a path of the first manifest of a kind; mappings on the way are made."""

    def edit(manifests: list[Manifest]) -> None:
        here: JsonValue = _first(manifests, kind).value
        for step, following in pairwise(path):
            if at(here, step) is None:
                _set(here, step, [] if isinstance(following, int) else {})
            here = at(here, step)
        _set(here, path[-1], value)

    return edit


def take(kind: str, *path: str | int) -> Edit:
    """Removes what stands at a path of the first manifest of a kind."""

    def edit(manifests: list[Manifest]) -> None:
        above = at(_first(manifests, kind).value, *path[:-1])
        last = path[-1]
        if isinstance(above, dict) and isinstance(last, str):
            above.pop(last)
        elif isinstance(above, list) and isinstance(last, int):
            above[last : last + 1] = []
        else:
            raise LookupError(f"{kind} has nothing at {path}")

    return edit


def add(text: str) -> Edit:
    """Appends the manifests of a YAML text."""
    return lambda manifests: manifests.extend(parse_manifests(text, "added"))


def drop(kind: str) -> Edit:
    """Removes all manifests of a kind."""

    def edit(manifests: list[Manifest]) -> None:
        manifests[:] = [each for each in manifests if each.kind != kind]

    return edit


def server(*path: str | int, value: JsonValue) -> Edit:
    """`put` in the Deployment's container."""
    return put("Deployment", *SERVER, *path, value=value)


def pod(*path: str | int, value: JsonValue) -> Edit:
    """`put` in the Deployment's pod."""
    return put("Deployment", *POD, *path, value=value)


def variable(name: str, value: str) -> Edit:
    """Adds a variable to the container."""

    def edit(manifests: list[Manifest]) -> None:
        listed = at(_first(manifests, "Deployment").value, *SERVER, "env")
        cast("list[JsonValue]", listed).append({"name": name, "value": value})

    return edit


def setting(line: str) -> Edit:
    """Adds a line to the settings' file."""

    def edit(manifests: list[Manifest]) -> None:
        data = cast("JsonObject", _first(manifests, "ConfigMap").value["data"])
        data["stoker.yaml"] = f"{data['stoker.yaml']}{line}\n"

    return edit


def findings(
    manifests: Sequence[Manifest],
    *,
    measured: Measurement | None = None,
    start_s: float | None = None,
    ignored: Collection[str] = (),
) -> dict[str, list[Finding]]:
    """The findings by the rule's id."""
    found: dict[str, list[Finding]] = {}
    for each in lint(manifests, measured=measured, start_s=start_s, ignored=ignored):
        found.setdefault(each.rule.id, []).append(each)
    return found


def measurement(
    *,
    start_s: float = 20.0,
    peak_bytes: int = 1 << 30,
    loaded_bytes: int | None = 2 << 30,
    on_gpu: bool = True,
    rows: int = 8,
    files_bytes: int = 0,
    models: Sequence[str] = ("resnet",),
) -> Measurement:
    """A made-up one; the models differ in their names alone."""
    model = MeasuredModel(
        name="resnet",
        version="1",
        load_s=6.0,
        devices=("cuda:0",) if on_gpu else ("cpu",),
        instances=1,
        batch_limit_rows=rows,
        row_seconds=0.001,
        weights_bytes=100 << 20,
        loaded_bytes=loaded_bytes,
        workspace_bytes=1 << 30,
        input_row_bytes=600 << 10,
        output_row_bytes=4000,
        has_variable_shapes=False,
    )
    return Measurement(
        machine="a machine of the tests",
        cpus=4,
        on_gpu=on_gpu,
        gpu_name="NVIDIA L4" if on_gpu else "",
        start_s=start_s,
        peak_bytes=peak_bytes,
        models=tuple(replace(model, name=each) for each in models),
        files_bytes=files_bytes,
    )


def _first(manifests: list[Manifest], kind: str) -> Manifest:
    return next(each for each in manifests if each.kind == kind)


def _set(holder: JsonValue, step: str | int, value: JsonValue) -> None:
    if isinstance(holder, dict) and isinstance(step, str):
        holder[step] = value
    elif isinstance(holder, list) and isinstance(step, int):
        holder[step : step + 1] = [value]
    else:
        raise LookupError(f"cannot write {step!r} into {holder!r}")


def as_yaml(manifests: Sequence[Manifest]) -> str:
    """The manifests as a renderer prints them."""
    return yaml.safe_dump_all([each.value for each in manifests])
