"""One accepted request on its way: queued, perhaps running, answered once.

States and their legal ways (all changes on the event loop, except `started`):

    ARRIVED -> QUEUED                    the turn of the loop in which it came is over
    ARRIVED -> ANSWERED                  refused, cancelled, or run at once on the loop: nothing
                                         counts it while it is here
    QUEUED -> STARTED -> ANSWERED        an executor took it, the outcome came back
    QUEUED -> ANSWERED                   expiry, cancel, drain, unload: an empty shell stays queued
    STARTED -> ANSWERED                  cancel or deadline while running: the result is dropped

Invariants.
  1. `reply` is called once, by `end`, on the loop.
  2. After the answer the entry holds nothing of its client: `request` is None, `reply` answers
     nobody. Executors read `request` once and skip the entry when it is None; they never write to
     the entry.
  3. `started` turns true on the loop, when it reads the executors' log of taken batches.
Hot path.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from stoker.errors import Cancelled, ServingError
from stoker.inference import Reply
from stoker.request import InferRequest, InferResponse

if TYPE_CHECKING:
    from stoker.engine.plan import RequestForm
    from stoker.engine.served_model import ServedModel

logger: Final = logging.getLogger(__name__)


MakePending: TypeAlias = (
    'Callable[["ServedModel", InferRequest, "RequestForm", Reply, float], Pending]'
)
"""What makes an entry of a request: `Pending`, or a kind of it that says more."""


class Pending:
    """A request in the engine. The event loop owns it."""

    __slots__ = (
        "arrived",
        "counts",
        "dead",
        "deadline",
        "delays",
        "enqueued",
        "expires",
        "form",
        "level",
        "model",
        "nbytes",
        "reply",
        "request",
        "rows",
        "shadows",
        "started",
        "taken",
        "weight",
    )

    def __init__(
        self,
        model: "ServedModel",
        request: InferRequest,
        form: "RequestForm",
        reply: Reply,
        now: float,
    ) -> None:
        self.model = model
        self.request: InferRequest | None = request
        self.form = form
        self.reply = reply
        self.rows = form.rows
        self.nbytes = 0
        self.level = 0
        self.arrived = now
        self.enqueued = now
        self.deadline = request.deadline
        """The client's own: it holds while queued and while running."""
        self.expires = request.deadline
        """The earlier of the deadline and the queue timeout: it holds while queued."""
        self.delays = False
        """On expiry the entry moves behind the others of its level instead of failing."""
        self.weight = 1
        """What it counts as among the queued: 0 for all but the first part of a split request."""
        self.counts = True
        """False for the parts of a split request, which is counted once, as a whole."""
        self.dead = False
        self.started = False
        self.taken = now
        """When an executor took it; known once `started`."""
        self.shadows: list[float] | None = None
        """Latest useful start of requests refused right behind this one, to judge the refusals."""

    def answer(self, result: InferResponse | ServingError) -> None:
        """Ends the request. Harmless when it has ended already: its share of a lease goes back."""
        if self.dead:
            if isinstance(result, InferResponse) and result.lease is not None:
                result.lease.release()
            return
        self.model.settle(self, result)
        self.end(result)

    def end(self, result: InferResponse | ServingError) -> None:
        """Ends the request without settling it: it was not admitted, or the model has done so."""
        self.dead = True
        self.request = None
        reply = self.reply
        self.reply = _nobody
        try:
            reply(result)
        except Exception:
            logger.exception("a reply failed; its client gets no answer")

    def cancel(self) -> None:
        """The client went away."""
        if not self.dead:
            self.answer(CANCELLED)


def _nobody(result: InferResponse | ServingError) -> None:
    """The reply of an entry that has ended: shells in queue and timer keep no connection alive."""


def nothing_to_cancel() -> None:
    """The Cancel of a request that was answered at once."""


CANCELLED: Final = Cancelled("the client cancelled the request")
"""Nobody reads it: one instance serves all."""
