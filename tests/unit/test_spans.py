"""Spans that are made of records, without a receiver."""

from opentelemetry.sdk.resources import Resource
from stoker.telemetry.observation import BatchRecord, SpanIdentity
from stoker.telemetry.sampler import Sampler
from stoker.telemetry.spans import SpanMaker


def test_a_member_of_a_tracestate_that_the_sdk_does_not_know_costs_no_other() -> None:
    state = "rojo=00f067,0digit=valid by level 2,congo=t61"
    batch = BatchRecord(
        SpanIdentity(1, 2, state=state), model="m", version="1", device="", rows=1, requests=1,
        taken=1.0, ended=2.0, runs=(), links=(), failure="",
    )  # fmt: skip
    maker = SpanMaker(Resource({}), "1", Sampler(1.0, follows_parent=True))
    (span,) = maker.spans_of(batch, 0)
    context = span.get_span_context()
    assert context is not None
    assert context.trace_state.to_header() == "rojo=00f067,congo=t61"
