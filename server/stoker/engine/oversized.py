"""A request of more rows than the model's max_batch_size: run in parts, answered as one.

It is admitted whole, its parts keep its priority and deadline, the first failure, cancel or expiry
ends all of them, and it counts once in the statistics. Only models whose rows are independent get
here: `ModelPlan.splits_oversized`. Runs on the event loop; large outputs are joined in a thread.
Source: design, section "Batching", "Oversized requests".
"""

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from stoker.engine.pending import CANCELLED, Pending
from stoker.engine.plan import RequestForm
from stoker.errors import Internal, ServingError
from stoker.inference import Cancel, Reply
from stoker.request import InferRequest, InferResponse
from stoker.tensor import Tensor

if TYPE_CHECKING:
    from stoker.engine.served_model import ServedModel

logger: Final = logging.getLogger(__name__)

JOIN_ON_LOOP_BYTES: Final = 1 << 18
"""Outputs up to 256 KiB are joined on the loop (some 50 us); larger ones would delay others."""


class OversizedRequest:
    """The parts of one request and what has come back of them."""

    def __init__(
        self, model: "ServedModel", request: InferRequest, form: RequestForm, reply: Reply
    ) -> None:
        self._model = model
        self._request = request
        self._form = form
        self._reply = reply
        self._parts: list[Pending] = []
        self._answers: list[InferResponse | None] = []
        self._missing = 0
        self._is_over = False

    def submit(self, now: float) -> Cancel:
        """Admits the whole and queues its parts. Raises ServingError when it is refused."""
        whole = Pending(self._model, self._request, self._form, self._reply, now)
        self._model.admit(whole, self._request)
        size = self._model.plan.max_batch_size
        for start in range(0, self._form.rows, size):
            rows = min(size, self._form.rows - start)
            self._parts.append(self._part(whole, start, rows))
        self._missing = len(self._parts)
        self._answers = [None] * self._missing
        for part in self._parts:
            self._model.enqueue(part)
        return self.cancel

    def cancel(self) -> None:
        """The client went away: no part runs that has not started."""
        if not self._is_over:
            self._end(CANCELLED)

    def _part(self, whole: Pending, start: int, rows: int) -> Pending:
        form = self._form
        request = InferRequest(
            model=self._request.model,
            id=self._request.id,
            inputs=tuple(_rows_of(tensor, start, rows) for tensor in self._request.inputs),
            deadline=self._request.deadline,
        )
        part_form = RequestForm(rows, form.signature, form.order, form.outputs, form.elements)
        place = len(self._parts)
        part = Pending(
            self._model, request, part_form, partial(self._part_done, place), whole.arrived
        )
        part.level = whole.level
        part.expires = whole.expires
        part.delays = whole.delays
        part.nbytes = whole.nbytes * rows // form.rows
        part.weight = 1 if place == 0 else 0
        part.counts = False
        return part

    def _part_done(self, place: int, result: InferResponse | ServingError) -> None:
        if self._is_over:
            if isinstance(result, InferResponse):
                _release(result)
            return
        if isinstance(result, ServingError):
            self._end(result)
            return
        self._answers[place] = result
        self._missing -= 1
        if self._missing == 0:
            self._join([answer for answer in self._answers if answer is not None])

    def _end(self, error: ServingError) -> None:
        self._is_over = True
        for part in self._parts:
            part.answer(CANCELLED)
        for answer in self._answers:
            if answer is not None:
                _release(answer)
        self._answer(error)

    def _join(self, answers: list[InferResponse]) -> None:
        nbytes = sum(tensor.nbytes for answer in answers for tensor in answer.outputs)
        if nbytes <= JOIN_ON_LOOP_BYTES:
            self._joined(answers, _joined_outputs(answers))
            return
        future = asyncio.get_running_loop().run_in_executor(None, _joined_outputs, answers)
        future.add_done_callback(partial(self._joined_in_thread, answers))

    def _joined_in_thread(
        self, answers: list[InferResponse], future: "asyncio.Future[tuple[Tensor, ...]]"
    ) -> None:
        error = future.exception()
        if error is None:
            self._joined(answers, future.result())
            return
        logger.error("joining the parts of a request failed", exc_info=error)
        if not self._is_over:
            self._end(Internal("internal error; the server's log has the details"))

    def _joined(self, answers: list[InferResponse], outputs: tuple[Tensor, ...]) -> None:
        for answer in answers:
            _release(answer)
        if self._is_over:
            return
        self._is_over = True
        first = answers[0]
        self._answer(InferResponse(first.model, first.version, self._request.id, outputs))

    def _answer(self, result: InferResponse | ServingError) -> None:
        first = self._parts[0]
        self._model.record(result, first.arrived, first.taken)
        self._reply(result)


def _rows_of(tensor: Tensor, start: int, rows: int) -> Tensor:
    shape = (rows, *tensor.shape[1:])
    data = tensor.data
    if isinstance(data, np.ndarray):
        whole = data.reshape(tensor.shape)
        return Tensor(tensor.name, tensor.datatype, shape, whole[start : start + rows])
    row_bytes = len(data) // tensor.shape[0]
    view = memoryview(data)[start * row_bytes : (start + rows) * row_bytes]
    return Tensor(tensor.name, tensor.datatype, shape, view)


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
