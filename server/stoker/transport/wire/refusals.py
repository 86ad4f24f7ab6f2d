"""What the wire refuses by itself, and the count of it: the engine and the codecs never hear of it.

`app.py` gives a counter to the server of the data port. What the codecs refuse, they count.
"""

from typing import Final

from stoker.errors import Draining, Overloaded, ServingError, TooLarge
from stoker.telemetry.server_statistics import ServerStatistics, UnroutedReason
from stoker.transport.wire.problems import HttpError, Problem

_MALFORMED: Final = frozenset(
    (
        Problem.MALFORMED,
        Problem.TARGET_TOO_LONG,
        Problem.EXPECTATION_FAILED,
        Problem.HEAD_TOO_LARGE,
        Problem.METHOD_UNKNOWN,
        Problem.VERSION_UNKNOWN,
    )
)

DRAINING: Final = Draining(
    "the server is shutting down: another replica can take the request", retry_after=1.0
)
"""What is left unanswered at the end of a drain gets this."""


class RefusalCounter:
    """Hears of each refusal. Used on the loop only."""

    def __init__(self, statistics: ServerStatistics) -> None:
        self._statistics = statistics

    def __call__(self, error: ServingError | HttpError) -> None:
        """Counts it, unless it is no request for a model, such as one with an unknown path."""
        if isinstance(error, HttpError):
            if error.problem in _MALFORMED:
                self._statistics.record_unrouted(UnroutedReason.MALFORMED)
        elif isinstance(error, TooLarge | Overloaded):  # Overloaded: the budget of buffered bytes
            self._statistics.record_unrouted(UnroutedReason.TOO_LARGE)
