"""What clients ask, moment by moment: fixed by name and seed, whatever serves it.

A trace says for each model the work that is offered, in GPUs: 1.0 is what one GPU can do at its
most efficient batch. Arrivals are a Poisson process of that rate, each of some rows; the draw of a
seed is the same for all signals.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from benchmarks.scaling.server import WIDTH, Model

Offered: TypeAlias = Callable[[float], float]
"""GPUs of work at a moment (seconds since the beginning)."""

Sizes: TypeAlias = Mapping[int, float]
"""Rows of a request and how many requests have so many."""

SMALL: Final[Sizes] = {1: 0.5, 2: 0.3, 4: 0.2}
MIXED: Final[Sizes] = {1: 0.3, 2: 0.15, 4: 0.2, 8: 0.2, 16: 0.1, 32: 0.05}
STEP_S: Final = 1.0
"""The rate is held for so long."""


class Arrival(NamedTuple):
    """One request."""

    at: float
    model: int
    rows: int
    width: int


@dataclass(frozen=True)
class Trace:
    """A load on a service of some models."""

    name: str
    seconds: float
    models: tuple[Model, ...]
    offered: Callable[[Random], tuple[Offered, ...]]
    """For each model, of a seed."""
    is_pinned: bool = False
    """Clients keep their connections (`PinnedClients`); False: every request is balanced."""
    sizes: Sizes = field(default_factory=lambda: SMALL)
    widths: int = 1
    """Item shapes that requests have: those of different shapes share no batch."""

    def arrivals(self, seed: int) -> Sequence[Arrival]:
        """All requests in order."""
        random = Random(f"{self.name}/{seed}")
        offered = self.offered(random)
        draw = np.random.default_rng(random.getrandbits(64))
        rows_of, shares = list(self.sizes), list(self.sizes.values())
        found: list[Arrival] = []
        steps = np.arange(0.0, self.seconds, STEP_S)
        for index, (model, load) in enumerate(zip(self.models, offered, strict=True)):
            worth = row_seconds(model) * mean_rows(self.sizes)
            rates = np.array([max(0.0, load(at)) for at in steps]) / worth
            counts = draw.poisson(rates * STEP_S)
            moments = np.repeat(steps, counts) + draw.uniform(0.0, STEP_S, counts.sum())
            rows = draw.choice(rows_of, size=len(moments), p=shares)
            widths = WIDTH + draw.integers(0, self.widths, len(moments))
            found += [
                Arrival(float(at), index, int(count), int(width))
                for at, count, width in zip(moments, rows, widths, strict=True)
            ]
        found.sort(key=lambda each: each.at)
        return found


def mean_rows(sizes: Sizes) -> float:
    """Rows of a request on average."""
    return sum([rows * share for rows, share in sizes.items()])


def row_seconds(model: Model) -> float:
    """Seconds of a row at the most efficient batch."""
    return min(seconds / rows for rows, seconds in model.costs if rows <= model.most_rows)


def day(low: float, high: float, seconds: float) -> Callable[[Random], tuple[Offered, ...]]:
    """A day in `seconds`: from its low to its high and back, with some minutes better or worse."""

    def of(random: Random) -> tuple[Offered, ...]:
        wobble = wandering(random, seconds, share=0.1)
        return (
            lambda at: (
                wobble(at) * (low + (high - low) * (1 - math.cos(2 * math.pi * at / seconds)) / 2)
            ),
        )

    return of


def step(
    before: float, factor: float, begins: float, ends: float
) -> Callable[[Random], tuple[Offered, ...]]:
    """`factor` times the load, from one second to the next, and back."""
    return lambda random: (lambda at: before * (factor if begins <= at < ends else 1.0),)


def spikes(
    base: float, seconds: float, *, every: float, least: float, most: float
) -> Callable[[Random], tuple[Offered, ...]]:
    """Bursts of 30 to 120 s at random over an even load, `least` to `most` times as high."""

    def of(random: Random) -> tuple[Offered, ...]:
        bursts = []
        at = random.expovariate(1 / every)
        while at < seconds:
            lasts = random.uniform(30.0, 120.0)
            bursts.append((at, at + lasts, random.uniform(least, most)))
            at += lasts + random.expovariate(1 / every)

        def load(at: float) -> float:
            return base * max(
                [high for since, until, high in bursts if since <= at < until], default=1.0
            )

        return (load,)

    return of


def shift(
    total: Sequence[tuple[float, float]], seconds: float
) -> Callable[[Random], tuple[Offered, ...]]:
    """Models that trade places: each goes from its first number to its second and back."""

    def of(random: Random) -> tuple[Offered, ...]:
        def one(first: float, second: float) -> Offered:
            wobble = wandering(random, seconds, share=0.1)
            return lambda at: (
                wobble(at)
                * (first + (second - first) * (1 - math.cos(2 * math.pi * at / seconds)) / 2)
            )

        return tuple(one(first, second) for first, second in total)

    return of


def wandering(random: Random, seconds: float, *, share: float) -> Offered:
    """A factor about 1 that changes slowly: a new value every minute, straight lines between."""
    values = [1.0]
    for _ in range(math.ceil(seconds / 60.0) + 1):
        values.append(1.0 + 0.7 * (values[-1] - 1.0) + random.gauss(0.0, share * 0.7))

    def at(moment: float) -> float:
        index, part = divmod(moment / 60.0, 1.0)
        before, after = values[int(index)], values[int(index) + 1]
        return before + (after - before) * part

    return at
