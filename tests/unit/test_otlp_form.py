"""Spans that are written by hand, held against the messages of opentelemetry-proto."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from stoker.telemetry.observation import SpanIdentity
from stoker.telemetry.otlp_form import INTERNAL, SERVER, Value, request, span

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
VALUES = st.one_of(
    TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)
)
IDENTITIES = st.builds(
    SpanIdentity,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    parent_is_remote=st.booleans(),
    state=st.sampled_from(["", "rojo=1,congo=2"]),
)
TIMES = st.integers(0, 2**63)


def parsed(encoded: bytes) -> Message:
    """The one span of these bytes."""
    (found,) = ScopeSpans.FromString(encoded).spans
    return found


def any_value(value: Value) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value)


@given(
    IDENTITIES, TEXT, st.sampled_from([INTERNAL, SERVER]), TIMES, TIMES,
    st.lists(st.tuples(TEXT, VALUES), max_size=5), st.lists(IDENTITIES, max_size=3),
    st.none() | TEXT,
)  # fmt: skip
def test_a_span_is_the_message_with_its_parts(
    identity: SpanIdentity, name: str, kind: int, began: int, ended: int,
    attributes: list[tuple[str, Value]], links: list[SpanIdentity], error: str | None,
) -> None:  # fmt: skip
    made = parsed(span(identity, name, kind, began, ended, attributes, links=links, error=error))
    expected = Message(
        trace_id=identity.trace_id.to_bytes(16, "big"),
        span_id=identity.span_id.to_bytes(8, "big"),
        trace_state=identity.state,
        name=name,
        kind=Message.SPAN_KIND_SERVER if kind == SERVER else Message.SPAN_KIND_INTERNAL,
        start_time_unix_nano=began,
        end_time_unix_nano=max(began, ended),
        attributes=[KeyValue(key=key, value=any_value(value)) for key, value in attributes],
        links=[
            Message.Link(
                trace_id=each.trace_id.to_bytes(16, "big"),
                span_id=each.span_id.to_bytes(8, "big"),
                flags=0x100,
            )
            for each in links
        ],
        flags=0x100,
    )
    if identity.parent_id:
        expected.parent_span_id = identity.parent_id.to_bytes(8, "big")
        expected.flags = 0x300 if identity.parent_is_remote else 0x100
    if error is not None:
        expected.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=error))
    assert made == expected


@pytest.mark.parametrize(("first", "second"), [(1, True), (1, 1.0), (0, False)])
def test_values_that_are_equal_keep_their_kinds(first: Value, second: Value) -> None:
    identity = SpanIdentity(1, 2)
    made = parsed(span(identity, "n", INTERNAL, 1, 2, [("a", first), ("a", second)]))
    assert [each.value for each in made.attributes] == [any_value(first), any_value(second)]


def test_half_a_character_of_a_client_costs_nothing_but_itself() -> None:
    made = parsed(span(SpanIdentity(1, 2), "n", INTERNAL, 1, 2, [("stoker.id", "a\ud800b")]))
    assert made.attributes[0].value.string_value == "a?b"


def test_a_request_has_resource_scope_and_all_spans() -> None:
    resource = Resource(attributes=[KeyValue(key="service.name", value=any_value("stoker"))])
    scope = InstrumentationScope(name="stoker", version="1")
    spans = [span(SpanIdentity(1, each), "n", SERVER, 1, 2, []) for each in range(1, 301)]
    made = ExportTraceServiceRequest.FromString(
        request(resource.SerializeToString(), scope.SerializeToString(), spans)
    )
    (of_resource,) = made.resource_spans
    (of_scope,) = of_resource.scope_spans
    assert of_resource.resource == resource
    assert of_scope.scope == scope
    assert list(of_scope.spans) == [parsed(each) for each in spans]
