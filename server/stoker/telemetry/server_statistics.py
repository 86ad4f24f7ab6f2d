"""What is counted for the server as a whole: requests that never reach a model's own counters.

Transports and the engine add on the loop, `/metrics` reads. The reasons are a closed set: the name
that a client asked for is never kept, or anyone could fill Prometheus with made-up models.
"""

from enum import Enum


class UnroutedReason(Enum):
    """Label `reason` of stoker_requests_unrouted: why no loaded version got the request."""

    UNKNOWN_MODEL = "unknown_model"
    """No such model or version."""
    NOT_READY = "not_ready"
    """The model is known, but no version of it is loaded."""
    MALFORMED = "malformed"
    """A codec could not read the message."""
    TOO_LARGE = "too_large"
    """Over the limit of message bytes, or of buffered bytes."""


class ServerStatistics:
    """Plain counters since the start of the process."""

    __slots__ = ("unrouted",)

    def __init__(self) -> None:
        self.unrouted = dict.fromkeys(UnroutedReason, 0)

    def record_unrouted(self, reason: UnroutedReason) -> None:
        """One request that reached no loaded version. Call on the loop."""
        self.unrouted[reason] += 1
