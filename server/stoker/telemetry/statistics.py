"""The numbers of one model version, as the engine counts them: plain integers, added on the loop.

`ModelStatistics` answers the protocol's statistics calls and feeds `/metrics`. The engine calls
the `record_*` methods; nothing else writes. Imports none of ours.  Hot path.

Semantics (Triton's): `success` counts requests, `inference_count` rows, `execution_count` runs.
compute_* durations are added once for each request of a batch in the request sums and once per
run in `batch_stats`. Only successful runs count in compute_*. All durations are nanoseconds.
"""

from bisect import bisect_left
from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple


class FailureReason(Enum):
    """Label `reason` of nv_inference_request_failure; all four always exist."""

    REJECTED = "REJECTED"
    """Refused by a full queue, or timed out in it."""
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    """The model's run failed."""
    OTHER = "OTHER"


class RefusalReason(Enum):
    """Label `reason` of stoker_requests_refused: why a request never entered the queue."""

    INVALID = "invalid"
    NOT_READY = "not_ready"
    QUEUE_FULL = "queue_full"
    QUEUE_BYTES = "queue_bytes"
    PREDICTED_LATE = "predicted_late"
    DRAINING = "draining"


class BatchEnd(Enum):
    """Label `reason` of stoker_batches: why a batch was closed with the rows it has."""

    __hash__ = object.__hash__  # Enum's own is a Python function, and each run counts its end

    IDLE = "idle"
    """Everything that waited was taken."""
    FULL = "full"
    PREFERRED = "preferred"
    DELAY = "delay"


LATENCY_BUCKETS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds in seconds of all latency histograms, +Inf added: 0.1 ms to 10 s, three a decade."""

ROWS_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds of the batch rows histogram, +Inf added."""

LATENCY_BUCKETS_NS: Final = tuple(round(bound * 1e9) for bound in LATENCY_BUCKETS_S)


class Exemplar(NamedTuple):
    """One observation of a histogram's bucket, and the trace that tells of it."""

    trace_id: str
    """32 hexadecimal digits, as W3C Trace Context writes them."""
    value: int
    """In the unit of the histogram's bounds."""
    at: float
    """Seconds since the epoch."""


class Histogram:
    """Counts per bucket (not cumulative; the last is +Inf) and the sum of what was observed."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0
        self.exemplars: dict[int, Exemplar] = {}
        """The newest of each bucket that has one, by its place in `counts`."""

    def observe(self, value: int, count: int = 1) -> None:
        """Adds one observation, or several of one value, in the unit of `bounds`."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count


class BatchStatistics:
    """Runs of one batch size."""

    __slots__ = ("count", "infer_ns", "input_ns", "output_ns")

    def __init__(self) -> None:
        self.count = 0
        self.input_ns = 0
        self.infer_ns = 0
        self.output_ns = 0


class ModelStatistics:
    """Everything counted for one version since it was loaded."""

    __slots__ = (
        "batch_ends",
        "batches",
        "bisections",
        "compute_count",
        "compute_histogram",
        "device_retries",
        "execution_count",
        "exemplar_count",
        "failure_count",
        "failure_ns",
        "failures",
        "hung_runs",
        "in_flight",
        "infer_ns",
        "inference_count",
        "input_ns",
        "last_inference_ms",
        "load_seconds",
        "model",
        "out_of_memory",
        "output_ns",
        "pending",
        "queue_histogram",
        "queue_ns",
        "refusals",
        "request_histogram",
        "slow_loop_runs",
        "success_count",
        "success_ns",
        "tags",
        "version",
        "wrong_refusals",
    )

    def __init__(self, model: str, version: int, *, tags: Mapping[str, str] | None = None) -> None:
        self.model = model
        self.version = version
        self.tags = dict(tags or {})
        self.load_seconds = 0.0
        self.last_inference_ms = 0
        """Milliseconds since the epoch of the last run's end; 0 if none."""
        self.inference_count = 0
        self.execution_count = 0
        self.success_count = 0
        self.success_ns = 0
        self.failure_count = 0
        self.failure_ns = 0
        self.queue_ns = 0
        self.compute_count = 0
        self.input_ns = 0
        self.infer_ns = 0
        self.output_ns = 0
        self.pending = 0
        """Requests accepted and not yet handed to an executor."""
        self.in_flight = 0
        """Requests accepted and not yet answered."""
        self.wrong_refusals = 0
        """Requests refused as predicted late that would have met their limit after all."""
        self.bisections = 0
        """Failed batches that were run again in halves."""
        self.out_of_memory = 0
        """Runs that did not fit into memory."""
        self.device_retries = 0
        """Runs that were tried again after a device fault that was theirs alone."""
        self.hung_runs = 0
        """Runs that lasted so long that they are not expected to end."""
        self.slow_loop_runs = 0
        """Runs on the event loop that held it for long."""
        self.exemplar_count = 0
        """Exemplars that were ever noted: it tells a scrape that there is a new one."""
        self.failures = dict.fromkeys(FailureReason, 0)
        self.refusals = dict.fromkeys(RefusalReason, 0)
        self.batch_ends = dict.fromkeys(BatchEnd, 0)
        self.batches: dict[int, BatchStatistics] = {}
        self.request_histogram = Histogram(LATENCY_BUCKETS_NS)
        self.queue_histogram = Histogram(LATENCY_BUCKETS_NS)
        self.compute_histogram = Histogram(LATENCY_BUCKETS_NS)

    def record_run(
        self,
        *,
        rows: int,
        requests: int,
        input_ns: int,
        infer_ns: int,
        output_ns: int,
        end: BatchEnd,
        now_ms: int,
    ) -> None:
        """A successful run of `rows` rows for `requests` requests. Once per batch."""
        self.execution_count += 1
        self.inference_count += rows
        self.compute_count += requests
        self.input_ns += input_ns * requests
        self.infer_ns += infer_ns * requests
        self.output_ns += output_ns * requests
        self.last_inference_ms = now_ms
        self.batch_ends[end] += 1
        batch = self.batches.get(rows)
        if batch is None:
            batch = self.batches[rows] = BatchStatistics()
        batch.count += 1
        batch.input_ns += input_ns
        batch.infer_ns += infer_ns
        batch.output_ns += output_ns
        compute = self.compute_histogram
        compute.counts[bisect_left(LATENCY_BUCKETS_NS, infer_ns)] += 1
        compute.total += infer_ns

    @property
    def batch_rows(self) -> Histogram:
        """The rows of each run, from `batches`."""
        histogram = Histogram(ROWS_BUCKETS)
        for rows, batch in self.batches.items():
            histogram.observe(rows, batch.count)
        return histogram

    def record_success(self, request_ns: int, queue_ns: int, *, count: int = 1) -> None:
        """An answered request, or several that came and left together: nanoseconds from arrival to
        answer, and of waiting before that, of each."""
        self.success_count += count
        requests, queue = self.request_histogram, self.queue_histogram
        requests.counts[bisect_left(LATENCY_BUCKETS_NS, request_ns)] += count
        queue.counts[bisect_left(LATENCY_BUCKETS_NS, queue_ns)] += count
        request_ns *= count
        queue_ns *= count
        self.success_ns += request_ns
        requests.total += request_ns
        self.queue_ns += queue_ns
        queue.total += queue_ns

    def record_lone(
        self,
        rows: int,
        input_ns: int,
        infer_ns: int,
        output_ns: int,
        end: BatchEnd,
        now_ms: int,
        request_ns: int,
        queue_ns: int,
    ) -> None:
        """A successful run of one request, which is answered: `record_run` and `record_success` in
        one."""
        self.execution_count += 1
        self.inference_count += rows
        self.compute_count += 1
        self.success_count += 1
        self.input_ns += input_ns
        self.infer_ns += infer_ns
        self.output_ns += output_ns
        self.success_ns += request_ns
        self.queue_ns += queue_ns
        self.last_inference_ms = now_ms
        self.batch_ends[end] += 1
        batch = self.batches.get(rows)
        if batch is None:
            batch = self.batches[rows] = BatchStatistics()
        batch.count += 1
        batch.input_ns += input_ns
        batch.infer_ns += infer_ns
        batch.output_ns += output_ns
        for histogram, value in (
            (self.compute_histogram, infer_ns),
            (self.request_histogram, request_ns),
            (self.queue_histogram, queue_ns),
        ):
            histogram.counts[bisect_left(LATENCY_BUCKETS_NS, value)] += 1
            histogram.total += value

    def note_exemplar(self, request_ns: int, trace_id: str, at: float) -> None:
        """Names the trace of a request that `record_success` counted as an example of its bucket.

        `trace_id` is 32 hexadecimal digits, `at` seconds since the epoch. Tracing calls it for the
        requests that it samples; without tracing nobody does, and nothing here costs anything.
        """
        place = bisect_left(LATENCY_BUCKETS_NS, request_ns)
        self.request_histogram.exemplars[place] = Exemplar(trace_id, request_ns, at)
        self.exemplar_count += 1

    def record_failure(self, reason: FailureReason, request_ns: int) -> None:
        """One request that was accepted, or refused by a full queue, and got an error."""
        self.failure_count += 1
        self.failure_ns += request_ns
        self.failures[reason] += 1

    def record_refusal(self, reason: RefusalReason) -> None:
        """One request that never entered the queue."""
        self.refusals[reason] += 1
        if reason is RefusalReason.QUEUE_FULL or reason is RefusalReason.QUEUE_BYTES:
            self.record_failure(FailureReason.REJECTED, 0)
