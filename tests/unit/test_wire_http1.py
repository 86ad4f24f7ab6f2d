"""HTTP/1.1's reading side: whole requests out of any split of their bytes, and what it refuses."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stoker.errors import Overloaded, ServingError, TooLarge
from stoker.transport.wire.http1 import ReaderState, RequestReader
from stoker.transport.wire.limits import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_TARGET_BYTES,
    MAX_TRAILER_BYTES,
    WHOLE_BODY_BYTES,
    BufferBudget,
)
from stoker.transport.wire.message import RequestHead
from stoker.transport.wire.problems import HttpError, Problem

Event = tuple[str, str, dict[str, str], bytes] | type[Exception] | Problem


class Limits:
    """A fixed limit for all bodies."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self.limit = limit

    def body_limit(self, head: RequestHead) -> int:
        return self.limit


def a_reader(limit: int = 1 << 20, budget: BufferBudget | None = None) -> RequestReader:
    return RequestReader(Limits(limit), budget or BufferBudget(1 << 30))


def feed(reader: RequestReader, data: bytes) -> list[Event]:
    """Gives the bytes as a connection does and takes every request that is whole."""
    events: list[Event] = []
    while data:
        if reader.fills_body:
            space = reader.space()
            piece, data = data[: len(space)], data[len(space) :]
            space[: len(piece)] = piece
            reader.advance(len(piece))
        else:
            reader.receive(data)
            data = b""
        try:
            while (received := reader.take()) is not None:
                head = received.head.request
                events.append(
                    (head.method, head.path, dict(head.headers), bytes(received.request.body))
                )
        except HttpError as error:
            return [*events, error.problem]
        except ServingError as error:
            return [*events, type(error)]
    return events


def events_of(*pieces: bytes) -> list[Event]:
    reader = a_reader()
    events: list[Event] = []
    for piece in pieces:
        events += feed(reader, piece)
        if reader.state is ReaderState.BROKEN:
            break
    return events


def request(body: bytes = b"", *fields: bytes, line: bytes = b"POST /v2/x HTTP/1.1") -> bytes:
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join([line, b"Host: a", *fields, length, b"", b""]) + body


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    head = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + body + b"0\r\n" + trailers + b"\r\n"


LARGE = bytes(range(256)) * 400
STREAM = (
    request(b"one")
    + b"\r\n"
    + chunked(b"ab", b"cde" * 50, trailers=b"X-Sum: 1\r\n")
    + request(LARGE, b"Accept: a", b"Accept: b")
    + b"GET http://host:1/path?query HTTP/1.0\r\nX-Y:\tz \r\n\r\n"
    + request(b"", line=b"HEAD /%20?x=/y HTTP/1.1")
)
ENDS_BADLY = STREAM + request(b"x") + b"GET / HTTP/1.1\r\nHost : a\r\n\r\n" + request(b"y")


def test_a_stream_of_requests_gives_each_one_whole() -> None:
    one, two, three, four, five = events_of(STREAM)
    assert one == ("POST", "/v2/x", {"host": "a", "content-length": "3"}, b"one")
    assert two == ("POST", "/c", {"host": "a", "transfer-encoding": "chunked"}, b"ab" + b"cde" * 50)
    assert three == (
        "POST",
        "/v2/x",
        {"host": "a", "accept": "a, b", "content-length": str(len(LARGE))},
        LARGE,
    )
    assert four == ("GET", "/path", {"x-y": "z"}, b"")
    assert five == ("HEAD", "/%20", {"host": "a", "content-length": "0"}, b"")


@given(
    st.lists(st.integers(0, len(ENDS_BADLY)), max_size=12), st.sampled_from([STREAM, ENDS_BADLY])
)
@settings(max_examples=30, deadline=None)
def test_any_split_of_a_stream_gives_the_same_events(cuts: list[int], stream: bytes) -> None:
    places = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(places)]
    assert events_of(*pieces) == events_of(stream)


@pytest.mark.parametrize(
    "stream", [request(b"abc"), chunked(b"abc", b"d"), b"\r\n\r\n" + request()]
)
def test_a_stream_byte_by_byte_gives_the_same_events(stream: bytes) -> None:
    assert events_of(*(stream[i : i + 1] for i in range(len(stream)))) == events_of(stream)


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_bytes_give_requests_or_a_typed_error(data: bytes) -> None:
    events_of(data + b"\r\n\r\n")
    events_of(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    events_of(b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        # what one party reads as one request and another as two
        (request(b"abc", b"Content-Length: 3"), Problem.MALFORMED),
        (request(b"abc", b"Content-Length: 4"), Problem.MALFORMED),
        (request(b"abc", b"Transfer-Encoding: chunked"), Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1" + b"0" * 20 + b"\r\n\r\n",
         Problem.MALFORMED),
        (request(b"", b"Transfer-Encoding: gzip, chunked").replace(b"Content-Length: 0\r\n", b""),
         Problem.MALFORMED),
        (request(b"", b"Transfer-Encoding: chunked",
                 b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b""),
         Problem.MALFORMED),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", Problem.MALFORMED),
        # lines
        (b"GET / HTTP/1.1\nHost: a\n\n\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: a\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", Problem.MALFORMED),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Problem.MALFORMED),
        # the request line
        (b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", Problem.MALFORMED),
        (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", Problem.MALFORMED),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Problem.MALFORMED),
        (b"GET / a HTTP/1.1\r\nHost: a\r\n\r\n", Problem.MALFORMED),
        (b"GET /\r\nHost: a\r\n\r\n", Problem.MALFORMED),
        (b"GET / http/1.1\r\nHost: a\r\n\r\n", Problem.MALFORMED),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Problem.VERSION_UNKNOWN),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Problem.VERSION_UNKNOWN),
        (b"FETCH / HTTP/1.1\r\nHost: a\r\n\r\n", Problem.METHOD_UNKNOWN),
        (b"GET /" + b"a" * MAX_TARGET_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n",
         Problem.TARGET_TOO_LONG),
        # the host
        (b"GET / HTTP/1.1\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Problem.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Problem.MALFORMED),
        # sizes and expectations
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
         Problem.HEAD_TOO_LARGE),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * MAX_HEADERS + b"\r\n",
         Problem.HEAD_TOO_LARGE),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: a-miracle\r\n\r\n", Problem.EXPECTATION_FAILED),
    ],
)  # fmt: skip
def test_a_head_that_could_smuggle_or_harm_is_refused(stream: bytes, problem: Problem) -> None:
    assert events_of(stream)[:1] == [problem]
    middle = len(stream) // 2
    assert events_of(stream[:middle], stream[middle:])[:1] == [problem]


@pytest.mark.parametrize(
    "body",
    [
        b"g\r\n",
        b"-1\r\n",
        b"0x1\r\na\r\n",
        b" 1\r\na\r\n",
        b"1 2\r\na\r\n",
        b"1\na\n\r\n",
        b"\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n0\r\n",
        b"1" + b"0" * 20 + b"\r\n",
        b"1;" + b"e" * 300 + b"\r\na\r\n",
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\n folded: a\r\n\r\n",
        b"0\r\nX: \x00\r\n\r\n",
    ],
)
def test_a_malformed_chunk_is_refused(body: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert events_of(head + body) == [Problem.MALFORMED]
    assert events_of(head, *(body[i : i + 1] for i in range(len(body)))) == [Problem.MALFORMED]


def test_endless_trailers_are_refused() -> None:
    trailers = b"X: a\r\n" * (MAX_TRAILER_BYTES // 5)
    assert events_of(chunked(b"a", trailers=trailers)) == [Problem.HEAD_TOO_LARGE]


def test_tiny_chunks_in_large_wrappings_are_refused() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert events_of(head + (b"1;" + b"e" * 200 + b"\r\na\r\n") * 1000) == [Problem.MALFORMED]


def test_a_body_over_the_limit_is_refused_before_it_comes() -> None:
    reader = a_reader(limit=WHOLE_BODY_BYTES)
    assert feed(reader, request(bytes(WHOLE_BODY_BYTES + 1))[:200]) == [TooLarge]
    assert reader.state is ReaderState.BROKEN


def test_a_chunked_body_over_the_limit_is_refused_where_it_passes_it() -> None:
    assert feed(a_reader(limit=5), chunked(b"abc", b"def")) == [TooLarge]
    assert len(feed(a_reader(limit=6), chunked(b"abc", b"def"))) == 1


@pytest.mark.parametrize("stream", [request(bytes(101)), chunked(bytes(60), bytes(41))])
def test_a_body_that_does_not_fit_the_budget_is_refused_whole(stream: bytes) -> None:
    budget = BufferBudget(100)
    assert feed(a_reader(budget=budget), stream) == [Overloaded]
    assert budget.used == 0


@pytest.mark.parametrize("stream", [request(bytes(70_000)), chunked(bytes(100), bytes(23))])
def test_a_body_is_reserved_while_it_comes_and_given_back_when_the_connection_ends(
    stream: bytes,
) -> None:
    budget = BufferBudget(1 << 20)
    reader = a_reader(budget=budget)
    feed(reader, stream[:-8])
    assert budget.used > 0
    reader.close()
    assert budget.used == 0


def test_a_whole_request_takes_its_reservation_along() -> None:
    budget = BufferBudget(1000)
    reader = a_reader(budget=budget)
    reader.receive(request(b"abc"))
    received = reader.take()
    assert received is not None
    assert (received.reserved, budget.used) == (3, 3)
    reader.close()
    assert budget.used == 3


def test_a_large_body_is_received_where_it_stays() -> None:
    reader = a_reader()
    reader.receive(request(LARGE)[:-50_000])
    assert reader.take() is None
    assert reader.fills_body
    reader.space()[:50_000] = LARGE[-50_000:]
    reader.advance(50_000)
    received = reader.take()
    assert received is not None
    assert isinstance(received.request.body, memoryview)
    assert received.request.body == LARGE
    assert reader.is_between_requests


@pytest.mark.parametrize("framing", [b"Content-Length: 3", b"Transfer-Encoding: chunked"])
def test_a_client_that_waits_for_continue_is_seen_until_its_body_comes(framing: bytes) -> None:
    reader = a_reader()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + framing + b"\r\n\r\n"
    feed(reader, head)
    assert reader.wants_continue
    impatient = a_reader()
    feed(impatient, head + b"3")
    assert not impatient.wants_continue


@pytest.mark.parametrize(
    ("line", "connection", "keeps"),
    [
        (b"GET / HTTP/1.1", b"keep-alive", True),
        (b"GET / HTTP/1.1", b"X, Close", False),
        (b"GET / HTTP/1.1", b"upgrade", True),
        (b"GET / HTTP/1.0", b"keep-alive", False),
    ],
)
def test_a_connection_stays_unless_version_or_option_ends_it(
    line: bytes, connection: bytes, keeps: bool
) -> None:
    reader = a_reader()
    reader.receive(request(b"", b"Connection: " + connection, b"Upgrade: h2c", line=line))
    received = reader.take()
    assert received is not None
    assert received.head.keeps_alive is keeps


@pytest.mark.parametrize(
    "stream",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"\n",
        b"\x16\x03\x01\x02",
    ],
)
def test_a_head_that_never_ends_is_refused_before_its_time_is_over(stream: bytes) -> None:
    assert events_of(stream) == [Problem.MALFORMED]
    assert events_of(*[stream[at : at + 1] for at in range(len(stream))])[:1] == [Problem.MALFORMED]


def test_a_missing_host_is_told_without_words_of_python() -> None:
    reader = a_reader()
    reader.receive(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(HttpError) as caught:
        reader.take()
    assert caught.value.message == "expected one valid host field, got none"


SINGLE = st.sampled_from(
    [
        request(b"one"),
        request(b"two"),
        request(b""),
        request(b"one", b"X: y"),
        request(LARGE[:WHOLE_BODY_BYTES]),
        request(LARGE[: WHOLE_BODY_BYTES + 1]),
        request(b"one", b"Connection: close"),
        request(b"one", b"X: " + bytes(3000).replace(b"\0", b"x")),
        request(b"one", b"Expect: 100-continue"),
        chunked(b"ab"),
        b"\r\n" + request(b"one"),
        request(b"one") * 2,
        request(b"one") + request(b"two")[:30],
        request(b"one")[:-1],
        request(b"one")[:20],
        request(b"one") + b"x",
        b"e",
        b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ]
)


@given(st.lists(SINGLE, max_size=8), st.sampled_from([1 << 30, 70_000, 4]))
@example([request(b"one"), b"\r\n", request(b"two"), b"\r\n" + request(b"six")], 1 << 30)
@settings(max_examples=60, deadline=None)
def test_a_known_head_gives_what_reading_it_again_does(pieces: list[bytes], limit: int) -> None:
    budgets = BufferBudget(limit), BufferBudget(limit)
    knows, reads = a_reader(budget=budgets[0]), a_reader(budget=budgets[1])
    for piece in pieces:
        expected = feed(reads, piece)
        known = None if knows.fills_body else knows.take_known(piece)
        if known is not None:
            of = known.head
            assert knows.known is not None
            assert of is knows.known.request
            got: list[Event] = [(of.method, of.path, dict(of.headers), bytes(known.body))]
        else:
            got = feed(knows, piece)
        assert got == expected
        assert budgets[0].used == budgets[1].used
        assert knows.state is reads.state
        assert knows.is_between_requests is reads.is_between_requests
        if knows.state is ReaderState.BROKEN:
            break


def test_a_head_that_comes_again_is_not_parsed_again() -> None:
    budget = BufferBudget(1 << 20)
    reader = a_reader(budget=budget)
    feed(reader, request(b"one"))
    assert reader.known is not None
    taken = reader.take_known(request(b"two"))
    assert taken is not None
    assert (taken.head, taken.body) == (reader.known.request, b"two")
    assert budget.used == 6
