"""Tells in the log when a server that has started turns unready, and when it is ready again.

The first time that it is ready is the ready line's (`process.py`), a drain and a broken device have
records of their own. Called by `ServerHealth` whenever readiness may have changed.
"""

import logging
from typing import Final

from stoker.lifecycle.health import ServerHealth, ServerState
from stoker.telemetry.log import event

logger: Final = logging.getLogger(__name__)


class ReadinessLog:
    """See the module's docstring."""

    def __init__(self, health: ServerHealth) -> None:
        self._health = health
        self._told: tuple[str, ...] = ()
        """Reasons that stand in the log; empty: it says that all is well."""

    def look(self) -> None:
        """Something changed."""
        health = self._health
        if health.state is not ServerState.STARTED:
            return
        readiness = health.readiness()
        reasons = () if readiness.ready else readiness.reasons
        if reasons == self._told:
            return
        self._told = reasons
        if reasons:
            event(
                logger,
                "not_ready",
                "the server is not ready: " + "; ".join(reasons),
                level=logging.WARNING,
                reasons=reasons,
            )
        else:
            event(logger, "ready_again", "the server is ready again")
