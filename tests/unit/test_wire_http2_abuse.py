"""What a peer could do to an HTTP/2 session: each of these once hung, leaked or cost too much."""

import time

import hpack
import numpy as np
import pytest
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from stoker.errors import ServingError
from stoker.inference import Cancel
from stoker.transport.wire.http2 import frames
from stoker.transport.wire.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
)
from stoker.transport.wire.http2.header_blocks import HeaderBlocks
from stoker.transport.wire.http2.hpack import Block, Decoder, Field
from stoker.transport.wire.http2.http_stream import HttpRequests
from stoker.transport.wire.http2.repeated_heads import RepeatedHeads
from stoker.transport.wire.http2.session import Session
from stoker.transport.wire.limits import (
    MAX_BLOCK_BYTES,
    MAX_IDLE_FRAMES,
    MAX_RESETS,
    MAX_SETTINGS,
    REMEMBERED_BYTES,
    TURN_BYTES,
    BufferBudget,
)
from stoker.transport.wire.message import Answer, HttpRequest, HttpResponse, RequestHead
from stoker.transport.wire.problems import HttpError

from tests.unit.test_wire_http2_session import (
    OK_HEAD,
    POST,
    Frame,
    ended_by,
    frames_of,
    opened,
    settled,
)
from tests.wire_server import Lease


def window_update(number: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, number, increment.to_bytes(4, "big"))


def window_of(size: int) -> bytes:
    return frames.settings({frames.INITIAL_WINDOW_SIZE: size})


def length(size: int) -> bytes:
    """A POST block with this content-length."""
    text = str(size).encode()
    return POST + b"\x0f\x0d" + bytes([len(text)]) + text


class Http:
    """A session that serves HTTP, with a handler that holds what it gets."""

    def __init__(self, window: int | None = None) -> None:
        self.budget = BufferBudget(1 << 30)
        self.refused: list[ServingError | HttpError] = []
        self.handled: list[HttpRequest] = []
        requests = HttpRequests(self, self.budget, on_refused=self.refused.append)
        self.session = Session(requests, self.budget, lambda: None)
        self._rest = b""
        self.feed(window_of(window) if window is not None else frames.settings({}))
        self.sent()

    def body_limit(self, head: RequestHead) -> int:
        return 1 << 30

    def handle(self, request: HttpRequest, answer: Answer) -> Cancel | None:
        self.handled.append(request)
        return lambda: answer(HttpResponse(499, (), ()))

    def feed(self, data: bytes) -> None:
        rest = self._rest + data
        taken = self.session.receive(memoryview(rest), len(rest))
        self._rest = rest[taken:]

    def sent(self) -> list[Frame]:
        return frames_of(b"".join(self.session.sending.take(1 << 30)))

    def seconds(self, count: int) -> None:
        for _ in range(count):
            self.session.tick(60)


def test_a_window_that_becomes_negative_leaves_its_body_waiting() -> None:
    body = bytes(3 * TURN_BYTES)
    server = settled(
        lambda stream: stream.session.answer(stream, OK_HEAD, [body], len(body)),
        {frames.INITIAL_WINDOW_SIZE: 1 << 20},
    )
    server.feed(opened(1, ends=True))
    sent = [each for each in frames_of(server.sent()) if each.kind == DATA]
    server.feed(window_of(0) + window_update(0, 1 << 20))
    assert not [each for each in frames_of(server.sent()) if each.kind == DATA]
    server.feed(window_of(1 << 20))
    sent += [each for each in frames_of(server.sent()) if each.kind == DATA]
    assert sum(len(each.payload) for each in sent) == len(body)
    assert server.budget.used == 0


def test_a_body_that_trailers_cut_short_gives_its_memory_back() -> None:
    http = Http()
    http.feed(opened(block=length(1_000_000)) + frame(DATA, 0, 1, bytes(1000)))
    http.feed(opened(1, ends=True, block=b""))
    assert (http.session.open_streams, http.budget.used) == (0, 0)


def test_a_connection_lost_inside_the_last_frame_gives_its_memory_back() -> None:
    http = Http()
    last = frame(DATA, END_STREAM, 1, bytes(500_000))
    http.feed(opened(block=length(500_000)) + last[:1000])
    assert http.budget.used == 500_000
    http.session.lose()
    assert http.budget.used == 0


def test_a_body_that_stalls_in_its_last_frame_is_too_slow() -> None:
    http = Http()
    http.feed(opened(block=length(500_000)) + frame(DATA, END_STREAM, 1, bytes(500_000))[:1000])
    http.seconds(60)
    assert (http.session.open_streams, http.budget.used) == (0, 0)
    assert len(http.refused) == 1


def test_a_time_without_reading_is_not_the_bodys_fault() -> None:
    http = Http()
    http.feed(opened(block=length(500_000)) + frame(DATA, 0, 1, bytes(1000)))
    http.session.sending.is_held = True
    http.seconds(60)
    assert not http.refused


def test_a_refusal_that_waits_for_a_window_is_the_only_answer() -> None:
    http = Http(window=0)
    http.feed(opened(block=length(100)))
    http.feed(frame(DATA, 0, 1, bytes(10)))
    http.seconds(60)  # too slow: its 408 waits
    assert len(http.refused) == 1
    http.feed(frame(DATA, 0, 1, bytes(10)) * 3)
    http.feed(frame(DATA, END_STREAM, 1, bytes(60)))
    http.seconds(60)
    assert len(http.refused) == 1
    assert not http.handled
    http.feed(window_of(1000))
    assert sum(each.kind == HEADERS for each in http.sent()) == 1
    assert (http.session.open_streams, http.budget.used) == (0, 0)


def test_a_refused_head_is_answered_once_however_much_comes() -> None:
    http = Http(window=0)
    http.feed(opened(block=POST + b"\x00\x01a" + b"\x7f\xf9\xff\x01" + b"x" * 32_888))
    http.feed(frame(DATA, 0, 1, b"x") * 100)
    http.seconds(60)
    assert sum(each.kind == HEADERS for each in http.sent()) == 1


def test_one_frame_of_many_windows_touches_streams_once() -> None:
    server = settled(None)
    for number in range(1, 2000, 2):
        server.feed(opened(number))
    server.feed(window_of(1) * 1 + b"")
    began = time.thread_time()
    server.feed(frame(SETTINGS, 0, 0, b"\x00\x04\x00\x00\x00\x01" * MAX_SETTINGS))
    assert time.thread_time() - began < 0.5
    assert not server.session.is_over
    server.feed(frame(SETTINGS, 0, 0, b"\x00\x04\x00\x00\x00\x01" * (MAX_SETTINGS + 1)))
    assert ended_by(server) is ErrorCode.ENHANCE_YOUR_CALM


def test_the_lease_of_a_reset_answer_is_released_soon() -> None:
    lease = Lease()
    body = np.zeros(1 << 20, np.uint8).data
    server = settled(
        lambda stream: stream.session.answer(stream, OK_HEAD, [body], len(body), lease=lease)
    )
    server.feed(opened(1, ends=True))
    server.sent()
    server.feed(frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
    assert server.woken  # whoever writes is asked to, and releases what is here
    assert server.session.sending.leases == [lease]


def test_a_peer_without_a_table_is_told_once_that_ours_is_empty() -> None:
    server = settled(settings={frames.HEADER_TABLE_SIZE: 0})
    for number in (1, 3):
        server.feed(opened(number, ends=True))
    blocks = [each.payload for each in frames_of(server.sent()) if each.kind == HEADERS]
    assert blocks[0] == b"\x20" + blocks[1]


def test_a_peer_that_gives_up_its_table_amid_an_answer_is_told_in_the_trailers() -> None:
    server = settled(lambda stream: stream.session.start(stream, OK_HEAD))
    server.feed(opened(1, ends=True))
    (stream,) = server.session.streams.values()
    server.feed(frames.settings({frames.HEADER_TABLE_SIZE: 0}))
    stream.session.finish(stream, b"\x00\x01a\x01b")
    blocks = [each.payload for each in frames_of(server.sent()) if each.kind == HEADERS]
    assert blocks == [OK_HEAD, b"\x20\x00\x01a\x01b"]


def test_resets_that_the_peer_provokes_end_the_session() -> None:
    server = settled(None)
    for count in range(MAX_RESETS):
        number = 2 * count + 1
        server.feed(opened(number, ends=True) + window_update(number, 0))
    assert not server.session.is_over
    number = 2 * MAX_RESETS + 1
    server.feed(opened(number, ends=True) + window_update(number, 0))
    assert ended_by(server) is ErrorCode.ENHANCE_YOUR_CALM


def test_heads_of_a_stream_that_was_reset_are_counted() -> None:
    server = settled(None)
    server.feed(opened(1) + window_update(1, 0))
    for _ in range(MAX_IDLE_FRAMES):
        server.feed(opened(1, ends=True))
    assert not server.session.is_over
    server.feed(opened(1, ends=True))
    assert ended_by(server) is ErrorCode.ENHANCE_YOUR_CALM


class _Size(int):
    """A head that is the size of its fields."""

    def varied(self, fresh: list[Field]) -> "_Size":
        return self


def test_a_short_block_that_stands_for_long_fields_is_not_remembered() -> None:
    def read(block: Block) -> _Size:
        return _Size(block.size)

    decoder = Decoder(max_table_bytes=4096, max_list_bytes=1 << 15)
    blocks = HeaderBlocks(decoder, read, RepeatedHeads(read))
    blocks.head(b"\x40\x01a\x7f\x81\x1d" + bytes([0x61]) * 3840)
    many = b"\xbe" * 5
    assert blocks.head(many) > REMEMBERED_BYTES
    assert blocks.known(many) is None


@pytest.mark.parametrize("size", [REMEMBERED_BYTES - 200, REMEMBERED_BYTES + 1])
@pytest.mark.parametrize("lasts", ["indexed", "literal"])
def test_long_heads_with_fresh_fields_are_not_remembered(size: int, lasts: str) -> None:
    read: list[Block] = []

    class Head:
        def __init__(self, block: Block) -> None:
            read.append(block)

        def varied(self, fields: list[Field]) -> "Head":
            return self

    encoder = hpack.Encoder()
    long = ("x-token", "t" * size)
    kind = HeaderTuple if lasts == "indexed" else NeverIndexedHeaderTuple
    decoder = Decoder(max_table_bytes=4096, max_list_bytes=1 << 15)
    blocks: HeaderBlocks[Head] = HeaderBlocks(decoder, Head, RepeatedHeads(Head))
    calls = 10
    for number in range(calls):
        fresh = NeverIndexedHeaderTuple("traceparent", f"00-{number}")
        blocks.head(encoder.encode([(":method", "POST"), kind(*long), fresh]))
    assert len(read) == (1 if size < REMEMBERED_BYTES else calls)


def test_padding_is_given_back_to_the_window() -> None:
    server = settled(None)
    server.feed(opened(1))
    for _ in range(10_000):
        server.feed(frame(DATA, PADDED, 1, bytes([255]) + b"x" + bytes(255)))
    assert not server.session.is_over
    assert server.session.open_streams == 1


def test_a_body_that_nobody_takes_is_given_up_though_another_moves() -> None:
    body = bytes(100_000)
    server = settled(
        lambda stream: stream.session.answer(stream, OK_HEAD, [body], len(body)),
        {frames.INITIAL_WINDOW_SIZE: 0},
    )
    server.feed(opened(1, ends=True) + opened(3, ends=True))
    for _ in range(70):
        server.session.tick(60)
        server.feed(window_update(3, 1))
        server.sent()
    assert set(server.session.streams) == {3}


def test_a_last_goaway_never_takes_back_what_an_earlier_one_said() -> None:
    server = settled(None)
    server.feed(opened(1))
    server.session.leave()
    server.feed(opened(3))
    server.session.fail(ErrorCode.PROTOCOL_ERROR, "")
    said = [each.payload[:4] for each in frames_of(server.sent()) if each.kind == GOAWAY]
    assert said == [(1).to_bytes(4, "big")] * 2


def test_a_head_of_one_large_frame_is_as_limited_as_one_of_many() -> None:
    server = settled()
    server.feed(frame(HEADERS, END_HEADERS, 1, POST + bytes(MAX_BLOCK_BYTES)))
    assert ended_by(server) is ErrorCode.ENHANCE_YOUR_CALM


def test_an_idle_stream_is_never_reset() -> None:
    server = settled()
    server.feed(frame(PRIORITY, 0, 7, bytes(4)))
    assert ended_by(server) is ErrorCode.FRAME_SIZE_ERROR


def test_a_flush_gives_one_turns_share_of_a_large_body() -> None:
    body = bytes(20 * TURN_BYTES)
    server = settled(
        lambda stream: stream.session.answer(stream, OK_HEAD, [body], len(body)),
        {frames.INITIAL_WINDOW_SIZE: 1 << 30},
    )
    server.feed(window_update(0, 1 << 30) + opened(1, ends=True))
    taken = b"".join(server.session.sending.take(TURN_BYTES))
    assert len(taken) < 2 * TURN_BYTES
    assert server.session.sending.can_go_on


def test_a_field_without_a_name_behind_a_fresh_one_is_malformed() -> None:
    server = settled(None)
    server.feed(opened(1, ends=True, block=POST + b"\x00\x0btraceparent\x01a" + b"\x00\x00\x01b"))
    assert [each.kind for each in frames_of(server.sent())] == [RST_STREAM]
    assert not server.session.is_over
