"""The proof that a row's answer does not depend on the rows beside it in a batch.

Batching strangers' requests is only right for a model whose rows are independent, and an ONNX graph
does not say whether they are. `prove` runs a few distinct rows alone and together, at load:
  1. a row alone, again and again. Answers that go one way: the model keeps state, DEPENDENT.
     Answers that jump: it is random, nothing can be proved, UNPROVEN.
  2. four rows together, in two orders. Each answers as alone, to the datatype's tolerance:
     INDEPENDENT.
  3. else the same set of rows in other numbers (a a b against a b b). Quantisation with ranges
     taken at run time sees only the set's extremes, so nothing changes: APPROXIMATE, if the
     difference from 2 is small. Means, sums and moments change: DEPENDENT.
Knows nothing of batch sizes that anyone chose; the engine and the lifecycle act on the verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from stoker.errors import ExecutionFailed, OutOfMemory
from stoker.model import ModelConfig
from stoker.runtime.options import switch
from stoker.runtime.rows import RowSource, find
from stoker.runtime.session import Session
from stoker.runtime.warmup import Feeds, samples
from stoker.tensor import Array, DataType, shape_text

Outputs: TypeAlias = dict[str, Array]

ROWS: Final = 4
REPEATS: Final = 3
DRIFT_RUNS: Final = 9
MOST_APPROXIMATE: Final = 0.25
"""A difference above this part of an output's size is no rounding."""
RARE: Final = 0.01
"""Integers that are off by one in no more than this part of the elements are rounded floats."""

TOLERANCE: Final = {
    DataType.FP64: 1e-9,
    DataType.FP32: 1e-4,
    DataType.FP16: 1e-2,
    DataType.BF16: 5e-2,
}
"""Differences that other batch sizes make by adding in another order, relative to the greatest
value of an output. The coarsest datatype among a model's tensors counts for all of them."""
GPU_TOLERANCE: Final = 5e-3
"""On a GPU FP32 products may be made in TF32."""


class Independence(Enum):
    """Whether the rows of a batch can belong to different requests."""

    INDEPENDENT = "independent"
    DEPENDENT = "dependent"
    """Other rows change the answer: never batched, never split."""
    APPROXIMATE = "approximate"
    """Other rows change the last digits, beyond rounding."""
    UNPROVEN = "unproven"
    """Random, or no row was found that runs: batched as configured."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a proof, with its reason as a sentence for logs and status pages."""

    independence: Independence
    reason: str
    difference: float = 0.0
    """The greatest difference seen, relative to the greatest value of its output."""

    @property
    def is_doubt(self) -> bool:
        """Whether whoever serves the model should know: its answers depend on other rows."""
        return self.independence in (Independence.DEPENDENT, Independence.APPROXIMATE)

    def __str__(self) -> str:
        return f"rows are {self.independence.value}: {self.reason}"


def prove(session: Session, config: ModelConfig, folder: Path) -> Verdict:
    """The verdict on an opened model; `folder` is the model's own, for its warm-up data.

    Takes about twenty runs of one to four rows. Raises DeviceFailed if the device breaks, and
    InvalidRequest for a broken warm-up sample.
    """
    if switch(config, "batching_proof") is False:
        return Verdict(Independence.UNPROVEN, "the parameter 'batching_proof' is 'off'")
    if not config.batches:
        return Verdict(Independence.UNPROVEN, "the model has no batch dimension")
    given = samples(config, session, folder)
    source = find(
        session, config, given, rows=ROWS, is_useful=lambda each: _tells_apart(session, each)
    )
    if source is None:
        return Verdict(
            Independence.UNPROVEN,
            "no distinct rows were found that run and are answered differently; a model_warmup "
            "sample of real data would help",
        )
    try:
        return _prove(session, source.feeds(ROWS))
    except (ExecutionFailed, OutOfMemory) as error:
        return Verdict(Independence.UNPROVEN, f"a run of the proof failed: {error}")


def _tells_apart(session: Session, source: RowSource) -> bool:
    """Whether some row gets another answer than the first: else mixing could not be seen."""
    made = _run(session, source.feeds(ROWS))
    for array in made.values():
        if len(array) != ROWS or array.ndim == 0:
            return True  # a wrong row count is a verdict by itself
        if any(not _same(array[0], array[row]) for row in range(1, ROWS)):
            return True
    return False


def _prove(session: Session, feeds: Feeds) -> Verdict:
    tolerance = tolerance_of(session)
    singles = [_take(feeds, [row]) for row in range(ROWS)]
    alone = [_run(session, single) for single in singles]
    first = _run(session, feeds)
    wrong = _wrong_shape(session, alone[0], 1) or _wrong_shape(session, first, ROWS)
    if wrong is not None:
        return Verdict(Independence.DEPENDENT, wrong)
    yardstick = _Yardstick(session, [*alone, first])
    for _ in range(REPEATS - 1):
        again = [_run(session, single) for single in singles]
        noise, _ = max(yardstick.gap(*pair) for pair in zip(alone, again, strict=True))
        if noise > tolerance and _drifts(session, singles[0]):
            return Verdict(
                Independence.DEPENDENT,
                f"each run changes the answer of the next ({noise:.2g} of the greatest value): the "
                "model keeps state, as normalisation in training mode does",
                noise,
            )
        if noise > tolerance:
            return Verdict(
                Independence.UNPROVEN,
                f"the same row alone gets different answers ({noise:.2g} of the greatest value): "
                "the model is random",
                noise,
            )
    expected = {name: np.concatenate([each[name] for each in alone]) for name in first}
    worst, where = yardstick.gap(expected, first)
    for order in ([0, 3, 1, 2], [3, 2, 1, 0]):
        together = _run(session, _take(feeds, order))
        worst, where = max((worst, where), yardstick.gap(_take(expected, order), together))
    if worst <= tolerance:
        return Verdict(
            Independence.INDEPENDENT,
            f"{ROWS} distinct rows got the same answers alone and together",
            worst,
        )
    # The same set of rows in other numbers: all that the extremes of a batch can see stays.
    left, right = (_run(session, _take(feeds, order)) for order in ([0, 1, 1, 2], [0, 2, 1, 2]))
    by_number, _ = yardstick.gap(_take(left, [0]), _take(right, [0]))
    if worst <= MOST_APPROXIMATE and by_number <= tolerance:
        return Verdict(
            Independence.APPROXIMATE,
            f"other rows change output '{where}' by up to {worst:.2g} of its greatest value, as "
            "dynamic quantisation does",
            worst,
        )
    return Verdict(
        Independence.DEPENDENT,
        f"other rows change output '{where}' by {worst:.2g} of its greatest value",
        worst,
    )


def _drifts(session: Session, single: Feeds) -> bool:
    """Whether the answers of one row go one way, run after run. Steps of a state that changes
    point alike; steps between random answers point back (their correlation is -1/2)."""
    made = [_run(session, single) for _ in range(DRIFT_RUNS)]
    along = across = 0.0
    for spec in session.outputs:
        if spec.datatype not in TOLERANCE:
            continue
        series = np.array([_as_float(spec.datatype, each[spec.name]).ravel() for each in made])
        steps = np.diff(series, axis=0)
        along += float((steps[1:] * steps[:-1]).sum())
        lengths = np.linalg.norm(steps, axis=1)
        across += float((lengths[1:] * lengths[:-1]).sum())
    return along > 0.5 * across


class _Yardstick:
    """Compares outputs relative to the greatest value that each took in the whole proof: what is
    nearly zero when a row is alone may be nothing but rounding."""

    def __init__(self, session: Session, seen: Sequence[Outputs]) -> None:
        self._datatypes = {spec.name: spec.datatype for spec in session.outputs}
        self._greatest = {
            name: max(greatest(datatype, each[name]) for each in seen)
            for name, datatype in self._datatypes.items()
        }

    def gap(self, expected: Outputs, got: Outputs) -> tuple[float, str]:
        """The greatest difference and the output that has it."""
        return max(
            (gap(self._datatypes[name], expected[name], got[name], self._greatest[name]), name)
            for name in expected
        )


def tolerance_of(session: Session) -> float:
    """The difference that counts as rounding for this model, see TOLERANCE."""
    datatypes = {spec.datatype for spec in session.inputs + session.outputs}
    found = max((TOLERANCE.get(each, 0.0) for each in datatypes), default=0.0)
    found = found or TOLERANCE[DataType.FP32]
    return max(found, GPU_TOLERANCE) if session.device != "cpu" else found


def _run(session: Session, feeds: Feeds) -> Outputs:
    names = [spec.name for spec in session.outputs]
    return dict(zip(names, session.run(feeds, names), strict=True))


def _take(feeds: Mapping[str, Array], order: Sequence[int]) -> Outputs:
    return {name: np.ascontiguousarray(array[list(order)]) for name, array in feeds.items()}


def _wrong_shape(session: Session, made: Outputs, rows: int) -> str | None:
    """A sentence for an output that has not one row for each, or another rank than it declares:
    then nobody knows what its first dimension means, and it is passed on as it is, unbatched."""
    ranks = {each.name: len(each.shape) for each in session.outputs}
    for name, array in made.items():
        if name not in session.unranked and array.ndim != ranks[name]:
            return (
                f"output '{name}' has the shape {shape_text(array.shape)}, the model declares "
                f"{ranks[name]} dimensions"
            )
        if array.ndim == 0 or len(array) != rows:
            return (
                f"output '{name}' has the shape {shape_text(array.shape)} for {rows} row(s), "
                f"expected {rows} first"
            )
    return None


def gap(datatype: DataType, expected: Array, got: Array, size: float = 0.0) -> float:
    """The greatest difference relative to `size` or the greatest value here, whichever is more.

    1 or more where the two disagree altogether: other shapes, labels, texts, NaN against number.
    """
    if expected.shape != got.shape:
        return 1.0
    if datatype is DataType.BYTES or datatype is DataType.BOOL:
        return 0.0 if np.array_equal(expected, got) else 1.0
    left, right = _as_float(datatype, expected), _as_float(datatype, got)
    sound = np.isfinite(left) & np.isfinite(right)
    if not np.array_equal(left[~sound], right[~sound], equal_nan=True):
        return 1.0
    off = np.abs(left[sound] - right[sound])
    worst = float(off.max(initial=0.0))
    if worst == 0:
        return 0.0
    if datatype not in TOLERANCE and (worst > 1 or np.count_nonzero(off) > RARE * off.size):
        return 1.0  # labels, counts, indices: another value is another answer
    return worst / max(size, greatest(datatype, expected), greatest(datatype, got))


def greatest(datatype: DataType, array: Array) -> float:
    """The greatest finite magnitude; 0 for text and booleans."""
    if datatype is DataType.BYTES or datatype is DataType.BOOL:
        return 0.0
    values = _as_float(datatype, array)
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _as_float(datatype: DataType, array: Array) -> Array:
    if datatype is DataType.BF16:
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


def _same(left: Array, right: Array) -> bool:
    if left.dtype.kind == "f":
        return bool(np.array_equal(left, right, equal_nan=True))
    return bool(np.array_equal(left, right))
