"""Finds rows that a model can compute, when nobody said what its inputs mean.

The proof of independence and the cost curve need several distinct rows that run. Warm-up samples
of the configuration come first, slightly varied; else seeded random rows are tried: with some sizes
for variable dimensions, small enough integers for look-up tables, words or numbers for text. Zeros
are never among them: too many models give the same answer to zeros whatever they compute.
Knows nothing of verdicts.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from stoker.errors import ExecutionFailed, OutOfMemory
from stoker.model import ModelConfig
from stoker.runtime.session import Session
from stoker.runtime.warmup import Feeds, Sample, random_values, required_inputs, with_rows
from stoker.tensor import Array, DataType

SIZES: Final = (8, 1, 2, 4, 16, 32, 64, 224)
"""Tried for variable dimensions: lengths first, then sides of images."""
INTEGERS: Final = (1000, 100, 10, 2)
"""Tried bounds of random integers: a table of so many entries can be looked up in."""
MOST_DISTINCT: Final = 16
MOST_ELEMENTS: Final = 1 << 22
"""A row with more elements is not tried."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """A way to make any number of distinct rows. `items` are the model's shapes of one row."""

    config: ModelConfig
    items: Mapping[str, tuple[DataType, tuple[int, ...]]]
    integers: int = 2
    numeric_text: bool = False
    base: Mapping[str, Array] = field(default_factory=dict)
    """One known row of some inputs, which is varied instead of random values."""

    def feeds(self, rows: int, seed: int = 0) -> Feeds:
        """`rows` rows, the same for the same seed; row i does not depend on `rows`. The first
        MOST_DISTINCT are distinct, then they come again."""
        made = {}
        for place, (name, (datatype, item)) in enumerate(self.items.items()):
            values = np.empty((rows, *item), datatype.numpy)
            for row in range(min(rows, MOST_DISTINCT)):
                random = np.random.default_rng((seed, place, row))
                values[row, ...] = self._values(name, datatype, item, random, row)
            for row in range(MOST_DISTINCT, rows):
                values[row, ...] = values[row - MOST_DISTINCT]
            made[name] = values.reshape(with_rows(self.config, item, rows))
        return made

    def _values(
        self,
        name: str,
        datatype: DataType,
        item: tuple[int, ...],
        random: np.random.Generator,
        row: int,
    ) -> Array:
        known = self.base.get(name)
        if known is not None:
            return _varied(known, random, row)
        if datatype is not DataType.BYTES:
            return random_values(datatype, item, random, self.integers)
        numbers = random.integers(1, 100, item)
        texts = np.empty(item, object)
        for at in np.ndindex(*item):
            texts[at] = str(numbers[at]) if self.numeric_text else f"word{numbers[at]}"
        return texts


def _varied(known: Array, random: np.random.Generator, row: int) -> Array:
    """The known row, a little off: floats by some per cent, all else by turning it round."""
    if known.dtype.kind == "f":
        noise = 1 + 0.1 * random.standard_normal(known.shape)
        return np.asarray((known * noise).astype(known.dtype))
    return np.roll(known.ravel(), row).reshape(known.shape)


def find(
    session: Session,
    config: ModelConfig,
    samples: Sequence[Sample] = (),
    *,
    rows: int = 4,
    is_useful: Callable[[RowSource], bool] = lambda source: True,
    budget_s: float = 10.0,
    clock: Callable[[], float] = time.perf_counter,
) -> RowSource | None:
    """The first source of which 1 and `rows` rows run and which `is_useful`; None without one."""
    end = clock() + budget_s
    outputs = [output.name for output in config.outputs]
    for source in candidates(session, config, samples):
        try:
            session.run(source.feeds(1), outputs)
            if config.batches:
                session.run(source.feeds(rows), outputs)
            if is_useful(source):
                return source
        except (ExecutionFailed, OutOfMemory):
            pass
        if clock() >= end:
            break
    return None


def candidates(
    session: Session, config: ModelConfig, samples: Sequence[Sample] = ()
) -> Iterator[RowSource]:
    """Sources worth a try, the likeliest first."""
    for sample in samples:
        yield _from_sample(session, config, sample)
    datatypes = {tensor.datatype for tensor in required_inputs(config, session)}
    has_integers = any(each.numpy.kind in "iu" for each in datatypes - {DataType.BF16})
    shapes = [config.model_spec(each).shape[config.batches :] for each in config.inputs]
    is_variable = any(size < 0 for shape in shapes for size in shape)
    for size in SIZES if is_variable else SIZES[:1]:
        items = _items(session, config, size)
        if sum(np.prod(item, dtype=np.int64) for _, item in items.values()) > MOST_ELEMENTS:
            continue
        for integers in INTEGERS if has_integers else INTEGERS[-1:]:
            for numeric in (False, True) if DataType.BYTES in datatypes else (False,):
                yield RowSource(config, items, integers, numeric)


def _items(
    session: Session, config: ModelConfig, size: int
) -> dict[str, tuple[DataType, tuple[int, ...]]]:
    items = {}
    for tensor in required_inputs(config, session):
        shape = config.model_spec(tensor).shape[config.batches :]
        item = tuple(size if each < 0 else each for each in shape)
        items[tensor.name] = (tensor.datatype, item)
    return items


def _from_sample(session: Session, config: ModelConfig, sample: Sample) -> RowSource:
    zero_free = {}
    items = {}
    for tensor in required_inputs(config, session):
        array = sample.feeds[tensor.name]
        row = array[0] if config.batches else array
        items[tensor.name] = (tensor.datatype, row.shape)
        if row.dtype.hasobject or np.any(row):
            zero_free[tensor.name] = row
    return RowSource(config, items, INTEGERS[-1], base=zero_free)
