"""To how many rows a batch is filled up: the batch sizes that a model's fixed bindings exist for.

A device wants few shapes: each new one costs a choice of algorithms, memory of its own and a CUDA
graph; so on a GPU batches are filled up to a bucket where that costs little, as the cost curve
says, and where it is dear there are buckets between, down to every size its own. On the CPU a
binding costs some microseconds and a padded row as much as a real one: there every size is its own
bucket, unless the file says otherwise.

A batch is never run as two (5 rows as 4 and 1) instead: a run has a fixed cost, so a bucket between
costs no more than that, and the rows of the second run would wait for the first. Pure.
Source: issue 4, "Buckets and CUDA graphs".
"""

from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from stoker.errors import InvalidRequest
from stoker.model import ModelConfig

PARAMETER: Final = "batch_buckets"

DEAR_PADDING: Final = 0.05
"""Where the smallest batch of a bucket wastes more than this share of the bucket's run, the rows
between get a bucket of their own. Two measured runs of one size differ by as much."""
DEAR_WITH_GRAPHS: Final = 0.25
"""The same where each bucket is a CUDA graph."""

MOST_SIZES: Final = 128
"""Every size of the largest batch that Stoker chooses by itself."""
MOST_BUCKETS: Final = 16
"""Of those that are CUDA graphs: each takes memory of its own, and a capture before the model is
ready. Also the most that a file may write."""
MOST_WARMING_S: Final = 5.0
"""What warming all buckets may take before the model is ready, each once by each instance. Powers
of two are warmed whatever they take."""


class Buckets:
    """The sizes of one model, ascending; the last is its largest batch."""

    def __init__(self, sizes: tuple[int, ...], why: str = "") -> None:
        """`sizes` empty: every batch is as large as it is. `why`: what decided, in words."""
        self.sizes = sizes
        self.why = why

    def __str__(self) -> str:
        """`1,2,4,8: filling up costs at most 3% of a run`."""
        words = ",".join(map(str, self.sizes)) if self.pads else "every size"
        return f"{words}: {self.why}" if self.why else words

    @property
    def pads(self) -> bool:
        """Whether any batch gets rows that nobody sent."""
        return len(self.sizes) != (self.sizes[-1] if self.sizes else 0)

    def of(self, rows: int) -> int:
        """The least bucket that holds `rows` rows; `rows` itself beyond the last."""
        sizes = self.sizes
        if not sizes or rows > sizes[-1]:
            return rows
        return sizes[bisect_left(sizes, rows)]

    def within(self, rows: int) -> "Buckets":
        """These up to `rows` rows, which is the last one."""
        if not self.sizes:
            return self
        return Buckets((*[each for each in self.sizes if each < rows], rows), self.why)


EXACT: Final = Buckets(())
"""No padding."""
UNBOUND: Final = Buckets((), "the model has no fixed bindings")
DEPENDENT: Final = Buckets((), "rows depend on each other, and padding is another row")


def buckets(
    config: ModelConfig,
    max_rows: int,
    *,
    on_gpu: bool,
    seconds: Callable[[int], float | None] = lambda rows: None,
    captures: bool = False,
    warmings: int = 1,
) -> Buckets:
    """The buckets of a model whose batches have up to `max_rows` rows.

    `seconds(rows)` is the cost curve, None where nothing is measured. `captures`: each bucket is to
    be a CUDA graph. `warmings`: how often each bucket is warmed, by each instance for each size of
    a bucketed dimension. The parameter `batch_buckets` is `off`, or sizes such as `1,2,4,16`; then
    nothing is decided here, only `max_rows` added. Raises InvalidRequest for any other text.
    """
    if not config.batches:
        return EXACT
    written = config.parameters.get(PARAMETER, "").strip()
    if written.lower() == "off":
        return Buckets((), f"{PARAMETER} is off")
    if written:
        sizes = _parsed(config, written)
        return Buckets((*[each for each in sizes if each < max_rows], max_rows), "as written")
    if not on_gpu:
        return EXACT
    powers = powers_of_two(max_rows)
    if seconds(1) is None:
        return Buckets(powers, "powers of two, since no cost is measured")
    chosen = _refined(powers, seconds, captures=captures, warmings=warmings)
    saved, left = dearest(powers, seconds), dearest(chosen, seconds)
    if chosen == powers:
        why = f"powers of two, filling up to them costs at most {left:.0%} of a run"
        return Buckets(chosen, why)
    why = f"filling up costs at most {left:.0%} of a run, to powers of two {saved:.0%}"
    if captures and left > DEAR_PADDING:
        why += "; each is a CUDA graph, so there are few"
    return Buckets(chosen, why)


def check_buckets(config: ModelConfig) -> None:
    """Raises InvalidRequest for parameters of this module that cannot be obeyed."""
    buckets(config, max(1, config.max_batch_size), on_gpu=False)


def powers_of_two(max_rows: int) -> tuple[int, ...]:
    """1, 2, 4 ... and `max_rows` itself."""
    powers = [1 << power for power in range(max_rows.bit_length())]
    return tuple(sorted({*powers, max_rows}))


def dearest(sizes: tuple[int, ...], seconds: Callable[[int], float | None]) -> float:
    """The most that filling up to these sizes wastes, as a share of a run."""
    return max((_waste(small, large, seconds) for small, large in pairwise((0, *sizes))), default=0)


def _refined(
    sizes: tuple[int, ...],
    seconds: Callable[[int], float | None],
    *,
    captures: bool,
    warmings: int,
) -> tuple[int, ...]:
    """More sizes where padding is dear. A model that is bound by computing costs nearly twice as
    much at twice the rows: 33 rows filled up to 64 would waste almost half of the device. One that
    is bound by launches costs the same at every size, and powers of two are enough."""
    dear, most = (DEAR_WITH_GRAPHS, MOST_BUCKETS) if captures else (DEAR_PADDING, MOST_SIZES)
    refined = list(sizes)
    warming = sum(seconds(size) or 0.0 for size in sizes)
    while len(refined) < most:
        wastes = [
            (_waste(small, large, seconds), small, large)
            for small, large in pairwise(refined)
            if large - small > 1
        ]
        if not wastes:
            break
        waste, small, large = max(wastes)
        middle = (small + large) // 2
        warming += seconds(middle) or 0.0
        if waste <= dear or warmings * warming > MOST_WARMING_S:
            break
        refined = sorted({*refined, middle})
    return tuple(refined)


def _waste(small: int, large: int, seconds: Callable[[int], float | None]) -> float:
    """The share of a run at `large` rows that is wasted by the least batch in that bucket."""
    least, most = seconds(small + 1), seconds(large)
    if least is None or most is None or most <= 0:
        return 0.0
    return (most - least) / most


def _parsed(config: ModelConfig, written: str) -> tuple[int, ...]:
    sizes = []
    for each in written.split(","):
        text = each.strip()
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            raise InvalidRequest(
                f"model '{config.name}': parameter '{PARAMETER}': expected 'off' or batch sizes "
                f"such as '1,2,4,8', got '{written}'"
            )
        sizes.append(int(text))
    if len(set(sizes)) > MOST_BUCKETS:
        raise InvalidRequest(
            f"model '{config.name}': parameter '{PARAMETER}': expected at most {MOST_BUCKETS} "
            f"sizes, got {len(set(sizes))}"
        )
    return tuple(sorted(set(sizes)))
