"""The parts of the native gRPC transport that know no stream."""

from itertools import pairwise
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.errors import InvalidRequest, TooLarge
from stoker.telemetry.server_statistics import ServerStatistics
from stoker.transport.grpc.call import UnaryMethod
from stoker.transport.grpc.call_end import MAX_DETAILS_BYTES, details, percent_encoded
from stoker.transport.grpc.message_reader import MessageReader
from stoker.transport.grpc.native import GrpcRequests
from stoker.transport.grpc.native_head import CallMetadata, is_grpc, timeout_seconds
from stoker.transport.grpc.native_refused import RefusedOpening
from stoker.transport.grpc.native_unary import UnaryOpening, VariedOpening
from stoker.transport.wire.http2.http_stream import HttpRequests
from stoker.transport.wire.http2.request_fields import read_request
from stoker.transport.wire.http2.stream import Opening
from stoker.transport.wire.limits import BufferBudget

from tests.wire_server import Held


@given(
    st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=6),
    st.lists(st.integers(0, 300), max_size=8),
)
def test_messages_are_the_same_however_they_are_cut(
    messages: list[tuple[bool, bytes]], cuts: list[int]
) -> None:
    body = b"".join(bytes([flag]) + len(each).to_bytes(4, "big") + each for flag, each in messages)
    admitted: list[int] = []
    reader = MessageReader()
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    got = []
    for start, end in pairwise(places):
        got += reader.feed(memoryview(body)[start:end], admitted.append)
    assert [(flag, bytes(each)) for flag, each in got] == messages
    assert admitted == [len(each) for _, each in messages]
    assert not reader.is_amid


def test_a_large_message_is_filled_without_being_read_again() -> None:
    reader, admitted = MessageReader(), list[int]()
    message = bytes(range(256)) * 1000
    begin = b"\0" + len(message).to_bytes(4, "big") + message[:10]
    assert reader.feed(memoryview(begin), admitted.append) == []
    assert reader.fills(memoryview(message[10:1000]))
    assert not reader.fills(memoryview(message[1000:]))  # it ends it: `feed` is to
    ((_, whole),) = reader.feed(memoryview(message[1000:]), admitted.append)
    assert (bytes(whole), admitted) == (message, [len(message)])


def test_what_refuses_a_message_passes_through() -> None:
    def admit(size: int) -> None:
        raise TooLarge(f"{size}")

    with pytest.raises(TooLarge, match="7"):
        MessageReader().feed(memoryview(b"\0\0\0\0\7"), admit)


@given(st.binary(max_size=60))
def test_a_status_message_travels_as_ascii_and_comes_back(text: bytes) -> None:
    encoded = percent_encoded(text)
    assert all(" " <= each <= "~" for each in encoded)
    assert encoded == encoded.strip()
    assert unquote_to_bytes(encoded) == text


@given(st.text(max_size=20), st.integers(0, 3000))
def test_a_long_message_is_cut_between_characters(text: str, times: int) -> None:
    cut = details(text * times)
    assert len(cut) <= MAX_DETAILS_BYTES + 3
    cut.decode()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 0.004), ("5u", 5e-6), ("6n", 6e-9), ("0S", 0)],
)
def test_a_timeout_has_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert timeout_seconds(text) == pytest.approx(seconds)


@given(st.text(max_size=12))
def test_any_timeout_is_seconds_or_refused(text: str) -> None:
    try:
        assert timeout_seconds(text) >= 0
    except InvalidRequest:
        return


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("Application/gRPC; charset=utf-8", True),
        ("application/grpc-web", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_grpc_is_known_by_its_content_type(text: str, expected: bool) -> None:
    assert is_grpc(text) is expected


def test_metadata_is_the_lasting_and_the_fresh_fields() -> None:
    lasting = CallMetadata({"a": "1", "b-bin": "AAE"})
    both = CallMetadata(lasting, [("c", "3"), ("d-bin", "eA==, AAE=")])
    assert dict(both) == {"a": "1", "b-bin": b"\0\1", "c": "3", "d-bin": b"\0\1"}
    assert len(both) == 4


def test_metadata_that_is_no_base64_is_refused_when_it_is_asked_for() -> None:
    with pytest.raises(InvalidRequest, match="raw-bin"):
        CallMetadata({"raw-bin": "?"})["raw-bin"]


METHOD = "/a.B/C"
CALL = [(":method", "POST"), (":scheme", "http"), (":path", METHOD)]


def opened(requests: GrpcRequests, fields: list[tuple[str, str]]) -> object:
    """What a call's head asks for; None for a call that is refused."""
    opening = requests.opening(read_request(fields))
    return asked(opening)


def asked(opening: Opening) -> object:
    if isinstance(opening, RefusedOpening):
        return None
    if isinstance(opening, UnaryOpening):
        head = opening.head
        terms = dict(head.metadata), head.timeout, head.is_retry
    else:
        assert isinstance(opening, VariedOpening)
        head = opening.common.head
        metadata = CallMetadata(head.metadata, opening.fresh)
        terms = dict(metadata), opening.timeout, opening.is_retry
    return *terms, head.coding, head.answer_coding


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("grpc-timeout"), st.sampled_from(["1S", "20m", "x", ""])),
            st.tuples(st.just("grpc-previous-rpc-attempts"), st.sampled_from(["0", "1"])),
            st.tuples(st.just("grpc-trace-bin"), st.sampled_from(["AAE", "eA=="])),
            st.tuples(st.just("traceparent"), st.text("ab", max_size=5)),
        ),
        unique_by=lambda field: field[0],
    ),
    st.sampled_from(["identity", "gzip", "snappy"]),
    st.sampled_from(["application/grpc", "application/grpc+json"]),
)
def test_a_call_that_is_varied_asks_for_what_one_that_is_read_whole_does(
    fresh: list[tuple[str, str]], coding: str, content_type: str
) -> None:
    lasting = [*CALL, ("content-type", content_type), ("grpc-encoding", coding)]
    lasting.append(("grpc-accept-encoding", "identity, gzip"))
    requests = grpc_requests(ServerStatistics())
    varied = requests.opening(read_request(lasting)).varied(fresh)
    assert asked(varied) == opened(requests, [*lasting, *fresh])


def grpc_requests(statistics: ServerStatistics) -> GrpcRequests:
    budget = BufferBudget(1 << 20)
    others = HttpRequests(Held(), budget, on_refused=lambda error: None)
    methods = {METHOD: UnaryMethod(lambda message, context, reply: None)}
    return GrpcRequests(methods, others, budget, statistics, max_message_bytes=1 << 20)
