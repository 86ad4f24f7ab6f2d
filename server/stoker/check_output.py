"""Prints what `stoker check` found: a table of models, each completed configuration, the problems.

On a terminal the table is drawn by rich; elsewhere it is plain text whose columns are separated
by tabs, so that `cut` and `grep` work on it. Problems come last, where they are seen.
"""

from collections.abc import Iterator
from typing import Final, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stoker.checking import CheckedModel, CheckReport
from stoker.tensor import TensorSpec

COLUMNS: Final = (
    "MODEL",
    "VERSION",
    "STATE",
    "MAX BATCH",
    "BATCHING",
    "INSTANCES",
    "DEVICE",
    "INPUTS",
    "OUTPUTS",
)


def print_report(report: CheckReport, stream: TextIO, *, width: int | None = None) -> None:
    """Writes the report; `width` is the terminal's, None: ask the terminal."""
    if stream.isatty():
        _write_table(report, stream, width)
    else:
        stream.writelines("\t".join(row) + "\n" for row in (COLUMNS, *map(_row, report.models)))
    for model in report.models:
        if model.config:
            heads = "".join(f"# {line}\n" for line in (_title(model), *model.details))
            stream.write(f"\n{heads}{model.config.rstrip()}\n")
    notes = [*_notes(report)]
    if notes:
        stream.write("\n")
    stream.writelines(f"{note}\n" for note in notes)
    good = sum(not model.problems for model in report.models)
    count = sum(note.startswith("problem:") for note in notes)
    stream.write(
        f"\n{good} of {len(report.models)} would be served; "
        f"{count} problem{'' if count == 1 else 's'}\n"
    )


def _write_table(report: CheckReport, stream: TextIO, width: int | None) -> None:
    table = Table(*COLUMNS)
    for model in report.models:
        cells = [Text(cell) for cell in _row(model)]
        cells[2].stylize("bold red" if model.problems else "green")
        table.add_row(*cells)
    Console(file=stream, width=width).print(table)


def _row(model: CheckedModel) -> tuple[str, ...]:
    return (
        model.name,
        model.version or "-",
        "problem" if model.problems else "ok",
        str(model.max_batch_size) if model.config else "-",
        model.batching or "-",
        model.instances or "-",
        model.device or "-",
        _specs(model.inputs),
        _specs(model.outputs),
    )


def _specs(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(map(str, specs)) or "-"


def _title(model: CheckedModel) -> str:
    return f"{model.name} version {model.version}" if model.version else model.name


def _notes(report: CheckReport) -> Iterator[str]:
    for model in report.models:
        for warning in model.warnings:
            yield f"warning: {_title(model)}: {warning}"
    for model in report.models:
        for problem in model.problems:
            yield f"problem: {_title(model)}: {problem}"
    for problem in report.problems:
        yield f"problem: {problem}"
