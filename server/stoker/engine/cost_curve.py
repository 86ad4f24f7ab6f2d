"""What a run costs by its rows: l(rows), in seconds. Admission, demand and batch limits read it.

Theory. Warm-up measures l at 1, 2, 4, ... rows on an idle device: the base points, each the
minimum of several runs. Between points l is linear; beyond the last it goes on with the last slope.
A running maximum over the points makes it monotone: more rows never cost less.

While serving, each run gives a ratio: observed seconds over what the base says for its rows.
  1. Runs that had the device to themselves are trusted: the correction is the median of the last 9
     ratios, so it follows a lasting change after 5 runs and ignores a few outliers.
  2. A power-of-two bucket of rows that had three of the model's last 20 runs uses its own median
     of these, every other bucket the median over all: a model whose cost doubles is known to have
     doubled within 20 runs at every size, those that nobody asks for at the moment included.
  3. A run beside others tells too much time. Only when no run was alone among the last 200, the
     10th percentile of their ratios stands in, looked at every 20 runs. What company costs is the
     median of the last 9 such ratios against the correction: `slowdown`.

A curve without base points (a shape that warm-up did not measure) learns its base from the first
run of each bucket. Before any point exists it predicts nothing: `seconds` is None.

Owned by the event loop. Knows nothing of requests or devices.  Hot path.
Source: design, section "Batching", "Cost curve".
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from typing import Final

MEDIAN_OF: Final = 9
FRESH_RUNS: Final = 20
LEAST_RUNS: Final = 3
CROWDED_RUNS: Final = 200
MINIMUM_GAIN: Final = 1.10
"""Doubling the rows must give at least this factor of rows a second, or the knee is reached."""
SUSTAINED_LOSS: Final = 1.02
"""A row may cost so much more at the sustained limit than at the best size. Two in a hundred are
what is left of 0.97 of bare ONNX Runtime where the server itself keeps 0.99."""
LOOK_AHEAD: Final = 2
"""Doublings that are looked at together."""
_REMEMBERED: Final = 1024
"""Row counts whose place between the points is remembered."""


class CostCurve:
    """l(rows) of one model at one shape bucket."""

    def __init__(self, points: Iterable[tuple[int, float]] = ()) -> None:
        self._base: dict[int, float] = dict(points)
        self._rows: list[int] = []
        self._costs: list[float] = []
        self._alone: dict[int, deque[tuple[int, float]]] = {}
        """By bucket: when a run was, counted in runs, and its ratio."""
        self._overall: deque[float] = deque(maxlen=MEDIAN_OF)
        self._crowded: deque[float] = deque(maxlen=CROWDED_RUNS)
        self._beside: deque[float] = deque(maxlen=MEDIAN_OF)
        self._runs = 0
        self._last_alone = 0
        self._scale = 1.0
        self._scales: dict[int, float | None] = {}
        self._stale: set[int] = set()
        """Buckets with runs that neither `_scale` nor `_scales` has seen: medians are for those who
        ask, which is seldom while runs are short."""
        self._expected: dict[int, tuple[float, int, deque[tuple[int, float]]]] = {}
        """By rows, for rows that the base covers: what it says, the bucket, and its `_alone`."""
        self._predicted: dict[int, float] = {}
        """By rows, since the last run: under overload many requests are refused between two."""
        self._fit()

    @property
    def is_measured(self) -> bool:
        """Whether anything can be predicted."""
        return bool(self._rows)

    def points(self) -> tuple[tuple[int, float], ...]:
        """The measured row counts with their current cost in seconds."""
        return tuple((rows, self._corrected(rows)) for rows in self._rows)

    def seconds(self, rows: int) -> float | None:
        """Predicted seconds of a run of `rows` rows; None before anything is measured."""
        predicted = self._predicted.get(rows)
        if predicted is None and self._rows:
            if len(self._predicted) >= _REMEMBERED:
                self._predicted.clear()
            predicted = self._predicted[rows] = self._corrected(rows)
        return predicted

    def seconds_per_row(self, limit: int) -> float | None:
        """min over b <= limit of l(b)/b: what a row costs at the most efficient batch."""
        if not self._rows:
            return None
        sizes = [rows for rows in self._rows if rows <= limit] or [limit]
        if limit not in sizes:
            sizes.append(limit)
        # `seconds` remembers: a scrape asks every model, and most had no run since the last.
        return min([(self.seconds(rows) or 0.0) / rows for rows in sizes])

    def knee(self, limit: int) -> int:
        """The power of two <= limit from which doubling the rows gains less than 10 %.

        Gain is rows a second. One size that was measured too high hides no gain behind it: where a
        doubling gains too little, two together may still gain enough. Only measured sizes are
        compared, so a curve that warm-up could not follow further ends at its last power of two.
        """
        sizes = self._powers_of_two(limit)
        rates = [rows / self._corrected(rows) for rows in sizes]
        best = 0
        for at in range(1, len(rates)):
            if rates[at] >= MINIMUM_GAIN ** (at - best) * rates[best] and at - best <= LOOK_AHEAD:
                best = at
        return sizes[best] if sizes else 1

    def sustained(self, limit: int, longest_s: float = math.inf) -> int:
        """The least power of two <= limit whose row costs within 2 % of what it costs at the best
        such size: what the rate loses where a backlog lasts, and latency is the rate's.

        Only measured sizes are compared, and those whose run takes at most `longest_s`.
        """
        costs = {
            rows: seconds / rows
            for rows in self._powers_of_two(limit)
            if (seconds := self._corrected(rows)) <= longest_s
        }
        enough = SUSTAINED_LOSS * min(costs.values(), default=0.0)
        return next((rows for rows, cost in costs.items() if cost <= enough), 1)

    def _powers_of_two(self, limit: int) -> list[int]:
        """1, 2, 4 ... as far as they were measured one after the other."""
        sizes: list[int] = []
        for rows in self._rows:
            if rows & (rows - 1):
                continue  # measured between, for the buckets
            if rows != 1 << len(sizes) or rows > limit:
                break
            sizes.append(rows)
        return sizes

    def slowdown(self) -> float | None:
        """How much longer a run takes beside others than alone, lately; None if too few ran so."""
        if len(self._beside) < LEAST_RUNS:
            return None
        self._catch_up()
        return max(1.0, _median(self._beside) / self._scale)

    def observe(self, rows: int, seconds: float, *, alone: bool) -> None:
        """Takes note of a run while serving. `alone`: nothing else ran on the device meanwhile."""
        if seconds <= 0:
            return  # a clock that does not move tells nothing
        self._runs += 1
        self._predicted.clear()
        expected, bucket, ratios = self._expected.get(rows) or self._expect(rows, seconds)
        if expected <= 0:
            return
        ratio = seconds / expected
        if alone:
            self._last_alone = self._runs
            self._overall.append(ratio)
            ratios.append((self._runs, ratio))
            self._stale.add(bucket)
        else:
            self._crowded.append(ratio)
            self._beside.append(ratio)
            is_due = self._runs % FRESH_RUNS == 0  # sorting 200 ratios takes some 10 us
            if is_due and self._runs - self._last_alone >= CROWDED_RUNS:
                ranked = sorted(self._crowded)
                self._scale = ranked[len(ranked) // 10]
                self._scales.clear()
                self._alone.clear()
                self._expected.clear()
                self._stale.clear()

    def _expect(self, rows: int, seconds: float) -> tuple[float, int, deque[tuple[int, float]]]:
        """An entry of `_expected` for rows that were not asked for since it was fitted."""
        expected = self._interpolated(rows)
        if expected is None or not self._covers(rows):
            # Nothing says what this size should cost: its first run becomes the base.
            self._catch_up()
            self._base[rows] = seconds / self._scale
            self._fit()
            expected = self._interpolated(rows)
        bucket = _bucket(rows)
        ratios = self._alone.setdefault(bucket, deque(maxlen=MEDIAN_OF))
        if len(self._expected) >= _REMEMBERED:
            self._expected.clear()
        known = self._expected[rows] = (expected or 0.0, bucket, ratios)
        return known

    def _catch_up(self) -> None:
        """Works out the corrections that new runs change."""
        if self._stale:
            self._scale = _median(self._overall)
            for bucket in self._stale:
                self._scales[bucket] = self._own_scale(self._alone[bucket])
            self._stale.clear()

    def _corrected(self, rows: int) -> float:
        self._catch_up()
        bucket = _bucket(rows)
        ratios = self._alone.get(bucket)
        if ratios and ratios[0][0] <= self._runs - FRESH_RUNS:
            self._scales[bucket] = self._own_scale(ratios)
        scale = self._scales.get(bucket)
        return (self._interpolated(rows) or 0.0) * (self._scale if scale is None else scale)

    def _own_scale(self, ratios: deque[tuple[int, float]]) -> float | None:
        """The correction of one bucket after its old runs are forgotten; None: as all others."""
        while ratios and ratios[0][0] <= self._runs - FRESH_RUNS:
            ratios.popleft()
        return _median([ratio for _, ratio in ratios]) if len(ratios) >= LEAST_RUNS else None

    def _covers(self, rows: int) -> bool:
        """Whether a base point lies within a factor of two of `rows`."""
        return any(rows <= 2 * known and known <= 2 * rows for known in self._rows)

    def _fit(self) -> None:
        self._expected.clear()
        self._rows = sorted(self._base)
        self._costs = []
        highest = 0.0
        for rows in self._rows:
            highest = max(highest, self._base[rows])
            self._costs.append(highest)

    def _interpolated(self, rows: int) -> float | None:
        known, costs = self._rows, self._costs
        if not known:
            return None
        at = bisect_left(known, rows)
        if at < len(known) and known[at] == rows:
            return costs[at]
        if at == 0:
            return costs[0]
        if at == len(known):
            if at == 1:
                return costs[0] * rows / known[0]
            slope = (costs[-1] - costs[-2]) / (known[-1] - known[-2])
            return costs[-1] + slope * (rows - known[-1])
        share = (rows - known[at - 1]) / (known[at] - known[at - 1])
        return costs[at - 1] + share * (costs[at] - costs[at - 1])


def _median(values: Iterable[float]) -> float:
    ranked = sorted(values)
    return ranked[(len(ranked) - 1) // 2]  # of two the lesser: what disturbs a run prolongs it


def _bucket(rows: int) -> int:
    """The power of two that `rows` is rounded up to."""
    return 1 << (rows - 1).bit_length()
