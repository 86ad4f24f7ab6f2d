"""The HTTP/2 session: valid conversations with the `h2` package, and frames that it never sends."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.errors import Draining, ServingError
from stoker.request import Lease
from stoker.transport.wire.http2 import frames
from stoker.transport.wire.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
)
from stoker.transport.wire.http2.hpack import Field
from stoker.transport.wire.http2.request_fields import Http2Head, with_fresh
from stoker.transport.wire.http2.session import Session
from stoker.transport.wire.http2.stream import Opening, Stream
from stoker.transport.wire.limits import (
    CONNECTION_WINDOW,
    MAX_BLOCK_BYTES,
    MAX_CONTINUATIONS,
    MAX_FRAME_BYTES,
    MAX_HEAD_BYTES,
    MAX_IDLE_FRAMES,
    MAX_RESETS,
    MAX_SETTINGS_FRAMES,
    MAX_STREAMS,
    STREAM_WINDOW,
    TURN_BYTES,
    BufferBudget,
)
from stoker.transport.wire.problems import HttpError

OK_HEAD = b"\x88"  # :status 200
REFUSED_HEAD = b"\x8e"  # :status 500
TRAILERS = b"\x00\x0bgrpc-status\x010"
GET = b"\x82\x86\x84\x41\x01a"  # GET http / of a; authority enters the table
POST = b"\x83\x86\x84\x01\x01a"  # POST, and authority does not
FIELDS = [(":method", "POST"), (":scheme", "http"), (":path", "/echo"), (":authority", "a")]


@dataclass
class Seen:
    """What became of one request."""

    head: Http2Head | HttpError
    body: bytes = b""
    is_whole: bool = False
    lost: ErrorCode | None = None


class Echo(Stream):
    """Answers with the body once it is whole, unless the test wants to answer."""

    def __init__(self, session: Session, number: int, seen: Seen, answer: "Answer | None") -> None:
        super().__init__(session, number)
        self.seen = seen
        self.answer = answer
        if isinstance(seen.head, Http2Head) and seen.head.content_length is not None:
            self.body_left = seen.head.content_length

    def data(self, payload: memoryview) -> None:
        self.seen.body += bytes(payload)

    def ended(self) -> None:
        assert not self.seen.is_whole
        self.seen.is_whole = True
        if self.answer is not None:
            self.answer(self)

    def refuse(self, error: ServingError | HttpError) -> None:
        self.session.answer(self, REFUSED_HEAD, [], 0)

    def is_slow(self, seconds: int) -> bool:
        return seconds > 3

    def lost(self, code: ErrorCode) -> None:
        assert self.seen.lost is None
        self.seen.lost = code


Answer = Callable[[Echo], None]


def echo(stream: Echo) -> None:
    body = stream.seen.body
    stream.session.answer(stream, OK_HEAD, [body], len(body))


def echo_with_trailers(stream: Echo) -> None:
    body = stream.seen.body
    stream.session.answer(stream, OK_HEAD, [body], len(body), TRAILERS)


@dataclass
class Server:
    """A session and what its requests came to. Implements `Requests`."""

    answer: Answer | None = echo
    budget: BufferBudget = field(default_factory=lambda: BufferBudget(1 << 30))
    seen: dict[int, Seen] = field(default_factory=dict)
    streams: dict[int, Echo] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.woken = 0
        self.session = Session(self, self.budget, self._wake)
        self._rest = b""

    def _wake(self) -> None:
        self.woken += 1

    def opening(self, head: Http2Head) -> Opening:
        return _Opening(self, head)

    def refusal(self, error: HttpError) -> Opening:
        return _Opening(self, error)

    def malformed(self, message: str) -> None:
        self.problems.append(message)

    def feed(self, data: bytes) -> None:
        """Bytes come as a connection gives them: the rest of before in front."""
        rest = self._rest + data
        taken = self.session.receive(memoryview(rest), len(rest))
        self._rest = rest[taken:]

    def sent(self, limit: int = 1 << 30) -> bytes:
        """What the session says. It has asked to be heard if there is something."""
        sending, woken = self.session.sending, self.woken
        self.woken = int(sending.can_go_on and limit < 1 << 30)
        said = b"".join(sending.take(limit))
        assert woken or not said
        return said


@dataclass
class _Opening:
    server: Server
    head: Http2Head | HttpError

    def open(self, session: Session, number: int) -> Stream:
        seen = self.server.seen[number] = Seen(self.head)
        stream = self.server.streams[number] = Echo(session, number, seen, self.server.answer)
        return stream

    def varied(self, fresh: list[Field]) -> Opening:
        assert isinstance(self.head, Http2Head)
        return _Opening(self.server, with_fresh(self.head, fresh))


def settled(answer: Answer | None = echo, settings: dict[int, int] | None = None) -> Server:
    """A server that has the client's SETTINGS and whose own were read."""
    server = Server(answer)
    server.feed(frames.settings(settings or {}))
    server.sent()
    return server


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error of a RST_STREAM or GOAWAY."""
        return int.from_bytes(self.payload[4:8] if self.kind == GOAWAY else self.payload[:4], "big")


def frames_of(data: bytes) -> list[Frame]:
    found = []
    while data:
        length = int.from_bytes(data[:3], "big")
        number = int.from_bytes(data[5:9], "big")
        found.append(Frame(data[3], data[4], number, data[9 : 9 + length]))
        data = data[9 + length :]
    return found


def ended_by(server: Server) -> ErrorCode | None:
    """The error that the session ended with."""
    goaways = [each for each in frames_of(server.sent()) if each.kind == GOAWAY]
    assert bool(goaways) == server.session.is_over
    assert not server.session.is_over or not server.session.open_streams
    return ErrorCode(goaways[-1].code) if goaways else None


def resets_of(server: Server) -> dict[int, ErrorCode]:
    return {
        each.stream: ErrorCode(each.code)
        for each in frames_of(server.sent())
        if each.kind == RST_STREAM
    }


def opened(number: int = 1, *, ends: bool = False, block: bytes = POST) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), number, block)


# --- conversations with h2 ----------------------------------------------------------------------


class Client:
    """An `h2` client that talks to a server of this file."""

    def __init__(self, server: Server) -> None:
        self.server = server
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.trailers: dict[int, list[tuple[str, str]]] = {}
        self.h2.initiate_connection()
        preface = self.h2.data_to_send()
        assert preface.startswith(PREFACE)
        server.feed(preface[len(PREFACE) :])
        self.exchange()

    def exchange(self, limit: int = 1 << 30) -> None:
        """Until both have said everything."""
        while True:
            said = self.h2.data_to_send()
            self.server.feed(said)
            answered = self.server.sent(limit)
            for event in self.h2.receive_data(answered) if answered else ():
                self._note(event)
            if not said and not answered:
                return

    def _note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            assert event.stream_id is not None
            assert event.flow_controlled_length is not None
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            if event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            assert event.stream_id is not None
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            assert event.stream_id is not None
            self.trailers[event.stream_id] = [(str(a), str(b)) for a, b in event.headers]

    def send(self, number: int, body: bytes) -> None:
        """A whole request, as the windows allow."""
        self.h2.send_headers(number, FIELDS, end_stream=not body)
        while body:
            size = min(
                len(body),
                self.h2.local_flow_control_window(number),
                self.h2.max_outbound_frame_size,
            )
            part, body = body[:size], body[size:]
            self.h2.send_data(number, part, end_stream=not body)
            if not size:
                self.exchange()


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_535, 65_536, 1_000_000])
@pytest.mark.parametrize("answer", [echo, echo_with_trailers])
def test_bodies_go_both_ways_whole(size: int, answer: Answer) -> None:
    client = Client(Server(answer))
    body = bytes(itertools.islice(itertools.cycle(range(251)), size))
    client.send(1, body)
    client.exchange()
    assert client.bodies.get(1, b"") == body
    assert client.ended == {1}
    if answer is echo_with_trailers:
        assert client.trailers[1] == [("grpc-status", "0")]
    assert not client.server.session.open_streams
    assert client.server.budget.used == 0


@given(
    sizes=st.lists(st.integers(0, 70_000), min_size=1, max_size=6),
    window=st.sampled_from([1, 100, 65_535]),
    limit=st.sampled_from([1, 5_000, 1 << 20]),
)
def test_any_answers_pass_through_any_windows(sizes: list[int], window: int, limit: int) -> None:
    sizes = [size % 700 if window == 1 or limit == 1 else size for size in sizes]
    server = Server(None)
    client = Client(server)
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    client.exchange()
    numbers = range(1, 2 * len(sizes), 2)
    for number in numbers:
        client.send(number, b"")
    client.exchange()
    for number, size in zip(numbers, sizes, strict=True):
        body = [bytes([number]) * size]
        server.session.answer(server.streams[number], OK_HEAD, body, size, TRAILERS)
    client.exchange(limit)
    assert client.ended == set(numbers)
    assert {each: client.bodies.get(each, b"") for each in numbers} == {
        number: bytes([number]) * size for number, size in zip(numbers, sizes, strict=True)
    }
    assert server.budget.used == 0


def test_a_reader_without_a_window_stops_only_its_own_stream() -> None:
    server = settled(None)
    server.feed(opened(1, ends=True) + opened(3, ends=True))
    server.feed(frames.window_update(0, 1 << 20))
    server.session.answer(server.streams[1], OK_HEAD, [b"a" * 100_000], 100_000)
    server.session.answer(server.streams[3], OK_HEAD, [b"b" * 1_000], 1_000)
    got = frames_of(server.sent())
    assert (
        sum(len(each.payload) for each in got if each.stream == 1 and each.kind == DATA) == 65_535
    )
    assert [each.flags for each in got if each.stream == 3] == [END_HEADERS, END_STREAM]
    assert server.budget.used == 100_000
    server.feed(frames.window_update(1, 34_464))
    server.feed(frames.window_update(1, 1))
    got = frames_of(server.sent())
    assert sum(len(each.payload) for each in got if each.kind == DATA) == 34_465
    assert got[-1].flags == END_STREAM
    assert (server.budget.used, server.session.open_streams) == (0, 0)


def test_large_answers_take_turns_with_others() -> None:
    server = settled(None, {frames.INITIAL_WINDOW_SIZE: 1 << 20})
    server.feed(opened(1, ends=True) + opened(3, ends=True) + frames.window_update(0, 1 << 24))
    for number in (1, 3):
        server.session.answer(server.streams[number], OK_HEAD, [b"a" * 200_000], 200_000)
    turn = [each.stream for each in frames_of(server.sent(TURN_BYTES)) if each.kind == DATA]
    assert turn == [1, 3, 1, 3]
    while server.session.sending.has_frames:
        assert len(server.sent(TURN_BYTES)) < TURN_BYTES + 100
    assert not server.session.open_streams


def test_a_smaller_initial_window_makes_windows_negative() -> None:
    server = settled(None)
    server.feed(opened(1, ends=True))
    server.session.answer(server.streams[1], OK_HEAD, [b"a" * 65_000], 65_000)
    server.feed(opened(3, ends=True) + frames.window_update(0, 1 << 20))
    server.session.answer(server.streams[3], OK_HEAD, [b"a" * 70_000], 70_000)
    server.sent()
    server.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 10}))
    server.sent()
    server.feed(frames.window_update(3, 65_525))
    assert [each for each in frames_of(server.sent()) if each.kind == DATA] == []
    server.feed(frames.window_update(3, 4_465))
    assert sum(len(each.payload) for each in frames_of(server.sent()) if each.kind == DATA) == 4_465
    assert not server.session.open_streams


class Released(Lease):
    """A lease that says whether it ended."""

    def __init__(self) -> None:
        self.count = 0

    def release(self) -> None:
        self.count += 1


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_lease_is_given_out_once_when_nothing_waits_any_more(size: int) -> None:
    server = settled(None)
    server.feed(opened(1, ends=True))
    lease = Released()
    server.session.answer(server.streams[1], OK_HEAD, [b"a" * size], size, lease=lease)
    server.sent()
    assert (lease in server.session.sending.leases) == (size == 10)
    server.feed(frame(RST_STREAM, 0, 1, bytes(4)))
    assert server.session.sending.leases == [lease]
    assert server.budget.used == 0
    server.session.answer(server.streams[1], OK_HEAD, [b"late"], 4, lease=lease)
    assert lease.count == 1
    assert server.sent() == b""


# --- any split ----------------------------------------------------------------------------------

CONVERSATION = b"".join(
    (
        frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20}),
        opened(1, block=GET, ends=True),
        frame(HEADERS, PADDED | PRIORITISED, 3, b"\x03" + bytes(5) + POST[:2] + bytes(3)),
        frame(CONTINUATION, 0, 3, POST[2:4]),
        frame(CONTINUATION, END_HEADERS, 3, POST[4:]),
        frame(PING, 0, 0, b"pingpong"),
        frame(DATA, PADDED, 3, b"\x04some" + bytes(4)),
        opened(5),
        frame(DATA, 0, 5, b"five"),
        frame(DATA, 0, 3, b""),
        frame(DATA, END_STREAM | PADDED, 3, b"\x02thing" + bytes(2)),
        frame(PRIORITY, 0, 7, bytes(5)),
        frame(0xBE, 0x55, 9, b"extension"),
        frame(HEADERS, END_HEADERS | END_STREAM, 5, b"\x00\x01t\x01v"),
        opened(9, block=b"\x83\x86\x84\x0f\x0d\x013"),
        frame(DATA, END_STREAM, 9, b"abc"),
        opened(11),
        frame(RST_STREAM, 0, 11, (8).to_bytes(4, "big")),
        frames.window_update(0, 1000),
        frame(GOAWAY, 0, 0, bytes(8)),
    )
)


def outcome(server: Server) -> tuple[object, ...]:
    bodies: dict[int, bytes] = {}
    for each in frames_of(server.sent()):
        if each.kind == DATA:
            bodies[each.stream] = bodies.get(each.stream, b"") + each.payload
    return (
        server.seen,
        bodies,
        server.problems,
        server.session.is_over,
        server.session.open_streams,
    )


def test_the_conversation_is_understood() -> None:
    server = Server()
    server.feed(CONVERSATION)
    _, bodies, problems, is_over, streams = outcome(server)
    assert bodies == {3: b"something", 5: b"five", 9: b"abc"}
    assert sorted(server.seen) == [1, 3, 5, 9, 11]
    assert server.seen[11].lost is ErrorCode.CANCEL
    assert (problems, is_over, streams) == ([], False, 0)


@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=12))
def test_any_split_of_a_conversation_gives_the_same_events(cuts: list[int]) -> None:
    whole = Server()
    whole.feed(CONVERSATION)
    parts = Server()
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(CONVERSATION)]):
        parts.feed(CONVERSATION[begin:end])
    assert outcome(parts) == outcome(whole)


def test_a_conversation_byte_by_byte_gives_the_same_events() -> None:
    whole, parts = Server(), Server()
    whole.feed(CONVERSATION)
    for at in range(len(CONVERSATION)):
        parts.feed(CONVERSATION[at : at + 1])
    assert outcome(parts) == outcome(whole)


@given(
    edits=st.lists(st.tuples(st.integers(0, len(CONVERSATION) - 1), st.integers(0, 255))),
    cut=st.integers(0, len(CONVERSATION)),
)
def test_any_change_of_a_conversation_is_answered_or_ends_it(
    edits: list[tuple[int, int]], cut: int
) -> None:
    changed = bytearray(CONVERSATION)
    for at, byte in edits:
        changed[at] = byte
    server = Server()
    server.feed(bytes(changed[:cut]))
    server.feed(bytes(changed[cut:]))
    code = ended_by(server)
    if code is not None:
        assert code is not ErrorCode.INTERNAL_ERROR
    server.session.lose()
    assert not server.session.open_streams
    assert server.budget.used == 0


# --- what breaks a stream -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (opened(1, ends=True) + frame(DATA, 0, 1, b"x"), ErrorCode.STREAM_CLOSED),
        (opened(1, ends=True) + opened(1, ends=True), ErrorCode.STREAM_CLOSED),
        (opened(1) + opened(1), ErrorCode.PROTOCOL_ERROR),  # trailers that do not end
        (opened(1) + opened(1, ends=True), ErrorCode.PROTOCOL_ERROR),  # trailers with :method
        (opened(1) + frames.window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
        (opened(1) + frames.window_update(1, (1 << 31) - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (opened(1) + frame(PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
        (opened(1) + frame(DATA, 0, 1, bytes(STREAM_WINDOW // 2)) * 3,
         ErrorCode.FLOW_CONTROL_ERROR),
        (opened(1, block=b"\x83\x86\x84\x0f\x0d\x013") + frame(DATA, END_STREAM, 1, b"ab"),
         ErrorCode.PROTOCOL_ERROR),
        (opened(1, block=b"\x83\x86\x84\x0f\x0d\x013") + frame(DATA, 0, 1, b"abcd"),
         ErrorCode.PROTOCOL_ERROR),
        (opened(1, block=b"\x83\x86\x84\x0f\x0d\x013", ends=True), ErrorCode.PROTOCOL_ERROR),
        (opened(1, block=b"\x83\x86\x84\x0f\x0d\x013")
         + frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x01t\x01v"),
         ErrorCode.PROTOCOL_ERROR),
    ],
)  # fmt: skip
def test_a_broken_stream_is_reset_and_its_neighbours_go_on(data: bytes, code: ErrorCode) -> None:
    server = settled(None)
    server.feed(data)
    assert resets_of(server) == {1: code}
    assert server.seen[1].lost is code
    server.feed(opened(3, ends=True))
    assert server.seen[3].is_whole
    echo(server.streams[3])
    assert [each.stream for each in frames_of(server.sent())] == [3]


MALFORMED_BLOCKS = [
    b"\x82\x86",  # no path
    b"\x82\x84",  # no scheme
    b"\x86\x84",  # no method
    b"\x82\x82\x86\x84",  # two methods
    b"\x82\x86\x04\x00",  # an empty path
    b"\x82\x86\x04\x01a",  # a path without slash
    b"\x82\x86\x84\x00\x01a\x01b\x86",  # a pseudo-header behind a field
    b"\x82\x86\x84\x88",  # a pseudo-header of answers
    b"\x82\x86\x84\x00\x02:x\x01b",  # an unknown one
    b"\x82\x86\x84\x00\x01A\x01b",  # upper case
    b"\x82\x86\x84\x00\x00\x01b",  # no name
    b"\x82\x86\x84\x00\x01a\x02\r\n",  # a line break
    b"\x82\x86\x84\x00\x01a\x01\x00",  # a zero byte
    b"\x82\x86\x84\x00\x01a\x02 b",  # a blank in front
    b"\x82\x86\x84\x00\x0aconnection\x05close",
    b"\x82\x86\x84\x0f\x2a\x07chunked",  # transfer-encoding
    b"\x82\x86\x84\x00\x02te\x04gzip",
    b"\x82\x86\x84\x0f\x0d\x01x",  # content-length x
    b"\x82\x86\x84\x0f\x0d\x011\x0f\x0d\x012",  # two content-lengths
    b"\x82\x86\x84\x01\x01a\x0f\x17\x01b",  # another host than authority
]


@pytest.mark.parametrize("block", MALFORMED_BLOCKS)
def test_a_malformed_request_is_reset_and_never_opened(block: bytes) -> None:
    server = settled()
    server.feed(opened(1, ends=True, block=block))
    assert resets_of(server) == {1: ErrorCode.PROTOCOL_ERROR}
    assert server.seen == {}
    assert len(server.problems) == 1
    server.feed(opened(3, ends=True))
    assert server.seen[3].is_whole


def test_a_head_that_is_too_long_is_answered() -> None:
    server = settled(None)
    field = b"\x00\x01a\x7f\xc9\x5d" + b"x" * 12_104
    server.feed(opened(1, block=POST + field))
    assert isinstance(server.seen[1].head, Http2Head)
    long = POST + field * 3
    assert len(long) > MAX_HEAD_BYTES
    server.feed(opened(3, block=long))
    assert isinstance(server.seen[3].head, HttpError)
    assert not server.session.is_over


def test_an_early_answer_stops_the_body() -> None:
    server = settled(None)
    server.feed(opened(1))
    server.session.answer(server.streams[1], OK_HEAD, [], 0)
    assert [(each.kind, each.stream) for each in frames_of(server.sent())] == [
        (HEADERS, 1),
        (RST_STREAM, 1),
    ]
    server.feed(frame(DATA, 0, 1, b"late"))
    server.feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x01t\x01v"))
    assert server.sent() == b""
    assert server.seen[1].body == b""


def test_dropped_bytes_are_credited_to_the_connection() -> None:
    server = settled(None)
    server.feed(opened(1))
    server.session.reset(server.streams[1], ErrorCode.CANCEL)
    server.sent()
    for _ in range(CONNECTION_WINDOW // MAX_FRAME_BYTES):
        server.feed(frame(DATA, 0, 1, bytes(MAX_FRAME_BYTES)))
    credits = [each for each in frames_of(server.sent()) if each.kind == WINDOW_UPDATE]
    assert [each.stream for each in credits] == [0]
    assert not server.session.is_over


def test_a_stream_may_be_widened() -> None:
    server = settled()
    server.feed(opened(1))
    server.session.widen(server.streams[1], 5)
    (widened,) = frames_of(server.sent())
    assert (widened.kind, widened.stream, widened.payload) == (WINDOW_UPDATE, 1, b"\0\0\0\5")
    server.feed(frame(DATA, 0, 1, bytes(STREAM_WINDOW)) + frame(DATA, END_STREAM, 1, bytes(5)))
    assert len(server.seen[1].body) == STREAM_WINDOW + 5


# --- what breaks the connection -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (opened(2), ErrorCode.PROTOCOL_ERROR),
        (opened(0), ErrorCode.PROTOCOL_ERROR),
        (frame(DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frame(DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),  # idle
        (opened(5, ends=True) + opened(3), ErrorCode.STREAM_CLOSED),
        (frame(HEADERS, 0, 1, POST) + frame(PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, POST) + frame(CONTINUATION, 4, 3, b""), ErrorCode.PROTOCOL_ERROR),
        (frame(CONTINUATION, END_HEADERS, 1, POST), ErrorCode.PROTOCOL_ERROR),
        (opened(1, block=b"\x80"), ErrorCode.COMPRESSION_ERROR),
        (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x05" + POST[:3]), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | PADDED, 1, b""), ErrorCode.FRAME_SIZE_ERROR),
        (frame(HEADERS, END_HEADERS | PRIORITISED, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
        (opened(1) + frame(DATA, PADDED, 1, b"\x02x"), ErrorCode.PROTOCOL_ERROR),
        (frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + POST), ErrorCode.PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),  # idle
        (opened(1) + frame(RST_STREAM, 0, 1, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(SETTINGS, ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
        (frames.settings({frames.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
        (frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 31}), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.settings({frames.MAX_FRAME_SIZE: 16_383}), ErrorCode.PROTOCOL_ERROR),
        (frames.settings({frames.MAX_FRAME_SIZE: 1 << 24}), ErrorCode.PROTOCOL_ERROR),
        (opened(1) + frames.window_update(1, 1)
         + frames.settings({frames.INITIAL_WINDOW_SIZE: (1 << 31) - 1}),
         ErrorCode.FLOW_CONTROL_ERROR),
        (frame(PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(0, (1 << 31) - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.window_update(1, 1), ErrorCode.PROTOCOL_ERROR),  # idle
        (frame(WINDOW_UPDATE, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(PING, 0, 0, bytes(MAX_FRAME_BYTES + 1)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(0xEE, 0, 0, bytes(MAX_BLOCK_BYTES + 1))[:100], ErrorCode.ENHANCE_YOUR_CALM),
    ],
)  # fmt: skip
def test_a_broken_connection_ends_with_the_right_code(data: bytes, code: ErrorCode) -> None:
    server = settled(None)
    server.feed(data)
    assert ended_by(server) is code
    assert all(seen.lost is code for seen in server.seen.values())
    server.feed(opened(101, ends=True))
    assert 101 not in server.seen


@pytest.mark.parametrize(
    "data", [opened(1), frame(PING, 0, 0, bytes(8)), frame(SETTINGS, ACK, 0), frame(DATA, 0, 1)]
)
def test_the_first_frame_is_settings(data: bytes) -> None:
    server = Server()
    server.feed(data)
    assert ended_by(server) is ErrorCode.PROTOCOL_ERROR


# --- limits -------------------------------------------------------------------------------------


def test_streams_above_the_limit_are_refused_and_may_be_tried_again() -> None:
    server = settled(None)
    for number in range(1, 2 * MAX_STREAMS + 2, 2):
        server.feed(opened(number))
    assert resets_of(server) == {2 * MAX_STREAMS + 1: ErrorCode.REFUSED_STREAM}
    server.session.answer(server.streams[1], OK_HEAD, [], 0)
    server.feed(opened(2 * MAX_STREAMS + 3))
    assert 2 * MAX_STREAMS + 3 in server.seen


def test_the_connections_window_is_kept() -> None:
    server = settled(None)
    server.feed(b"".join(opened(number) for number in range(1, 41, 2)))
    big = bytes(STREAM_WINDOW)
    for number in range(1, 1 + 2 * CONNECTION_WINDOW // STREAM_WINDOW, 2):
        server.feed(frame(DATA, 0, number, big))  # each is credited: it was taken
    assert not server.session.is_over


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (frame(PING, 0, 0, bytes(8)), MAX_IDLE_FRAMES),
        (frame(PING, ACK, 0, bytes(8)), MAX_IDLE_FRAMES),
        (frame(SETTINGS, 0, 0), MAX_SETTINGS_FRAMES),
        (frame(SETTINGS, ACK, 0), MAX_IDLE_FRAMES),
        (frame(PRIORITY, 0, 3, bytes(5)), MAX_IDLE_FRAMES),
        (frame(DATA, 0, 1), MAX_IDLE_FRAMES),
        (frame(0xEE, 0, 0, b"x"), MAX_IDLE_FRAMES),
    ],
)
def test_a_flood_of_frames_that_move_nothing_ends_the_session(data: bytes, limit: int) -> None:
    server = settled(None)
    server.feed(opened(1))
    server.feed(data * (limit - 1))
    assert not server.session.is_over
    server.session.tick(60)
    server.feed(data * limit)
    assert not server.session.is_over
    server.feed(data * 2)
    assert ended_by(server) is ErrorCode.ENHANCE_YOUR_CALM


def test_rapid_resets_end_the_session() -> None:
    server = settled(None)
    reset = (8).to_bytes(4, "big")
    numbers = iter(range(1, 1 << 20, 2))
    for _ in range(MAX_RESETS):
        number = next(numbers)
        server.feed(opened(number, ends=True) + frame(RST_STREAM, 0, number, reset))
    assert not server.session.is_over
    number = next(numbers)
    server.feed(opened(number, ends=True) + frame(RST_STREAM, 0, number, reset))
    assert ended_by(server) is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "continuation",
    [[b""] * (MAX_CONTINUATIONS + 1), [b"\x00\x01a\x7f\xc9\x5d" + b"x" * 12_104] * 6],
)
def test_a_head_that_goes_on_and_on_ends_the_session(continuation: list[bytes]) -> None:
    server = settled()
    server.feed(frame(HEADERS, 0, 1, POST))
    for piece in continuation:
        server.feed(frame(CONTINUATION, 0, 1, piece))
    assert ended_by(server) is ErrorCode.ENHANCE_YOUR_CALM


def test_unread_acknowledgements_are_counted_until_they_are_taken() -> None:
    server = settled()
    server.feed(frame(PING, 0, 0, bytes(8)) * 10)
    assert server.session.sending.control_bytes == 170
    server.sent()
    assert server.session.sending.control_bytes == 0


# --- the end ------------------------------------------------------------------------------------


def test_a_session_leaves_in_two_steps() -> None:
    server = settled(None)
    server.feed(opened(1))
    server.session.announce_leave()
    (first,) = frames_of(server.sent())
    assert (first.kind, first.payload) == (GOAWAY, b"\x7f\xff\xff\xff" + bytes(4))
    server.feed(opened(3, ends=True))
    assert server.seen[3].is_whole
    server.session.leave()
    (second,) = frames_of(server.sent())
    assert (second.kind, second.payload) == (GOAWAY, (3).to_bytes(4, "big") + bytes(4))
    server.feed(opened(5, ends=True))
    assert resets_of(server) == {5: ErrorCode.REFUSED_STREAM}
    server.feed(frame(DATA, END_STREAM, 1, b"abc"))
    echo(server.streams[1])
    echo(server.streams[3])
    assert sorted({each.stream for each in frames_of(server.sent())}) == [1, 3]
    assert not server.session.open_streams


def test_slow_bodies_are_refused_and_whole_requests_are_not() -> None:
    server = settled(None)
    server.feed(opened(1) + opened(3, ends=True))
    for _ in range(3):
        server.session.tick(60)
    assert server.sent() == b""
    server.session.tick(60)
    assert [(each.kind, each.stream) for each in frames_of(server.sent())] == [
        (HEADERS, 1),
        (RST_STREAM, 1),
    ]
    assert server.session.open_streams == 1


def test_at_the_end_every_open_stream_is_refused() -> None:
    server = settled(None)
    server.feed(opened(1) + opened(3, ends=True))
    server.session.refuse_all(Draining("going"))
    assert [each.stream for each in frames_of(server.sent()) if each.kind == HEADERS] == [1, 3]
    assert not server.session.open_streams


def test_a_lost_connection_loses_every_stream_once() -> None:
    server = settled(None)
    server.feed(opened(1) + opened(3, ends=True))
    server.session.answer(server.streams[3], OK_HEAD, [bytes(100_000)], 100_000)
    server.session.lose()
    assert {number: seen.lost for number, seen in server.seen.items()} == {
        1: ErrorCode.CANCEL,
        3: ErrorCode.CANCEL,
    }
    assert server.budget.used == 0
    server.session.lose()
