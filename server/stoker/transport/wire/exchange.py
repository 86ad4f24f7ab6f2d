"""One request under way: what its answer must obey, and the answer once it is there.

A connection keeps its exchanges in the order of their requests; a handler gets `answer` of one of
them and calls it, perhaps much later. Hot path.
"""

from collections.abc import Callable, Iterable
from typing import Final

from stoker.inference import Cancel
from stoker.transport.wire.limits import BufferBudget
from stoker.transport.wire.message import HttpResponse


class Exchange:
    """One request under way. Its connection owns it and writes all of its fields."""

    __slots__ = ("_take", "cancel", "closes", "reserved", "response", "size", "without_body")

    def __init__(
        self,
        take: "Callable[[Exchange, HttpResponse], None]",
        closes: bool,
        without_body: bool,
        reserved: int,
    ) -> None:
        self._take = take
        self.closes = closes
        """It is the last one of its connection."""
        self.without_body = without_body
        """It answers a HEAD."""
        self.reserved = reserved
        """Bytes of the request that the budget holds until it is answered."""
        self.response: HttpResponse | None = None
        self.size = 0
        """Bytes of the response's body, charged to the budget until they are sent."""
        self.cancel: Cancel | None = None

    def answer(self, response: HttpResponse) -> None:
        """Takes the request's one answer."""
        self._take(self, response)


GONE: Final = HttpResponse(0, (), ())
"""Marks an exchange whose client left: the handler's answer comes and is dropped."""


def refuse_unanswered(exchanges: Iterable[Exchange], refusal: HttpResponse) -> bool:
    """Answers and cancels what is still being worked on. False if there was nothing."""
    unanswered = [each for each in exchanges if each.response is None]
    for exchange in unanswered:
        stop = exchange.cancel
        exchange.answer(refusal)
        if stop is not None:
            stop()
    return bool(unanswered)


def cancel_all(exchanges: Iterable[Exchange], budget: BufferBudget) -> None:
    """Nobody waits for these any more. Reservations end when the handler has answered."""
    for exchange in exchanges:
        response = exchange.response
        if response is not None:
            budget.release(exchange.size)
            if response.lease is not None:
                response.lease.release()
            continue
        exchange.response = GONE
        if exchange.cancel is not None:
            exchange.cancel()
