"""How the server goes away without losing a request: the order of a drain, once.

    1. readiness and gRPC health turn false; connections are told to leave
    2. for the drain delay everything is served, while balancers notice
    3. no new connections; what is in flight finishes within the drain timeout
    4. what is left is answered with DRAINING

Runs on the event loop. Knows transports only by the protocol below. Source: design, section
"Operating it"; the kubelet and the proxies act at the same time, in no order.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from stoker.engine.served_model import ServedModel
from stoker.errors import Draining
from stoker.lifecycle.health import ServerHealth, ServerState
from stoker.telemetry.log import event

logger: Final = logging.getLogger(__name__)

LAST_ANSWERS: Final = 1.0
"""Seconds for the answers of step 4 to leave."""


class DrainingTransport(Protocol):
    """A listening transport that can be emptied."""

    def announce_drain(self, delay: float) -> None:
        """Tells connections to leave, spread over `delay` seconds, while all is still served."""

    async def finish(self, grace: float) -> None:
        """Accepts no more connections, lets requests in flight finish for `grace` seconds, then
        closes. Returns when everything is closed."""


async def drain(
    health: ServerHealth,
    transports: Sequence[DrainingTransport],
    served: Callable[[], Iterable[ServedModel]],
    *,
    delay: float,
    grace: float,
) -> int:
    """Drains the server; gives the number of requests that got DRAINING.

    `served` gives the models that serve at the moment of the call; `delay` and `grace` are seconds.
    """
    health.become(ServerState.DRAINING)
    in_flight = sum(model.statistics.in_flight for model in served())
    event(logger, "drain_started", "draining", delay_s=delay, timeout_s=grace, in_flight=in_flight)
    for transport in transports:
        transport.announce_drain(delay)
    await asyncio.sleep(delay)
    left = 0

    def end() -> None:
        nonlocal left
        left = _answer_left(list(served()))

    ending = asyncio.get_running_loop().call_later(grace, end)
    try:
        async with asyncio.TaskGroup() as tasks:
            for transport in transports:
                tasks.create_task(transport.finish(grace + LAST_ANSWERS), name="finish transport")
    finally:
        ending.cancel()
    event(logger, "drained", "drained", unanswered=left)
    return left


def _answer_left(models: Sequence[ServedModel]) -> int:
    """Ends every request that has no answer yet; later ones get the same."""
    left = sum(model.statistics.in_flight for model in models)
    error = Draining("the server is shutting down; send the request again", retry_after=1.0)
    for model in models:
        model.refusal = error
        model.answer_all(error)
    return left
