"""One model of a repository: what its folder and its configuration say, and how it is completed.

`lifecycle/` opens the versions, hands the opened model to `complete` and serves the result. A
model that cannot be served is a `ModelFolder` as well: with its problems, and without versions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from stoker.device import DeviceReport
from stoker.errors import InvalidRequest
from stoker.model import ModelConfig
from stoker.repository.completion import OpenedModel, complete
from stoker.repository.config_checks import check_config
from stoker.repository.defaults import Placed, show_devices
from stoker.repository.layout import CONFIG_FILE, MODEL_FILE, ModelLayout, onnx_names
from stoker.repository.model_config import Message, read, to_model_config, version_policy
from stoker.repository.obedience import check_obedience
from stoker.repository.report import Report
from stoker.repository.version_policy import choose, missing


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model, read once. What changes on disk later is seen by reading again."""

    name: str
    folder: Path
    draft: ModelConfig | None
    """What the file says, before completion; defaults without a file, None with problems."""
    versions: Mapping[int, Path]
    """The versions that the policy chose and that have a model file, with that file."""
    problems: tuple[str, ...] = ()
    """Why the model cannot be served: whole sentences, with file, line and field."""
    warnings: tuple[str, ...] = ()
    version_problems: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    """Versions that the policy chose and that cannot be opened, with the reason."""
    message: bytes = b""
    """The file's ModelConfig message as written, except for its name."""
    report: Report = field(default_factory=lambda: Report(""))
    """Where the fields of the file stand."""
    default_max_batch_size: int = 4

    def complete(
        self,
        opened: OpenedModel,
        *,
        placements: Sequence[Placed] = (),
        reports: Sequence[DeviceReport] = (),
        warn: Callable[[str], None] | None = None,
    ) -> ModelConfig:
        """The effective configuration: completed from the opened model, defaults filled in.

        `placements` fill the instance groups shown, `reports` the parameter `stoker.devices`;
        `warn` gets each doubt as a sentence. Raises InvalidRequest with everything in which file
        and model contradict each other.
        """
        if self.problems:
            raise InvalidRequest("; ".join(self.problems))
        written = Message.FromString(self.message)
        report = self.report.fresh()
        completed = complete(
            written,
            opened,
            report,
            default_max_batch_size=self.default_max_batch_size,
            placements=placements,
        )
        show_devices(completed.message, reports)
        if report.problems:
            raise InvalidRequest("; ".join(report.problems))
        if warn is not None:
            for sentence in report.warnings:
                warn(sentence)
        return to_model_config(completed.message, written, scalars=completed.scalars)


def read_model_folder(
    layout: ModelLayout, *, name: str = "", default_max_batch_size: int
) -> ModelFolder:
    """Reads and checks one model. `name` overrides what the folder and its file say.

    Never raises: what cannot be read or served is in `problems`.
    """
    label = layout.name or "model"
    message, report = Message(), Report(label)
    if layout.config_file is not None:
        file = f"{label}/{CONFIG_FILE}"
        try:
            message, report = read(layout.config_file.read_bytes(), file=file)
        except OSError as error:
            report = Report(file)
            report.fail((), f"cannot be read: {error.strerror}")
    if layout.problem:
        report.fail((), layout.problem)
    for sentence in layout.warnings:
        report.warn((), sentence)
    called = name or (layout.name if layout.is_named_by_folder else message.name or layout.name)
    check_config(
        message,
        report,
        name=layout.name if layout.is_named_by_folder else None,
        folder=layout.folder,
    )
    check_obedience(message, report)
    message.name = called
    if layout.loose_file is not None and not message.default_model_filename:
        message.default_model_filename = layout.loose_file.name
    versions, version_problems = _versions(layout, message, report)
    return ModelFolder(
        name=called,
        folder=layout.folder,
        draft=None if report.problems else to_model_config(message, message),
        versions=MappingProxyType({} if report.problems else versions),
        problems=tuple(report.problems),
        warnings=tuple(report.warnings),
        version_problems=MappingProxyType(version_problems),
        message=message.SerializeToString(deterministic=True),
        report=report,
        default_max_batch_size=default_max_batch_size,
    )


def with_problem(folder: ModelFolder, problem: str) -> ModelFolder:
    """The same model, unservable for one more reason."""
    return replace(
        folder,
        draft=None,
        versions=MappingProxyType({}),
        problems=(*folder.problems, problem),
    )


def _versions(
    layout: ModelLayout, message: Message, report: Report
) -> tuple[dict[int, Path], dict[int, str]]:
    policy = version_policy(message)
    chosen = choose(policy, layout.versions)
    absent = missing(policy, layout.versions)
    if absent:
        report.warn(("version_policy",), f"there is no version {', '.join(map(str, absent))}")
    if layout.problem:
        return {}, {}
    if not layout.versions:
        report.fail(
            (), f"expected a version folder such as '1' that holds '{MODEL_FILE}', got none"
        )
    elif not chosen:
        report.fail(
            ("version_policy",),
            f"expected one of the versions {', '.join(map(str, layout.versions))}, got "
            f"{', '.join(map(str, absent))}",
        )
    files: dict[int, Path] = {}
    problems: dict[int, str] = {}
    filename = message.default_model_filename or MODEL_FILE
    for version in chosen:
        file = layout.model_file(version, filename)
        if file is not None:
            files[version] = file
            continue
        there = onnx_names(layout.version_folders.get(version, layout.folder))
        advice = f"; it has {', '.join(there)}: rename it or set default_model_filename"
        problems[version] = (
            f"version {version} of '{layout.name}' has no '{filename}'{advice if there else ''}"
        )
    for sentence in problems.values():
        if files:
            report.warn((), sentence)
        else:
            report.fail((), sentence)
    return files, problems
