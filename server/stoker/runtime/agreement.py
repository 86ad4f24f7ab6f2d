"""Whether another session of a model gives the same answers as the one that serves.

`record` keeps what the serving session answers to a few seeded inputs; it runs while the model is
loaded, because a session of a GPU is run by one thread at a time. `compare` runs the same inputs in
the other session, later and in another thread.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from stoker.errors import ExecutionFailed, InvalidRequest, OutOfMemory
from stoker.model import ModelConfig
from stoker.runtime.independence import gap, tolerance_of
from stoker.runtime.rows import RowSource, find
from stoker.runtime.session import Session
from stoker.runtime.warmup import Feeds, Sample, samples
from stoker.tensor import Array, DataType

log = logging.getLogger(__name__)

SEEDS: Final = (1, 2)
"""Different rows at each shape."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One run of the serving session. Outputs are copies; inputs, which may be large, are made
    again when they are needed."""

    feeds: Callable[[], Feeds]
    outputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Record:
    """What the serving session answers, and how exact its datatypes are."""

    runs: list[Recorded]
    datatypes: Mapping[str, DataType]
    """Of the outputs."""
    rounding: float
    """The difference that counts as rounding for the model, relative to the greatest value."""

    def forget(self) -> None:
        """Gives the memory back: nothing will be compared any more."""
        self.runs.clear()


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two sessions agree."""

    difference: float
    """The greatest one, relative to the greatest value of its output."""
    output: str
    """The output that has it."""
    runs: int


def record(
    session: Session, config: ModelConfig, folder: Path, corners: Sequence[Shapes]
) -> Record:
    """Runs the warm-up samples and seeded rows of each of `corners`, in the calling thread.

    `folder` is the model's own. Raises InvalidRequest where nothing was found that the model runs.
    """
    given = samples(config, session, folder)
    names = [output.name for output in config.outputs]
    recipes: list[Callable[[], Feeds]] = [partial(_given, sample) for sample in given]
    source = find(session, config, given)
    if source is not None:
        for corner in corners:
            there, rows = _at(source, corner, config), _rows(corner, config)
            recipes += [partial(there.feeds, rows, seed) for seed in SEEDS]
    runs = []
    for each in recipes:
        try:
            made = session.run(each(), names)
        except (ExecutionFailed, OutOfMemory) as error:
            log.debug("model '%s': a sample cannot be compared: %s", config.name, error)
            continue
        runs.append(Recorded(each, dict(zip(names, map(np.array, made), strict=True))))
    if not runs:
        raise InvalidRequest(
            f"model '{config.name}': no inputs were found that it runs, so nothing could be "
            "compared; a model_warmup sample of real data would help"
        )
    datatypes = {output.name: output.datatype for output in config.outputs}
    return Record(runs, datatypes, tolerance_of(session))


def compare(
    session: Session, expected: Record, *, proceed: Callable[[], bool] = lambda: True
) -> Agreement:
    """Runs what was recorded in `session` and gives the greatest difference of all.

    1 or more where shapes, labels or texts differ, or a number is none. Raises what a run raises,
    and InterruptedError when `proceed` says no.
    """
    worst, where = 0.0, next(iter(expected.datatypes), "")
    for run in expected.runs:
        if not proceed():
            raise InterruptedError
        names = list(run.outputs)
        made = dict(zip(names, session.run(run.feeds(), names), strict=True))
        for name, array in run.outputs.items():
            off = gap(expected.datatypes[name], array, made[name])
            if off > worst:
                worst, where = off, name
    return Agreement(worst, where, len(expected.runs))


def _given(sample: Sample) -> Feeds:
    return sample.feeds


def _rows(corner: Shapes, config: ModelConfig) -> int:
    return next((shape[0] for shape in corner.values() if shape), 1) if config.batches else 1


def _at(source: RowSource, corner: Shapes, config: ModelConfig) -> RowSource:
    """The source with the sizes of the corner; what a sample holds is repeated to fill them."""
    items = {}
    base = {}
    for name, (datatype, _) in source.items.items():
        shape = corner.get(name)
        if shape is None:
            raise InvalidRequest(
                f"model '{config.name}': input '{name}' has no shape to compare at"
            )
        items[name] = (datatype, tuple(shape[config.batches :]))
        if name in source.base:
            base[name] = np.resize(source.base[name], items[name][1])
    return RowSource(config, items, source.integers, source.numeric_text, base)


def disagreement(found: Agreement, allowed: float) -> str | None:
    """Why a session that agrees so far must not serve, in words; None where it may."""
    if found.difference <= allowed:
        return None
    return (
        f"output '{found.output}' differs by {found.difference:.2g} of its greatest value, and "
        f"{allowed:.2g} is allowed"
    )
