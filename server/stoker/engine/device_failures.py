"""What the device failures of one model version mean: go on, end the model, or end the process.

A failure of reach RUN was tried twice already; the device answers well after it, so the batch may
have been the cause (a shape that a library cannot do), and the model goes on. Several in a row
say otherwise. Pure; on the event loop.
"""

from dataclasses import dataclass
from typing import Final

from stoker.engine.execution import Batch
from stoker.errors import DeviceFailed, Reach
from stoker.tensor import shape_text

MOST_IN_A_ROW: Final = 3
"""One or two batches may be at fault themselves; a third that fails twice, with none between that
ran well, is the device's."""


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What a log may tell of a batch: sizes, never contents."""

    rows: int
    requests: int
    shapes: tuple[str, ...]
    """`name datatype [shape]` of each input, for all rows together."""


class DeviceFailures:
    """The failures of one model version."""

    def __init__(self) -> None:
        self.in_a_row = 0
        """Batches of reach RUN since the last run that ended well."""
        self.failed_batch: BatchFacts | None = None
        """The batch whose failure ended the model."""

    def ran_well(self) -> None:
        """A run succeeded: the failures before it were of their runs."""
        self.in_a_row = 0

    def judge(self, cause: DeviceFailed, batch: Batch, *, batches: bool) -> DeviceFailed | None:
        """The error that ends the model, None where it goes on. `batches`: the model's tensors
        have a batch dimension."""
        if cause.reach is Reach.RUN:
            self.in_a_row += 1
            if self.in_a_row < MOST_IN_A_ROW:
                return None
            cause = DeviceFailed(
                f"{cause.message}; so did {self.in_a_row} batches in a row", reach=Reach.PROCESS
            )
        if self.failed_batch is None:
            self.failed_batch = _facts(batch, batches=batches)
        return cause


def _facts(batch: Batch, *, batches: bool) -> BatchFacts:
    shapes = []
    for tensor in batch.entries[0][1].inputs:
        shape = (batch.rows, *tensor.shape[1:]) if batches else tensor.shape
        shapes.append(f"{tensor.name} {tensor.datatype.wire} {shape_text(shape)}")
    return BatchFacts(batch.rows, len(batch.entries), tuple(shapes))
