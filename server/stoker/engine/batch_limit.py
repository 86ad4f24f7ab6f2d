"""Applies a model's row limit (`row_limit.py`) to the batches that form: policy and run sizes.

On the event loop; executors read the policy that stands when they take a batch.
"""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from stoker.engine.forecast import RunSizes
from stoker.engine.row_limit import RowLimit
from stoker.telemetry.log import event

if TYPE_CHECKING:
    from stoker.engine.served_model import ServedModel

logger: Final = logging.getLogger(__name__)


class BatchLimit:
    """How large runs of one model version may be while memory is short."""

    def __init__(self, model: "ServedModel") -> None:
        self._model = model
        self._policy = model.policy
        self._sizes = model.costs.sizes
        # Of all runs, not of batches: what does not fit may be one request that shares none.
        self._limit = RowLimit(max(model.policy.most_rows, self._sizes.largest))
        self.is_lowered = False
        """Batches are smaller than configured because one did not fit into memory."""

    def ran_out(self, rows: int) -> None:
        """A batch of so many rows did not fit into memory: later ones are smaller."""
        if self._limit.lower(rows, self._model.clock()):
            identity = self._model.plan.identity
            event(
                logger,
                "batch_limit_lowered",
                f"{identity} ran out of memory at {rows} rows: batches are limited to "
                f"{self._limit.rows} rows",
                level=logging.WARNING,
                model=identity.name,
                version=identity.version,
                batch_limit_rows=self._limit.rows,
            )
            self._apply()

    def fitted(self, rows: int) -> None:
        """A run of so many rows fitted into memory. Called while `is_lowered` only."""
        if self._limit.ran(rows, self._model.clock()):
            identity = self._model.plan.identity
            event(
                logger,
                "batch_limit_raised",
                f"{identity}: batches may have {self._limit.rows} rows again",
                model=identity.name,
                version=identity.version,
                batch_limit_rows=self._limit.rows,
            )
            self._apply()

    def _apply(self) -> None:
        rows, policy = self._limit.rows, self._policy
        self.is_lowered = self._limit.is_lowered
        max_rows = min(policy.max_rows, rows)
        sustained_rows = min(policy.sustained_rows, rows)
        self._model.policy = replace(
            policy,
            max_rows=max_rows,
            preferred_rows=tuple(n for n in policy.preferred_rows if n <= rows),
            sustained_rows=sustained_rows if sustained_rows > max_rows else 0,
        )
        largest = min(self._sizes.largest, rows) if self.is_lowered else self._sizes.largest
        self._model.costs.resize(RunSizes(max_rows, largest))
