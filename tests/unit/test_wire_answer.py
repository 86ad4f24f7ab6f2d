"""Heads of answers: what is remembered of one never shows in another."""

from stoker.transport.wire.answer import Clock, encode
from stoker.transport.wire.message import JSON, HttpResponse


def test_a_remembered_head_is_what_encoding_it_anew_gives() -> None:
    now = [1_000_000.0]
    clock = Clock(lambda: now[0])
    others = (("Content-Type", "text/plain"),)
    for moment in (1_000_000.0, 1_000_000.9, 1_000_001.0, 1_000_000.0):
        now[0] = moment
        for status in (200, 400, 200):
            for headers in (JSON, others, tuple(others)):
                for size in (3, 3, 12):
                    response = HttpResponse(status, headers, (bytes(size),))
                    fresh = encode(
                        response,
                        size,
                        Clock(lambda: now[0]),
                        closes=False,
                        without_body=True,
                    )
                    assert clock.head(response, size) == fresh[0]


def test_heads_of_ever_new_header_sets_are_told_apart() -> None:
    clock = Clock(lambda: 1_000_000.0)
    for number in range(2000):
        headers = (("X-Number", str(number)),)
        head = clock.head(HttpResponse(200, headers, (b"",)), 0)
        assert b"X-Number: %d\r\n" % number in head
