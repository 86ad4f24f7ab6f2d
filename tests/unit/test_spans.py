"""Spans that are made of records, without a receiver."""

from itertools import count

from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from stoker.telemetry.observation import BatchRecord, SpanIdentity
from stoker.telemetry.spans import SpanMaker


def test_a_tracestate_is_handed_on_as_it_came() -> None:
    state = "rojo=00f067,0digit=valid by level 2,congo=t61"
    batch = BatchRecord(
        SpanIdentity(1, 2, state=state), model="m", version="1", device="", rows=1, requests=1,
        taken=1.0, ended=2.0, runs=(), links=(), failure="",
    )  # fmt: skip
    (encoded,) = SpanMaker(lambda: next(count(3))).spans_of(batch, 0)
    (span,) = ScopeSpans.FromString(encoded).spans
    assert span.trace_state == state
