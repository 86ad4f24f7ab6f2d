"""The cost curves of one model: one for each size of its items.

A model with variable dimensions costs more for larger items, so curves are kept by shape bucket:
the power of two of the elements in one row over all inputs. Models of fixed shape have one bucket.
Owned by the event loop.  Hot path.
"""

from typing import Final

from stoker.engine.cost_curve import CostCurve
from stoker.engine.forecast import RunSizes

_RUNS: Final = 16
_LONG_S: Final = 0.001
"""What a row is worth is worked out again after a long run, or 16 short ones: doing it after each
took 4 % of the loop's samples under small requests (benchmarks/results/0006-grpc.md)."""


class CostBook:
    """What runs of one model cost."""

    def __init__(self, measured: CostCurve, sizes: RunSizes, *, elements: int) -> None:
        """`measured` is the curve of warm-up, taken with `elements` elements a row."""
        self._usual_bucket = _bucket(elements)
        self._curves = {self._usual_bucket: measured}
        self._per_row: dict[int, float | None] = {}
        self._sizes = sizes
        self._unseen_runs = 0
        """Runs since `_per_row` was worked out."""

    @property
    def sizes(self) -> RunSizes:
        """How many rows the model's runs have."""
        return self._sizes

    def resize(self, sizes: RunSizes) -> None:
        """Runs have other sizes from here on."""
        self._sizes = sizes
        self._per_row.clear()

    @property
    def usual(self) -> CostCurve:
        """The curve that warm-up measured."""
        return self._curves[self._usual_bucket]

    def is_usual(self, elements: int) -> bool:
        """Whether rows of this many elements cost what `usual` says."""
        return _bucket(elements) == self._usual_bucket

    def curve(self, elements: int) -> CostCurve:
        """The curve for rows of this many elements; unmeasured where none were seen."""
        bucket = _bucket(elements)
        curve = self._curves.get(bucket)
        if curve is None:
            curve = self._curves[bucket] = CostCurve()
        return curve

    def seconds(self, rows: int) -> float | None:
        """Predicted seconds of a run of the usual item size; None before a measurement."""
        return self.usual.seconds(rows)

    def usual_seconds_per_row(self) -> float | None:
        """Device seconds of a row of the usual item size at the most efficient run."""
        return self.usual.seconds_per_row(self._sizes.largest)

    def worth(self, elements: int, rows: int) -> float | None:
        """Device seconds that a request is worth; None before a measurement.

        Its rows at the most efficient batch, or its own runs where requests share none.
        """
        if self._sizes.max_rows == 1:
            return self._sizes.lone(self.curve(elements), rows)
        bucket = _bucket(elements)
        if bucket not in self._per_row:
            self._per_row[bucket] = self.curve(elements).seconds_per_row(self._sizes.largest)
        per_row = self._per_row[bucket]
        return None if per_row is None else per_row * rows

    def observe(self, elements: int, rows: int, seconds: float, *, alone: bool) -> None:
        """Takes note of a run while serving."""
        self.curve(elements).observe(rows, seconds, alone=alone)
        self._unseen_runs += 1
        if seconds >= _LONG_S or self._unseen_runs >= _RUNS:
            self._unseen_runs = 0
            self._per_row.clear()


def _bucket(elements: int) -> int:
    return elements.bit_length()
