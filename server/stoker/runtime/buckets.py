"""To how many rows a batch is filled up: the batch sizes that a model's fixed bindings exist for.

A device wants few shapes: each new one costs a choice of algorithms, memory of its own and a CUDA
graph; so on a GPU batches are padded up to a bucket. On the CPU a binding costs some microseconds
and a padded row as much as a real one: there every size is its own bucket, unless the file says
otherwise. Pure.  Source: issue 4, "Buckets and CUDA graphs".
"""

from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from stoker.errors import InvalidRequest
from stoker.model import ModelConfig

PARAMETER: Final = "batch_buckets"

DEAR_PADDING: Final = 0.25
"""Where the smallest batch of a bucket wastes more than this share of the bucket's run, the rows
between get a bucket of their own."""

MOST_BUCKETS: Final = 16
"""Each has device buffers to warm and, where asked for, a CUDA graph in memory."""


class Buckets:
    """The sizes of one model, ascending; the last is its largest batch."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        """`sizes` empty: every batch is as large as it is."""
        self.sizes = sizes

    @property
    def pads(self) -> bool:
        """Whether any batch gets rows that nobody sent."""
        return bool(self.sizes)

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
        return Buckets((*[each for each in self.sizes if each < rows], rows))


EXACT: Final = Buckets(())
"""No padding."""


def buckets(
    config: ModelConfig,
    max_rows: int,
    *,
    on_gpu: bool,
    seconds: Callable[[int], float | None] = lambda rows: None,
) -> Buckets:
    """The buckets of a model whose batches have up to `max_rows` rows.

    `seconds(rows)` is the cost curve, None where nothing is measured. The parameter
    `batch_buckets` is `off`, or sizes such as `1,2,4,16`; then nothing is decided here, only
    `max_rows` added. Raises InvalidRequest for any other text.
    """
    if not config.batches:
        return EXACT
    written = config.parameters.get(PARAMETER, "").strip()
    if written.lower() == "off":
        return EXACT
    if written:
        sizes = _parsed(config, written)
        return Buckets((*[each for each in sizes if each < max_rows], max_rows))
    if not on_gpu:
        return EXACT
    return Buckets(_refined(powers_of_two(max_rows), seconds))


def check_buckets(config: ModelConfig) -> None:
    """Raises InvalidRequest for parameters of this module that cannot be obeyed."""
    buckets(config, max(1, config.max_batch_size), on_gpu=False)


def powers_of_two(max_rows: int) -> tuple[int, ...]:
    """1, 2, 4 ... and `max_rows` itself."""
    powers = [1 << power for power in range(max_rows.bit_length())]
    return tuple(sorted({*powers, max_rows}))


def _refined(sizes: tuple[int, ...], seconds: Callable[[int], float | None]) -> tuple[int, ...]:
    """More sizes where padding is dear. A model that is bound by computing costs nearly twice as
    much at twice the rows: 33 rows filled up to 64 would waste almost half of the device. One that
    is bound by launches costs the same at every size, and powers of two are enough."""
    refined = list(sizes)
    while len(refined) < MOST_BUCKETS:
        wastes = [
            (_waste(small, large, seconds), small, large)
            for small, large in pairwise(refined)
            if large - small > 1
        ]
        if not wastes:
            break
        waste, small, large = max(wastes)
        if waste <= DEAR_PADDING:
            break
        refined = sorted({*refined, (small + large) // 2})
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
