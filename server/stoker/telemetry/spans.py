"""Records of calls and batches as OpenTelemetry spans, in the form that is sent.

    SERVER  POST /v2/models/{model}/infer         inference.GRPCInferenceService/ModelInfer
      receive      arrival -> the engine has the request
      queue        -> an executor took it
      run          -> its batch is done; linked to the batch
      respond      the engine's answer -> its bytes have left
    INTERNAL  batch            a trace of its own, linked to the spans of its requests
      run          one of ONNX Runtime

A stream's span has one `request` in it for each that came, with the same four inside. Runs on the
exporting thread.  Source: OpenTelemetry, semantic conventions of HTTP and RPC spans.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from stoker.telemetry.observation import (
    MOST_CHARACTERS,
    BatchRecord,
    Observation,
    RequestRun,
    SpanIdentity,
)
from stoker.telemetry.otlp_form import INTERNAL, SERVER, Value, span

_UNKNOWN: Final = "_OTHER"
"""What the conventions call a method that the server does not have, or could not read."""
_OURS: Final = frozenset((2, 4, 12, 13, 14, 15))
"""Statuses of gRPC for which a server is at fault: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED,
INTERNAL, UNAVAILABLE, DATA_LOSS.  Source: semantic conventions, "gRPC Status"."""
_FIRST_OURS: Final = 500
"""Of HTTP statuses.  Source: semantic conventions, "HTTP spans", "Status"."""


class SpanMaker:
    """Makes spans of records."""

    def __init__(self, span_id: Callable[[], int]) -> None:
        """`span_id` makes the identities of spans inside others."""
        self._span_id = span_id

    def spans_of(self, record: Observation | BatchRecord, offset_ns: int) -> list[bytes]:
        """The spans of a record, whose monotonic times are `offset_ns` behind the epoch's."""
        making = _Making(self._span_id, offset_ns)
        if isinstance(record, BatchRecord):
            making.batch(record)
        else:
            making.call(record)
        return making.spans


class _Making:
    """The spans of one record."""

    def __init__(self, span_id: Callable[[], int], offset_ns: int) -> None:
        self._span_id = span_id
        self._offset_ns = offset_ns
        self.spans: list[bytes] = []

    def call(self, call: Observation) -> None:
        """A call's span and those inside it."""
        identity = call.span
        if identity is None:
            return
        name, kind = "request", INTERNAL
        attributes = list(_call_attributes(call))
        if call.stream is None:
            name, kind = _name(call), SERVER
            attributes += _caller_attributes(call)
        error = call.code if _is_ours(call) else None
        self._add(name, identity, call.arrived, call.ended, attributes, kind=kind, error=error)
        if call.is_stream:
            return
        received = call.submitted or call.answered or call.ended
        self._inside(identity, "receive", call.arrived, received)
        if call.runs or call.was_queued:
            self._steps(call, identity)
        if call.answered:
            self._inside(identity, "respond", call.answered, call.ended)

    def _steps(self, call: Observation, identity: SpanIdentity) -> None:
        """What a request does inside the engine."""
        self._inside(identity, "queue", call.submitted, call.left_queue)
        for run in call.runs:
            links = () if run.batch is None else (run.batch,)
            self._inside(identity, "run", run.taken, run.ended, _run_attributes(run), links=links)
        if not call.runs and call.taken:
            # It was cancelled, or its deadline passed, and nobody waited for the run's end.
            end = call.answered or call.ended
            abandoned = (("stoker.abandoned", True),)
            self._inside(identity, "run", call.taken, end, abandoned, error=call.code)

    def batch(self, batch: BatchRecord) -> None:
        """A batch's span, and one for each run."""
        self._add(
            f"batch {batch.model}", batch.identity, batch.taken, batch.ended,
            _batch_attributes(batch), links=batch.links, error=batch.failure or None,
        )  # fmt: skip
        for run in batch.runs:
            attributes = (
                ("stoker.batch.rows", run.rows),
                ("stoker.run.input_us", round(run.input_s * 1e6)),
                ("stoker.run.infer_us", round(run.infer_s * 1e6)),
                ("stoker.run.output_us", round(run.output_s * 1e6)),
            )
            self._inside(batch.identity, "run", run.began, run.ended, attributes)

    def _inside(
        self,
        parent: SpanIdentity,
        name: str,
        began: float,
        ended: float,
        attributes: Iterable[tuple[str, Value]] = (),
        *,
        links: Iterable[SpanIdentity] = (),
        error: str | None = None,
    ) -> None:
        identity = SpanIdentity(
            parent.trace_id, self._span_id(), parent.span_id, state=parent.state
        )
        self._add(name, identity, began, ended, attributes, links=links, error=error)

    def _add(
        self,
        name: str,
        identity: SpanIdentity,
        began: float,
        ended: float,
        attributes: Iterable[tuple[str, Value]],
        *,
        kind: int = INTERNAL,
        links: Iterable[SpanIdentity] = (),
        error: str | None = None,
    ) -> None:
        began_ns = round(began * 1e9) + self._offset_ns
        ended_ns = round(ended * 1e9) + self._offset_ns
        self.spans.append(
            span(identity, name, kind, began_ns, ended_ns, attributes, links=links, error=error)
        )


def _batch_attributes(batch: BatchRecord) -> Iterator[tuple[str, Value]]:
    yield "stoker.model.name", batch.model
    yield "stoker.model.version", batch.version
    yield "stoker.batch.rows", batch.rows
    yield "stoker.batch.requests", batch.requests
    if batch.device:
        yield "stoker.device", batch.device
    if batch.failure:
        yield "error.type", batch.failure


def _run_attributes(run: RequestRun) -> tuple[tuple[str, Value], ...]:
    return (
        ("stoker.batch.rows", run.batch_rows),
        ("stoker.run.infer_us", round(run.run_s * 1e6)),
    )


def _name(call: Observation) -> str:
    """Low in number: no name that a client chose is in it."""
    caller = call.caller
    if caller.is_grpc:
        return caller.route.removeprefix("/") or "grpc"
    return f"{caller.method} {caller.route}" if caller.route else caller.method or "HTTP"


def _caller_attributes(call: Observation) -> Iterator[tuple[str, Value]]:
    caller = call.caller
    yield from _protocol_attributes(call)
    yield "network.protocol.version", caller.protocol_version
    host, port = _host_and_port(caller.peer)
    if host:
        yield "client.address", host
        yield "network.peer.address", host
    if port is not None:
        yield "client.port", port
        yield "network.peer.port", port
    if caller.request_id:
        yield "stoker.request_id", caller.request_id[:MOST_CHARACTERS]


def _protocol_attributes(call: Observation) -> Iterator[tuple[str, Value]]:
    caller = call.caller
    if caller.is_grpc:
        yield "rpc.system.name", "grpc"
        if caller.route:
            yield "rpc.method", caller.route.removeprefix("/")
        else:
            yield "rpc.method", _UNKNOWN
            yield "rpc.method_original", caller.path.removeprefix("/")[:MOST_CHARACTERS]
        yield "rpc.response.status_code", call.grpc_status
        # The conventions' names before 1.38, which dashboards ask for.
        yield "rpc.system", "grpc"
        yield "rpc.grpc.status_code", call.status
        return
    yield "http.request.method", caller.method or _UNKNOWN
    yield "url.path", caller.path[:MOST_CHARACTERS]
    yield "url.scheme", caller.scheme
    yield "http.request.body.size", call.bytes_in
    yield "http.response.body.size", call.bytes_out
    yield "http.response.status_code", call.status
    if caller.route:
        yield "http.route", caller.route


def _call_attributes(call: Observation) -> Iterator[tuple[str, Value]]:
    if call.model:
        yield "stoker.model.name", call.model[:MOST_CHARACTERS]
    if call.version:
        yield "stoker.model.version", call.version[:MOST_CHARACTERS]
    if call.rows:
        yield "stoker.rows", call.rows
    if len(call.runs) > 1:
        yield "stoker.parts", len(call.runs)
    if call.client_id:
        yield "stoker.id", call.client_id[:MOST_CHARACTERS]
    if call.is_stream:
        yield "stoker.stream.requests", call.requests
    if call.caller.is_grpc:
        yield "stoker.request.bytes", call.bytes_in
        yield "stoker.response.bytes", call.bytes_out
    if call.code:
        yield "error.type", call.code


def _is_ours(call: Observation) -> bool:
    """Errors of the caller are none of the server's."""
    return call.status in _OURS if call.caller.is_grpc else call.status >= _FIRST_OURS


def _host_and_port(peer: str) -> tuple[str, int | None]:
    host, _, port = peer.rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() else None
