"""Tracing: records of calls and batches go from the event loop to a thread, and from there as spans
to a receiver.

The loop appends to a queue and never waits. What the queue has no room for is dropped and counted:
a receiver that is slow or gone costs spans, never requests. The thread makes spans of the records
(`spans.py`) and gives them to the exporter, a batch at a time. Knows no OpenTelemetry but by the
two functions that it is given.

  1. `_noted` is the loop's, `_taken` the thread's; their difference is what waits.
  2. The thread ends when it finds None; what it has then is exported first.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from stoker.telemetry.log import event
from stoker.telemetry.observation import BatchRecord, Observation, SpanIdentity
from stoker.telemetry.sampler import Sampler

logger: Final = logging.getLogger(__name__)

Record: TypeAlias = Observation | BatchRecord
Span: TypeAlias = Any
"""One of the exporter's; this module only hands them on."""

_FEW_SPANS: Final = 5
"""Of a call: itself, receive, queue, respond, and one run."""


class SpanReceiver(Protocol):
    """What sends spans out of the process. Called by the thread only, but for `close`."""

    def export(self, spans: Sequence[Span]) -> str | None:
        """Sends them; may take as long as its own timeout. None: they were taken; else they are
        lost, and why."""

    def close(self) -> None:
        """Ends an export that waits to try again."""

    @property
    def target(self) -> str:
        """Where spans go, in words."""


class TraceCounts:
    """What became of spans. The loop writes `dropped`, the thread the others."""

    __slots__ = ("dropped", "exported", "failed")

    def __init__(self) -> None:
        self.exported = 0
        self.dropped = 0
        """The queue was full, or the server ended before they were sent."""
        self.failed = 0
        """The receiver did not take them."""


class Tracer:
    """Implements `observer.Tracing`. `start` it, and `close` it at the end."""

    def __init__(
        self,
        sampler: Sampler,
        receiver: SpanReceiver,
        spans_of: Callable[[Record, int], list[Span]],
        *,
        max_queued_spans: int,
        max_export_spans: int,
        interval_s: float,
    ) -> None:
        """`spans_of(record, offset_ns)` makes the spans of a record, whose monotonic times are
        `offset_ns` behind those since the epoch."""
        self.sample = sampler.sample
        self.counts = TraceCounts()
        self._sampler = sampler
        self._receiver = receiver
        self._spans_of = spans_of
        self._max_queued = max_queued_spans
        self._max_export = max_export_spans
        self._interval_s = interval_s
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._noted = 0
        self._taken = 0
        self._is_failing = False
        self._is_closing = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._main, name="export spans", daemon=True)

    def start(self) -> None:
        """Begins to export."""
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Sends what waits, for `timeout_s` at most; the rest is dropped. Blocks."""
        self._is_closing = True
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._is_closed = True
        self._receiver.close()
        left = self._noted - self._taken
        self.counts.dropped += left
        if left:
            event(
                logger,
                "spans_lost",
                f"{left} spans were not exported to {self._receiver.target} before the end",
                level=logging.WARNING,
                spans=left,
            )

    @property
    def waiting_spans(self) -> int:
        """Spans that are not given to the receiver yet."""
        return self._noted - self._taken

    def child(self, parent: SpanIdentity) -> SpanIdentity:
        """The identity of a span inside another."""
        return SpanIdentity(
            parent.trace_id, self._sampler.span_id(), parent.span_id, state=parent.state
        )

    def root(self) -> SpanIdentity:
        """The identity of the first span of a new trace."""
        return SpanIdentity(self._sampler.trace_id(), self._sampler.span_id())

    def record(self, record: Record) -> None:
        """Takes what has ended. Never waits."""
        size = record_spans(record)
        waiting = self._noted - self._taken
        # A record has several spans: where nothing waits, one has room whatever the limit is.
        if (waiting and waiting + size > self._max_queued) or self._is_closing:
            self.counts.dropped += size
            return
        self._noted += size
        self._queue.put(record)

    def _main(self) -> None:
        is_open = True
        while is_open:
            records, is_open = self._next()
            if not records:
                continue
            taken = sum(map(record_spans, records))
            try:
                self._export(records)
            except Exception:  # a bug of ours or the exporter's ends no thread
                self.counts.failed += taken
                if not self._is_closed:  # what is closed amid an export may say so
                    logger.exception("exporting spans failed")
            self._taken += taken

    def _next(self) -> tuple[list[Record], bool]:
        """Records for one export: those that come until it is full, or its time has come. False:
        they are the last."""
        records: list[Record] = []
        size, until = 0, 0.0
        while size < self._max_export:
            try:
                left = max(0.0, until - time.monotonic()) if records else None
                record = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if record is None:
                return records, False
            if not records:
                until = time.monotonic() + self._interval_s
            records.append(record)
            size += record_spans(record)
        return records, True

    def _export(self, records: Sequence[Record]) -> None:
        # Read each time: the time of the day may be set while the server runs.
        offset_ns = time.time_ns() - time.monotonic_ns()
        spans = [span for record in records for span in self._spans_of(record, offset_ns)]
        why = self._receiver.export(spans)
        if why is None:
            self.counts.exported += len(spans)
        else:
            self.counts.failed += len(spans)
        self._tell(why)

    def _tell(self, why: str | None) -> None:
        """Says when exporting begins to fail and when it works again; not each time."""
        is_failing = why is not None
        if is_failing == self._is_failing:
            return
        self._is_failing = is_failing
        target = self._receiver.target
        if is_failing:
            event(
                logger,
                "trace_export_failing",
                f"spans cannot be exported to {target}; requests are served as before: {why}",
                level=logging.WARNING,
                target=target,
                reason=why,
            )
        else:
            event(
                logger,
                "trace_export_works",
                f"spans are exported to {target} again",
                target=target,
            )


def record_spans(record: Record) -> int:
    """About how many spans a record becomes."""
    if isinstance(record, BatchRecord):
        return 1 + len(record.runs)
    return _FEW_SPANS + max(0, len(record.runs) - 1)
