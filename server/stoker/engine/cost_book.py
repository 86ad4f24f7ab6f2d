"""The cost curves of one model: one for each size of its items.

A model with variable dimensions costs more for larger items, so curves are kept by shape bucket:
the power of two of the elements in one row over all inputs. Models of fixed shape have one bucket.
Owned by the event loop.  Hot path.
"""

from stoker.engine.cost_curve import CostCurve


class CostBook:
    """What runs of one model cost."""

    def __init__(self, measured: CostCurve, *, elements: int, limit: int) -> None:
        """`measured` is the curve of warm-up, taken with `elements` elements a row; `limit` the
        largest batch that forms."""
        self._usual_bucket = _bucket(elements)
        self._curves = {self._usual_bucket: measured}
        self._per_row: dict[int, float | None] = {}
        self._limit = limit

    @property
    def usual(self) -> CostCurve:
        """The curve that warm-up measured."""
        return self._curves[self._usual_bucket]

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
        """`seconds_per_row` of the usual item size."""
        return self.usual.seconds_per_row(self._limit)

    def seconds_per_row(self, elements: int) -> float | None:
        """Device seconds a row costs at the most efficient batch; None before a measurement."""
        bucket = _bucket(elements)
        if bucket not in self._per_row:
            self._per_row[bucket] = self.curve(elements).seconds_per_row(self._limit)
        return self._per_row[bucket]

    def observe(self, elements: int, rows: int, seconds: float, *, alone: bool) -> None:
        """Takes note of a run while serving."""
        self.curve(elements).observe(rows, seconds, alone=alone)
        self._per_row.pop(_bucket(elements), None)


def _bucket(elements: int) -> int:
    return elements.bit_length()
