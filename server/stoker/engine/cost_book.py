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
_REMEMBERED: Final = 1024
"""Sizes of requests whose worth is kept between two such moments."""


class CostBook:
    """What runs of one model cost."""

    def __init__(self, measured: CostCurve, sizes: RunSizes, *, elements: int) -> None:
        """`measured` is the curve of warm-up, taken with `elements` elements a row."""
        self._usual_bucket = _bucket(elements)
        self._curves = {self._usual_bucket: measured}
        self._worth: dict[tuple[int, int], float] = {}
        """What requests are worth, by the elements of a row and the rows."""
        self._sizes = sizes
        self._unseen_runs = 0
        """Runs since `_worth` was worked out."""

    @property
    def sizes(self) -> RunSizes:
        """How many rows the model's runs have."""
        return self._sizes

    def resize(self, sizes: RunSizes) -> None:
        """Runs have other sizes from here on."""
        self._sizes = sizes
        self._worth.clear()

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
        key = (elements, rows)
        try:
            return self._worth[key]
        except KeyError:
            worth = self._worked_out(elements, rows)
            if worth is not None:
                if len(self._worth) >= _REMEMBERED:
                    self._worth.clear()
                self._worth[key] = worth
            return worth

    def _worked_out(self, elements: int, rows: int) -> float | None:
        curve = self.curve(elements)
        if self._sizes.max_rows == 1:
            return self._sizes.lone(curve, rows)
        per_row = curve.seconds_per_row(self._sizes.largest)
        return None if per_row is None else per_row * rows

    def observe(self, elements: int, rows: int, seconds: float, *, alone: bool) -> None:
        """Takes note of a run while serving."""
        curve = self._curves.get(elements.bit_length()) or self.curve(elements)
        curve.observe(rows, seconds, alone=alone)
        self._unseen_runs += 1
        if seconds >= _LONG_S or self._unseen_runs >= _RUNS:
            self._unseen_runs = 0
            self._worth.clear()


def _bucket(elements: int) -> int:
    return elements.bit_length()
