"""Records of calls and batches as OpenTelemetry spans.

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

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from stoker.telemetry.observation import (
    MOST_CHARACTERS,
    BatchRecord,
    Observation,
    RequestRun,
    SpanIdentity,
)
from stoker.telemetry.sampler import Sampler

Value: TypeAlias = str | int | float | bool

_UNKNOWN: Final = "_OTHER"
"""What the conventions call a method that the server does not have, or could not read."""
_UNSET: Final = Status(StatusCode.UNSET)
_OURS: Final = frozenset((2, 4, 12, 13, 14, 15))
"""Statuses of gRPC for which a server is at fault: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED,
INTERNAL, UNAVAILABLE, DATA_LOSS.  Source: semantic conventions, "gRPC Status"."""
_FIRST_OURS: Final = 500
"""Of HTTP statuses.  Source: semantic conventions, "HTTP spans", "Status"."""


class SpanMaker:
    """Makes spans of records."""

    def __init__(self, resource: Resource, version: str, sampler: Sampler) -> None:
        """`version` is the server's; `sampler` makes the identities of spans inside others."""
        self._resource = resource
        self._scope = InstrumentationScope("stoker", version)
        self._sampler = sampler

    def spans_of(self, record: Observation | BatchRecord, offset_ns: int) -> list[ReadableSpan]:
        """The spans of a record, whose monotonic times are `offset_ns` behind the epoch's."""
        making = _Making(self._resource, self._scope, self._sampler, offset_ns)
        if isinstance(record, BatchRecord):
            making.batch(record)
        else:
            making.call(record)
        return making.spans


class _Making:
    """The spans of one record."""

    def __init__(
        self, resource: Resource, scope: InstrumentationScope, sampler: Sampler, offset_ns: int
    ) -> None:
        self._resource = resource
        self._scope = scope
        self._sampler = sampler
        self._offset_ns = offset_ns
        self.spans: list[ReadableSpan] = []

    def call(self, call: Observation) -> None:
        """A call's span and those inside it."""
        identity = call.span
        if identity is None:
            return
        if call.stream is None:
            name, attributes = _name(call), _caller_attributes(call)
            kind = SpanKind.SERVER
        else:
            name, attributes, kind = "request", {}, SpanKind.INTERNAL
        self._add(
            name,
            identity,
            call.arrived,
            call.ended,
            {**attributes, **_call_attributes(call)},
            kind=kind,
            status=_status(call),
        )
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
            self._inside(identity, "run", run.taken, run.ended, _run_attributes(run), _links(run))
        if not call.runs and call.taken:
            # It was cancelled, or its deadline passed, and nobody waited for the run's end.
            end, gone = call.answered or call.ended, Status(StatusCode.ERROR, call.code)
            self._inside(identity, "run", call.taken, end, {"stoker.abandoned": True}, status=gone)

    def batch(self, batch: BatchRecord) -> None:
        """A batch's span, and one for each run."""
        attributes: dict[str, Value] = {
            "stoker.model.name": batch.model,
            "stoker.model.version": batch.version,
            "stoker.batch.rows": batch.rows,
            "stoker.batch.requests": batch.requests,
        }
        if batch.device:
            attributes["stoker.device"] = batch.device
        status = _UNSET
        if batch.failure:
            attributes["error.type"] = batch.failure
            status = Status(StatusCode.ERROR, batch.failure)
        links = tuple([Link(_context(each)) for each in batch.links])
        self._add(
            f"batch {batch.model}", batch.identity, batch.taken, batch.ended, attributes,
            links=links, status=status,
        )  # fmt: skip
        for run in batch.runs:
            self._inside(
                batch.identity,
                "run",
                run.began,
                run.ended,
                {
                    "stoker.batch.rows": run.rows,
                    "stoker.run.input_us": round(run.input_s * 1e6),
                    "stoker.run.infer_us": round(run.infer_s * 1e6),
                    "stoker.run.output_us": round(run.output_s * 1e6),
                },
            )

    def _inside(
        self,
        parent: SpanIdentity,
        name: str,
        began: float,
        ended: float,
        attributes: Mapping[str, Value] | None = None,
        links: tuple[Link, ...] = (),
        status: Status = _UNSET,
    ) -> None:
        identity = SpanIdentity(
            parent.trace_id, self._sampler.span_id(), parent.span_id, state=parent.state
        )
        self._add(name, identity, began, ended, attributes or {}, links=links, status=status)

    def _add(
        self,
        name: str,
        identity: SpanIdentity,
        began: float,
        ended: float,
        attributes: Mapping[str, Value],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        links: tuple[Link, ...] = (),
        status: Status = _UNSET,
    ) -> None:
        parent = None
        if identity.parent_id:
            parent = SpanContext(
                identity.trace_id,
                identity.parent_id,
                is_remote=identity.parent_is_remote,
                trace_flags=TraceFlags(TraceFlags.SAMPLED),
            )
        start_ns = round(began * 1e9) + self._offset_ns
        self.spans.append(
            ReadableSpan(
                name,
                _context(identity),
                parent,
                self._resource,
                attributes,
                links=links,
                kind=kind,
                status=status,
                start_time=start_ns,
                end_time=max(start_ns, round(ended * 1e9) + self._offset_ns),
                instrumentation_scope=self._scope,
            )
        )


def _context(identity: SpanIdentity) -> SpanContext:
    return SpanContext(
        identity.trace_id,
        identity.span_id,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=_state(identity.state) if identity.state else None,
    )


def _state(members: str) -> TraceState:
    """The SDK knows the keys of level 1: one that it does not know costs itself, not all members,
    as it would with `TraceState.from_header`."""
    pairs = [each.partition("=") for each in members.split(",")]
    return TraceState([(key, value) for key, _, value in pairs])


def _links(run: RequestRun) -> tuple[Link, ...]:
    return () if run.batch is None else (Link(_context(run.batch)),)


def _run_attributes(run: RequestRun) -> dict[str, Value]:
    return {"stoker.batch.rows": run.batch_rows, "stoker.run.infer_us": round(run.run_s * 1e6)}


def _name(call: Observation) -> str:
    """Low in number: no name that a client chose is in it."""
    caller = call.caller
    if caller.is_grpc:
        return caller.route.removeprefix("/") or "grpc"
    return f"{caller.method} {caller.route}" if caller.route else caller.method or "HTTP"


def _caller_attributes(call: Observation) -> dict[str, Value]:
    caller = call.caller
    attributes = dict(_protocol_attributes(call))
    attributes["network.protocol.version"] = caller.protocol_version
    host, port = _host_and_port(caller.peer)
    if host:
        attributes["client.address"] = attributes["network.peer.address"] = host
    if port is not None:
        attributes["client.port"] = attributes["network.peer.port"] = port
    if caller.request_id:
        attributes["stoker.request_id"] = caller.request_id[:MOST_CHARACTERS]
    return attributes


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


def _call_attributes(call: Observation) -> dict[str, Value]:
    attributes: dict[str, Value] = {}
    if call.model:
        attributes["stoker.model.name"] = call.model[:MOST_CHARACTERS]
    if call.version:
        attributes["stoker.model.version"] = call.version[:MOST_CHARACTERS]
    if call.rows:
        attributes["stoker.rows"] = call.rows
    if len(call.runs) > 1:
        attributes["stoker.parts"] = len(call.runs)
    if call.client_id:
        attributes["stoker.id"] = call.client_id[:MOST_CHARACTERS]
    if call.is_stream:
        attributes["stoker.stream.requests"] = call.requests
    if call.caller.is_grpc:
        attributes["stoker.request.bytes"] = call.bytes_in
        attributes["stoker.response.bytes"] = call.bytes_out
    if call.code:
        attributes["error.type"] = call.code
    return attributes


def _status(call: Observation) -> Status:
    """Errors of the caller are none of the server's."""
    ours = call.status in _OURS if call.caller.is_grpc else call.status >= _FIRST_OURS
    return Status(StatusCode.ERROR, call.code) if ours else _UNSET


def _host_and_port(peer: str) -> tuple[str, int | None]:
    host, _, port = peer.rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() else None
