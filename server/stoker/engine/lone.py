"""Runs of one request by what is prepared for its form: nothing to gather, nothing to cut.

On the event loop most runs of a quiet server have one request, and so have those of many models
(`inline.py`). `Execution.execute` does the same in steps that a batch needs; here all that does not
change between two such requests is worked out once: where the data goes, what runs, which arrays
the outputs are read from, what they are called.

  1. Only where bindings are at level 1, no output needs a slab, and a run has as many rows as the
     request (`fixed_batch.py` decides).
  2. What fails is run again by `execute`, which tells why; nothing is counted here.
Used by one thread at a time, as the execution that it belongs to.  Hot path.
Measured: benchmarks/results/0006-grpc.md, "The lone request".
"""

from collections.abc import Sequence
from typing import NamedTuple

from stoker.engine.pending import Pending
from stoker.engine.plan import ModelPlan, OutputForm, RequestForm
from stoker.request import InferRequest, InferResponse, OutputBatch
from stoker.runtime.fixed import LoneBuffers
from stoker.telemetry.statistics import BatchEnd
from stoker.tensor import Array, Raw


class LoneOutcome(NamedTuple):
    """A good run of one request. Moments are monotonic seconds."""

    entry: Pending
    request: InferRequest
    response: InferResponse
    end: BatchEnd
    alone: bool
    """Nothing else ran on the device meanwhile."""
    taken: float
    began: float
    laid: float
    ran: float
    ended: float


class LoneRun:
    """What runs the requests of one form."""

    __slots__ = ("_buffers", "_heads", "_inputs", "_places", "_plan", "_rows", "_shared", "form")

    def __init__(
        self, form: RequestForm, buffers: LoneBuffers, outputs: OutputForm, plan: ModelPlan
    ) -> None:
        self.form = form
        self._buffers = buffers
        self._inputs = tuple(zip(buffers.inputs, form.order, strict=True))
        self._heads, self._places, self._shared = outputs
        self._plan = plan
        self._rows = form.rows if plan.batches else -1

    def lay(self, data: Sequence[Raw | Array]) -> bool:
        """Puts a request's data where the run reads it. False: it is not for here."""
        for place, at in self._inputs:
            piece = data[at]
            if type(piece) is not bytes and type(piece) is not memoryview:
                return False
            place[:] = piece
        return True

    def run(self) -> None:
        """Runs what was laid. Raises as `Binding.run`."""
        self._buffers.run()

    def answer(self, request: InferRequest) -> InferResponse:
        """The outputs of the last run, copied."""
        plan = self._plan
        arrays = tuple([each.copy() for each in self._buffers.outputs])
        batch = OutputBatch(
            plan.identity.name, plan.version, self._heads, arrays, None, self._shared
        )
        return InferResponse(batch, self._places, 0, self._rows, request.id)
