"""An inference call whose body is large: inflated and decoded in steps before it is submitted.

Stands between the service and the engine; its steps are taken by the service's thread, everything
else happens on the loop. The body is held by the steps alone, so that nothing of a call that was
refused stays: this object, the engine's handle and the connection refer to each other until the
answer, and only the garbage collector would end what they keep.
"""

from typing import Protocol

from stoker.errors import Cancelled, Overloaded
from stoker.inference import Cancel
from stoker.transport.coding import inflate_in_steps
from stoker.transport.rest.envelope import Decoded
from stoker.transport.rest.router import Route
from stoker.transport.steps import Job, Steps, StepThread
from stoker.transport.wire.limits import BufferBudget
from stoker.transport.wire.message import Answer, HttpResponse, Piece


class Service(Protocol):
    """What the call needs of the REST service."""

    budget: BufferBudget
    thread: StepThread

    def read(self, route: Route, body: Piece, size: int | None) -> Decoded:
        """The call that a plain body is. On the loop."""

    def read_in_steps(self, route: Route, body: Piece, size: int | None) -> Steps[Decoded]:
        """The call that a plain body with JSON is. In the thread."""

    def inflated_limit(self, size: int | None) -> int:
        """Bytes that a compressed body may become."""

    def check_forms(self, decoded: Decoded) -> None:
        """Raises InvalidRequest where an output cannot be answered as it is asked for."""

    def submit(self, decoded: Decoded, answer: Answer) -> Cancel:
        """Gives the call to the engine."""

    def refusal(self, error: Exception, route: Route) -> HttpResponse:
        """The answer of a call that never reaches the engine. On the loop."""


class Offloaded:
    """One such call, from its body to its answer."""

    __slots__ = ("_answer", "_cancel", "_is_cancelled", "_job", "_reserved", "_route",
                 "_service", "_size")  # fmt: skip

    def __init__(self, service: Service, route: Route, size: int | None, answer: Answer) -> None:
        self._service = service
        self._route = route
        self._size = size
        self._answer: Answer | None = answer
        self._job: Job[Decoded | Piece] | None = None
        self._cancel: Cancel | None = None
        self._is_cancelled = False
        self._reserved = 0

    def begin(self, body: Piece, coding: str | None) -> Cancel:
        """Starts it. `body` is plain if `coding` is None."""
        try:
            self._job = self._service.thread.run(
                self._steps(body, coding), self._read, self._reserve
            )
        except RuntimeError:
            self._finish(self._service.refusal(Cancelled("the server is closed"), self._route))
        return self.cancel

    def cancel(self) -> None:
        """Before the engine has it: it is answered when the thread is done with its step."""
        self._is_cancelled = True
        if self._job is not None:
            self._job.cancel()
        if self._cancel is not None:
            self._cancel()

    def _steps(self, body: Piece, coding: str | None) -> Steps[Decoded | Piece]:
        """In the thread. Gives the body where the rest is to be read on the loop."""
        service, size = self._service, self._size
        if coding is not None:
            body = yield from inflate_in_steps(body, coding, service.inflated_limit(size))
        if size == 0:
            return body
        return (yield from service.read_in_steps(self._route, body, size))

    def _reserve(self, size: int) -> None:
        budget = self._service.budget
        if size > budget.free:
            raise Overloaded(
                f"expected at most {budget.free} bytes, all that is free of the {budget.limit} "
                f"that the server buffers, got a body of more than {self._reserved} bytes when "
                "decompressed",
                retry_after=1.0,
            )
        budget.reserve(size)
        self._reserved += size

    def _read(self, outcome: Decoded | Piece | Exception) -> None:
        """On the loop."""
        self._job = None
        service = self._service
        if isinstance(outcome, Exception):
            self._finish(service.refusal(outcome, self._route))
            return
        try:
            if self._is_cancelled:
                raise Cancelled("the client went away")
            if not isinstance(outcome, tuple):
                outcome = service.read(self._route, outcome, self._size)
            service.check_forms(outcome)
        except Exception as error:
            self._finish(service.refusal(error, self._route))
            return
        cancel = service.submit(outcome, self._finish)
        if self._answer is not None:
            self._cancel = cancel

    def _finish(self, response: HttpResponse) -> None:
        answer, self._answer, self._cancel = self._answer, None, None
        self._service.budget.release(self._reserved)
        self._reserved = 0
        if answer is not None:
            answer(response)
