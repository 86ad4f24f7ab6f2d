"""The end of an answer that somebody looks at: when its bytes have left the process.

Whoever sends an answer releases its lease at that moment, or when it is dropped; so an answer of a
traced call carries this lease around its own, of REST and gRPC alike.
"""

from stoker.request import Lease
from stoker.telemetry.observation import Observation
from stoker.telemetry.observer import Observer


class AnswerEnd:
    """A lease that ends an observation as well. Implements `Lease`."""

    __slots__ = ("_lease", "_observation", "_observer")

    def __init__(self, lease: Lease | None, observer: Observer, observation: Observation) -> None:
        self._lease = lease
        self._observer = observer
        self._observation = observation

    def release(self) -> None:
        """The answer's bytes have left."""
        if self._lease is not None:
            self._lease.release()
        self._observer.end(self._observation)
