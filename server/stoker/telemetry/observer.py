"""Who looks at calls: says of which somebody wants to know, and tells them at the end.

One object for the process, made by `app.py` when tracing or the access log is on; all else works
without. Transports ask before they make anything: a call that nobody wants to know of goes the way
of a server that observes nothing. Of the others they make an `Observation` and `end` it; the engine
calls `batch`. Runs on the event loop.
"""

import time
from collections.abc import Callable
from typing import Protocol

from stoker.telemetry.observation import BatchRecord, Observation, SpanIdentity


class Tracing(Protocol):
    """What decides which calls are traced, and takes the records of those."""

    def sample(self, traceparent: str, tracestate: str) -> SpanIdentity | None:
        """The identity of a new call's span; None: it is not traced."""

    def child(self, parent: SpanIdentity) -> SpanIdentity:
        """The identity of a span inside another."""

    def root(self) -> SpanIdentity:
        """The identity of the first span of a new trace, which is traced."""

    def record(self, record: Observation | BatchRecord) -> None:
        """Takes what has ended. Never waits."""


class AccessLog(Protocol):
    """What writes lines of calls that have ended."""

    def note(self, observation: Observation) -> None:
        """Writes a line if it should. Never waits."""


class Observer:
    """See the module's docstring."""

    def __init__(
        self,
        tracing: Tracing | None,
        access_log: AccessLog | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracing = tracing
        self._access_log = access_log
        self.clock = clock
        self.sample: Callable[[str, str], SpanIdentity | None] = (
            _untraced if tracing is None else tracing.sample
        )
        """The identity of the span of a call that comes with this `traceparent` and `tracestate`
        (empty: with none); None: it is not traced. Asked once for each call."""
        self.looks_at_all = access_log is not None
        """Calls that are not traced are observed too: which become a line is known at their end."""

    def begin_in(self, stream: Observation, bytes_in: int) -> Observation:
        """A request came on a stream that is observed."""
        stream.requests += 1
        stream.bytes_in += bytes_in
        span = None
        if self._tracing is not None and stream.span is not None:
            span = self._tracing.child(stream.span)
        return Observation(stream, self.clock(), bytes_in, span, stream)

    def end(self, observation: Observation) -> None:
        """A call is over. Only the first time counts."""
        if observation.ended:
            return
        observation.ended = self.clock()
        if observation.span is not None and self._tracing is not None:
            observation.settle()
            self._tracing.record(observation)
        if self._access_log is not None:
            self._access_log.note(observation)

    def new_batch(self) -> SpanIdentity | None:
        """The identity of a batch with traced requests."""
        return None if self._tracing is None else self._tracing.root()

    def batch(self, record: BatchRecord) -> None:
        """A batch is over."""
        if self._tracing is not None:
            self._tracing.record(record)


def _untraced(traceparent: str, tracestate: str) -> None:
    """Of each call, where tracing is off."""
