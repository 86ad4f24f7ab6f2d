"""What is noted of one call while it is served, for its spans and its line in the access log.

Transports make one of a call that somebody may want to be told of, the engine adds when it waited
and ran, and transports end it (`observer.py`). Few of them are told of: until then one refers to
what can be asked later, and `settle` asks. None of it exists while neither tracing nor the access
log is on. Times are time.monotonic() seconds; 0: it did not come to that. Owned by the event loop
until it has ended; threads that export or write read it afterwards, when nobody changes it any
more.
"""

from contextvars import ContextVar
from typing import Final, Protocol

MOST_CHARACTERS: Final = 256
"""Of a text that a client chose, in a span or a line: a path, a model's name, an id."""

_KEPT_CHARACTERS: Final = MOST_CHARACTERS + 1
"""What is kept of one until then, so that it shows that it was cut. Thousands of calls may wait to
be told of, and an id may be as long as a message."""


def kept(text: str) -> str:
    """What is noted of a text that a client chose."""
    return text if len(text) <= MOST_CHARACTERS else text[:_KEPT_CHARACTERS]


class SpanIdentity:
    """Where a span stands: its trace, itself, and the span that it belongs to."""

    __slots__ = ("parent_id", "parent_is_remote", "span_id", "state", "trace_id")

    def __init__(
        self,
        trace_id: int,
        span_id: int,
        parent_id: int = 0,
        *,
        parent_is_remote: bool = False,
        state: str = "",
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        """0: it is the first of its trace."""
        self.parent_is_remote = parent_is_remote
        self.state = state
        """The caller's `tracestate`, as it is passed on."""


class Caller:
    """Who calls, and by what; of a stream, of all of its requests."""

    __slots__ = ("is_grpc", "method", "path", "peer", "protocol_version", "request_id",
                 "route", "scheme", "traceparent")  # fmt: skip

    def __init__(
        self,
        *,
        is_grpc: bool,
        method: str,
        path: str,
        route: str,
        peer: str,
        scheme: str,
        protocol_version: str,
        request_id: str,
        traceparent: str,
    ) -> None:
        self.is_grpc = is_grpc
        self.method = method
        """Of HTTP; POST for gRPC."""
        self.path = kept(path)
        """As sent, without query; for gRPC `/package.Service/Method`."""
        self.route = route
        """Of HTTP: the path of an inference call with names for what differs; else empty. Of gRPC:
        the path of a method that is served; else empty."""
        self.peer = peer
        """`host:port` of the socket's other end, perhaps a proxy."""
        self.scheme = scheme
        """`http` or `https`."""
        self.protocol_version = protocol_version
        """`1.1` or `2`."""
        self.request_id = kept(request_id)
        """`x-request-id`, as sent."""
        self.traceparent = kept(traceparent)

    def describe(self) -> "Caller":
        """Implements `Arrival`: all is known."""
        return self


class Arrival(Protocol):
    """How a call came, as its transport has it. Nobody changes one."""

    def describe(self) -> Caller:
        """Who calls. Asked once, of a call that somebody is told of."""


class BatchRun:
    """One run of ONNX Runtime, of a batch or of a part of it."""

    __slots__ = ("began", "infer_s", "input_s", "output_s", "rows")

    def __init__(
        self, began: float, input_s: float, infer_s: float, output_s: float, rows: int
    ) -> None:
        self.began = began
        self.input_s = input_s
        """Laying out the inputs; the run itself and taking the outputs apart follow."""
        self.infer_s = infer_s
        self.output_s = output_s
        self.rows = rows

    @property
    def ended(self) -> float:
        """When its outputs were taken apart."""
        return self.began + self.input_s + self.infer_s + self.output_s


class BatchRecord:
    """A batch that had traced requests. Nobody changes one."""

    __slots__ = ("device", "ended", "failure", "identity", "links", "model", "requests", "rows",
                 "runs", "taken", "version")  # fmt: skip

    def __init__(
        self,
        identity: SpanIdentity,
        *,
        model: str,
        version: str,
        device: str,
        rows: int,
        requests: int,
        taken: float,
        ended: float,
        runs: tuple[BatchRun, ...],
        links: tuple[SpanIdentity, ...],
        failure: str,
    ) -> None:
        self.identity = identity
        self.model = model
        self.version = version
        self.device = device
        """Empty where the model has several."""
        self.rows = rows
        self.requests = requests
        self.taken = taken
        self.ended = ended
        self.runs = runs
        self.links = links
        """Of its requests those that are traced."""
        self.failure = failure
        """The error code, where not one of its requests was answered well."""


class RequestRun:
    """What a request had of a batch. One that is run in parts has several."""

    __slots__ = ("batch", "batch_rows", "ended", "run_s", "taken")

    def __init__(
        self,
        taken: float,
        ended: float,
        run_s: float,
        batch_rows: int,
        batch: SpanIdentity | None,
    ) -> None:
        self.taken = taken
        self.ended = ended
        self.run_s = run_s
        """Seconds that ONNX Runtime ran for the batch, good runs only."""
        self.batch_rows = batch_rows
        self.batch = batch
        """None: the request is not traced."""


class Observation:
    """One call, or one request of a stream."""

    # Defaults in the class and no __slots__: a call sets few of them.
    model = ""
    version = ""
    client_id = ""
    """`id` of the request."""
    rows = 0
    submitted = 0.0
    """The engine got the request: it is received and read."""
    was_queued = False
    """It waited for a batch, and ended without one or with one that failed."""
    taken = 0.0
    """An executor took it, where nothing is known of a run: it ended before its batch did."""
    answered = 0.0
    """The engine gave its answer, which is encoded and sent from here on."""
    ended = 0.0
    bytes_out = 0
    status = 0
    """Of HTTP, or of gRPC where `caller.is_grpc`."""
    grpc_status = "OK"
    """The name of the status of gRPC."""
    code = ""
    """The error code; empty: all went well."""
    requests = 0
    """Of a stream, how many came on it."""

    runs: tuple[RequestRun, ...] = ()
    is_stream = False
    """It is the stream itself."""

    def __init__(
        self,
        arrival: Arrival,
        arrived: float,
        bytes_in: int,
        span: SpanIdentity | None,
        stream: "Observation | None" = None,
    ) -> None:
        self._arrival = arrival
        self.arrived = arrived
        self.bytes_in = bytes_in
        self.span = span
        """None: it is not traced."""
        self.stream = stream
        """The stream whose request this is."""

    @property
    def caller(self) -> Caller:
        """Who calls."""
        caller = self._arrival.describe()
        self._arrival = caller
        return caller

    def describe(self) -> Caller:
        """Implements `Arrival` for the requests of a stream."""
        return self.caller

    def settle(self) -> None:
        """It has ended and is to be told of: nothing that it refers to is needed any more, and what
        its client chose is kept as far as it is told."""
        self._arrival = self.caller
        self.model, self.version = kept(self.model), kept(self.version)
        self.client_id = kept(self.client_id)

    @property
    def queue_s(self) -> float:
        """Seconds from the engine's door to the first run."""
        if not self.runs and not self.was_queued:
            return 0.0
        return max(0.0, self.left_queue - self.submitted)

    @property
    def left_queue(self) -> float:
        """When its first part was taken for a batch, or it ended before that."""
        if self.runs:
            return min([run.taken for run in self.runs])
        return self.taken or self.answered or self.ended

    @property
    def run_s(self) -> float:
        """Seconds that the runs of its batches took."""
        return sum([run.run_s for run in self.runs])


current: Final[ContextVar[Observation | None]] = ContextVar("observation", default=None)
"""The call that is being read. Set by transports around the handler of a call, and handed on by
`transport/steps.py` to what follows in another turn of the loop; read by who gives the call to the
engine. Codecs in between need not know that anybody looks."""
