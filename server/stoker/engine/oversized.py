"""A request of more rows than the model's max_batch_size: run in parts, answered as one.

It is admitted whole, its parts keep its priority and deadline, the first failure, cancel or expiry
ends all of them, and it counts once in the statistics. Only models whose rows are independent get
here: `ModelPlan.splits_oversized`. Runs on the event loop; large outputs are joined in a thread.
Source: design, section "Batching", "Oversized requests".

The whole is an entry too, one that lives and is answered but never waits in the queue. Whoever
answers it (`_part_done`, a cancel, the end of the model) ends its parts with it.
"""

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from stoker.engine.pending import MakePending, Pending
from stoker.engine.plan import RequestForm
from stoker.errors import ExecutionFailed, Internal, InvalidRequest, ServingError
from stoker.inference import Cancel, Reply
from stoker.request import InferRequest, InferResponse
from stoker.tensor import Tensor, shape_text

if TYPE_CHECKING:
    from stoker.engine.served_model import ServedModel

logger: Final = logging.getLogger(__name__)

JOIN_ON_LOOP_BYTES: Final = 1 << 18
"""Outputs up to 256 KiB are joined on the loop (some 50 us); larger ones would delay others. A
model that keeps the order of its answers waits for no thread: later answers would overtake."""

MOST_PARTS: Final = 512
"""Making and answering a part takes the loop some 5 us: 512 hold it for 2.5 ms."""


class OversizedRequest:
    """The parts of one request and what has come back of them."""

    def __init__(
        self,
        model: "ServedModel",
        request: InferRequest,
        form: RequestForm,
        reply: Reply,
        now: float,
        pending: MakePending,
    ) -> None:
        """`pending` makes the entries of the whole and of its parts."""
        self._model = model
        self._pending = pending
        self._whole = pending(model, request, form, self._ended, now)
        self._id = request.id
        self._reply = reply
        self._parts: list[Pending] = []
        self._answers: list[InferResponse | None] = []
        self._missing = 0

    def submit(self, request: InferRequest) -> Cancel:
        """Admits the whole and queues its parts. Raises ServingError when it is refused."""
        whole, model = self._whole, self._model
        rows = whole.rows
        size = model.costs.sizes.largest
        if rows > size * MOST_PARTS:
            raise InvalidRequest(
                f"request to {model.plan.identity}: expected at most {size * MOST_PARTS} rows, "
                f"got {rows}"
            )
        model.admit(whole, request)
        self._parts = [
            self._part(request, place, start, min(size, rows - start))
            for place, start in enumerate(range(0, rows, size))
        ]
        self._missing = len(self._parts)
        self._answers = [None] * self._missing
        model.hold(whole)
        for part in self._parts:
            model.enqueue(part)
        return whole.cancel

    def _part(self, request: InferRequest, place: int, start: int, rows: int) -> Pending:
        whole, form = self._whole, self._whole.form
        part_request = InferRequest.of(
            request.kind.model,
            id=request.id,
            inputs=[_rows_of(tensor, start, rows) for tensor in request.inputs],
            deadline=request.deadline,
        )
        part_form = replace(form, rows=rows)
        reply = partial(self._part_done, place)
        part = self._pending(self._model, part_request, part_form, reply, whole.arrived)
        part.level = whole.level
        part.expires = whole.expires
        part.delays = whole.delays
        part.nbytes = whole.nbytes * rows // form.rows
        part.weight = 1 if place == 0 else 0
        part.counts = False
        return part

    def _part_done(self, place: int, result: InferResponse | ServingError) -> None:
        if isinstance(result, ServingError):
            self._whole.answer(result)
        elif self._whole.dead:
            _release(result)
        else:
            self._answers[place] = result
            self._missing -= 1
            if self._missing == 0:
                answers = [answer for answer in self._answers if answer is not None]
                self._answers = []  # the join releases them, whatever becomes of the whole
                self._whole.taken = self._parts[0].taken
                self._join(answers)

    def _ended(self, result: InferResponse | ServingError) -> None:
        """The whole has its answer: nothing of it runs that has not started."""
        for part in self._parts:
            part.cancel()
        for answer in self._answers:
            if answer is not None:
                _release(answer)
        self._answers = []
        self._reply(result)

    def _join(self, answers: list[InferResponse]) -> None:
        if (misfit := _misfit(answers)) is not None:
            self._joined(
                answers,
                ExecutionFailed(
                    f"output '{misfit.name}' of {self._model.plan.identity}: expected rows of one "
                    f"shape from all parts of the request, got another: "
                    f"{shape_text(misfit.shape[1:])}"
                ),
            )
            return
        nbytes = sum(tensor.nbytes for answer in answers for tensor in answer.outputs)
        if nbytes <= JOIN_ON_LOOP_BYTES or self._model.keeps_order:
            self._joined(answers, self._response(answers, _joined_outputs(answers)))
            return
        future = asyncio.get_running_loop().run_in_executor(None, _joined_outputs, answers)
        future.add_done_callback(partial(self._joined_in_thread, answers))

    def _joined_in_thread(
        self, answers: list[InferResponse], future: "asyncio.Future[tuple[Tensor, ...]]"
    ) -> None:
        error = future.exception()
        if error is None:
            self._joined(answers, self._response(answers, future.result()))
            return
        logger.error("joining the parts of a request failed", exc_info=error)
        self._joined(answers, Internal("internal error; the server's log has the details"))

    def _joined(self, answers: list[InferResponse], result: InferResponse | ServingError) -> None:
        for answer in answers:
            _release(answer)
        self._whole.answer(result)

    def _response(self, answers: list[InferResponse], outputs: tuple[Tensor, ...]) -> InferResponse:
        return InferResponse.of(answers[0].model, answers[0].version, self._id, outputs)


def _rows_of(tensor: Tensor, start: int, rows: int) -> Tensor:
    shape = (rows, *tensor.shape[1:])
    data = tensor.data
    if isinstance(data, np.ndarray):
        whole = data.reshape(tensor.shape)
        return Tensor(tensor.name, tensor.datatype, shape, whole[start : start + rows])
    row_bytes = len(data) // tensor.shape[0]
    view = memoryview(data)[start * row_bytes : (start + rows) * row_bytes]
    return Tensor(tensor.name, tensor.datatype, shape, view)


def _misfit(answers: list[InferResponse]) -> Tensor | None:
    """An output whose rows have another shape than in the first part; None if all can be joined."""
    first = answers[0].outputs
    for answer in answers[1:]:
        for tensor, expected in zip(answer.outputs, first, strict=True):
            if tensor.shape[1:] != expected.shape[1:]:
                return tensor
    return None


def _joined_outputs(answers: list[InferResponse]) -> tuple[Tensor, ...]:
    """The parts' outputs, one after another along axis 0. Copies; the GIL is free meanwhile."""
    joined: list[Tensor] = []
    for place, first in enumerate(answers[0].outputs):
        tensors = [answer.outputs[place] for answer in answers]
        rows = sum(tensor.shape[0] for tensor in tensors)
        into = np.empty((rows, *first.shape[1:]), first.datatype.numpy)
        at = 0
        for tensor in tensors:
            into[at : at + tensor.shape[0]] = tensor.array()
            at += tensor.shape[0]
        joined.append(Tensor(first.name, first.datatype, into.shape, into))
    return tuple(joined)


def _release(answer: InferResponse) -> None:
    if answer.lease is not None:
        answer.lease.release()
