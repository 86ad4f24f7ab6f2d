"""What was measured of models: `stoker k8s init` writes it, and `lint` compares manifests with it.

A plain value and its JSON form (measured.json), so that models can be measured on one machine, a
GPU node say, and the manifests be written on another.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

FORM: Final = 1
"""Of the file; one that this version cannot read has another."""
DEMO_MODELS: Final = frozenset({"digits", "echo", "simple"})
"""Source: server/stoker/demo/models."""


class UnreadableMeasurement(Exception):
    """A file that holds no measurement: one line with what was expected and what came."""


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """One version of a model that served."""

    name: str
    version: str
    load_s: float
    devices: tuple[str, ...]
    """Where its sessions ran: `cpu`, `cuda:0` ..."""
    instances: int
    batch_limit_rows: int
    """Rows of the largest batch that the server makes."""
    row_seconds: float | None
    """Device time of a row at the usual batch; None where no cost curve was measured."""
    weights_bytes: int
    loaded_bytes: int | None
    """What opening it added to its devices; None where other loads ran at the same moment."""
    workspace_bytes: int | None
    input_row_bytes: int
    """Of one row, variable dimensions taken as 1 and text as nothing."""
    output_row_bytes: int
    has_variable_shapes: bool
    """Whether requests can be larger than the two numbers say."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A server with these models, started once and looked at when it was ready."""

    machine: str
    """In words: processors, memory, GPUs."""
    cpus: int
    """That the process could use."""
    on_gpu: bool
    """Whether the models ran on a GPU."""
    gpu_name: str
    """Empty without."""
    start_s: float
    """From the start of the process until it was ready."""
    peak_bytes: int
    """The most memory that the process had resident until then."""
    models: tuple[MeasuredModel, ...]
    files_bytes: int = 0
    """What the sources hold on disk, versions that are not served too; 0 where nobody looked."""

    @property
    def is_of_the_demo(self) -> bool:
        """Whether the models are those that `stoker serve` without a source has."""
        return {each.name for each in self.models} == DEMO_MODELS

    @property
    def download_bytes(self) -> int:
        """What a pod that downloads the models fetches, as far as it is known."""
        return self.files_bytes or sum(each.weights_bytes for each in self.models)

    @property
    def gpu_bytes(self) -> int | None:
        """What the models took of GPUs by opening and running; None where it was not measured."""
        taken = 0
        on_gpus = [each for each in self.models if any(name != "cpu" for name in each.devices)]
        for model in on_gpus:
            if model.loaded_bytes is None or model.workspace_bytes is None:
                return None
            taken += model.loaded_bytes + model.workspace_bytes
        return taken if on_gpus else None


def to_json(measured: Measurement) -> str:
    """The text of measured.json."""
    return json.dumps({"form": FORM, **asdict(measured)}, indent=2) + "\n"


def from_json(content: str, source: str) -> Measurement:
    """Reads measured.json. Raises UnreadableMeasurement."""
    expected = f"{source}: expected the measured.json of `stoker k8s init`"
    try:
        value = json.loads(content)
    except ValueError as error:
        raise UnreadableMeasurement(f"{expected}, got no JSON: {error}") from error
    if not isinstance(value, dict) or value.get("form") != FORM:
        form = value.get("form") if isinstance(value, dict) else None
        raise UnreadableMeasurement(f"{expected} of form {FORM}, got form {form!r}")
    try:
        models = tuple(_model(each) for each in value["models"])
        return Measurement(
            machine=str(value["machine"]),
            cpus=int(value["cpus"]),
            on_gpu=bool(value["on_gpu"]),
            gpu_name=str(value["gpu_name"]),
            start_s=float(value["start_s"]),
            peak_bytes=int(value["peak_bytes"]),
            models=models,
            files_bytes=int(value.get("files_bytes", 0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableMeasurement(f"{expected}, got one whose field {error} is wrong") from error


def read_measurement(path: Path) -> Measurement:
    """Reads measured.json. Raises UnreadableMeasurement."""
    try:
        return from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableMeasurement(
            f"{path}: expected the measured.json of `stoker k8s init`, got {error}"
        ) from error


def _model(value: Mapping[str, Any]) -> MeasuredModel:
    def optional(key: str) -> int | None:
        return None if value[key] is None else int(value[key])

    row_seconds = value["row_seconds"]
    return MeasuredModel(
        name=str(value["name"]),
        version=str(value["version"]),
        load_s=float(value["load_s"]),
        devices=tuple(map(str, cast("list[object]", value["devices"]))),
        instances=int(value["instances"]),
        batch_limit_rows=int(value["batch_limit_rows"]),
        row_seconds=None if row_seconds is None else float(row_seconds),
        weights_bytes=int(value["weights_bytes"]),
        loaded_bytes=optional("loaded_bytes"),
        workspace_bytes=optional("workspace_bytes"),
        input_row_bytes=int(value["input_row_bytes"]),
        output_row_bytes=int(value["output_row_bytes"]),
        has_variable_shapes=bool(value["has_variable_shapes"]),
    )
