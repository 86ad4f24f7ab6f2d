"""What benchmarks share and what needs no server: header blocks, rates, verdicts."""

from collections import Counter
from itertools import islice

import hpack
import pytest

from benchmarks.call_headers import Encoding, blocks, grpc_fields
from benchmarks.figures import Promises, ratios
from benchmarks.generator import Outcome, arrivals

CALLS = 60
"""More than what fills a header table with fresh headers."""


def decoded(encoding: Encoding, table_bytes: int) -> list[dict[str, str]]:
    """The fields of CALLS blocks, as one connection's decoder reads them."""
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = table_bytes
    fields = grpc_fields(8001)
    made = islice(blocks(encoding, fields, table_bytes=table_bytes), CALLS)
    return [{str(name): str(value) for name, value in decoder.decode(each)} for each in made]


@pytest.mark.parametrize("table_bytes", [4096, 1024])
@pytest.mark.parametrize("encoding", Encoding)
def test_every_block_has_the_constant_headers(encoding: Encoding, table_bytes: int) -> None:
    fields = dict(grpc_fields(8001))
    assert all(fields.items() <= call.items() for call in decoded(encoding, table_bytes))


@pytest.mark.parametrize("encoding", [Encoding.INDEXED, Encoding.LITERAL])
def test_fresh_headers_differ_with_every_call(encoding: Encoding) -> None:
    calls = decoded(encoding, 4096)
    if encoding is Encoding.LITERAL:
        calls = calls[1:]  # the first has the constant headers only
    for name in ("grpc-timeout", "traceparent"):
        assert len({call[name] for call in calls}) == len(calls)


def test_literal_headers_leave_the_table_as_it_is() -> None:
    encoded = islice(blocks(Encoding.LITERAL, grpc_fields(1), table_bytes=4096), 2, CALLS)
    assert len({len(each) for each in encoded}) == 1


def test_a_steady_rate_counts_whole_batches_only() -> None:
    outcome = Outcome(Counter({0: 11}))
    # A batch that began before the clock, two whole ones of 4 rows a second, one cut off.
    outcome.moments = [0.5, 0.501, *([1.5] * 4), *([2.5] * 4), 3.5]
    assert outcome.steady_per_second() == 4


def test_a_steady_rate_needs_three_batches() -> None:
    outcome = Outcome()
    outcome.moments = [1.0, 2.0]
    with pytest.raises(ValueError, match="longer run"):
        outcome.steady_per_second()


def test_arrivals_have_the_rate_and_never_go_back() -> None:
    moments = arrivals(1000, 10)
    assert len(moments) == 10_000
    assert moments == sorted(moments)
    assert moments[-1] == pytest.approx(10, rel=0.05)


def test_promises_tell_pass_miss_and_why_one_was_skipped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    promises = Promises(absent="no such transport")
    promises.at_least("rate", 2, [1.0, 2.0, 9.0])
    promises.at_most("cost", 2, [1.0, 2.5, 9.0])
    promises.at_least("native", 2, ratios([], [1.0]))
    promises.print()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "| rate | >= 2 | 2.00 (1.00-9.00) | PASS |",
        "| cost | <= 2 | 2.50 (1.00-9.00) | MISS |",
        "| native | | | skipped: no such transport |",
    ]
