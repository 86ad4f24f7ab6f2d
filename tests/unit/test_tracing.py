"""The tracer: nothing waits for the receiver, what finds no room is counted, the end is flushed."""

import logging
import threading
from collections.abc import Sequence

import pytest
from stoker.telemetry.observation import Caller, Observation, SpanIdentity
from stoker.telemetry.sampler import Sampler
from stoker.telemetry.tracing import Record, Tracer, record_spans

PATIENCE = 10.0
CALLER = Caller(
    is_grpc=False, method="POST", path="/", route="", peer="", scheme="http",
    protocol_version="2", request_id="", traceparent="",
)  # fmt: skip


class Receiver:
    """Takes spans while its gate is open; fails when it is told to."""

    target = "a receiver of the test"

    def __init__(self) -> None:
        self.got: list[object] = []
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()
        self.is_inside = threading.Event()
        self.is_closed = False

    def export(self, spans: Sequence[object]) -> str | None:
        self.is_inside.set()
        assert self.gate.wait(PATIENCE), "a held receiver was never released"
        if self.fails:
            return "it was told to fail"
        self.got += spans
        return None

    def close(self) -> None:
        self.is_closed = True
        self.gate.set()


def call(number: int) -> Observation:
    """A call that has ended."""
    observation = Observation(CALLER, 1.0, 0, SpanIdentity(number, 1))
    observation.ended = 2.0
    return observation


def numbers(record: Record, offset_ns: int) -> list[int]:
    """As many spans as the record has, each by the number of its call."""
    assert isinstance(record, Observation)
    assert record.span is not None
    return [record.span.trace_id] * record_spans(record)


def tracer(receiver: Receiver, *, queued: int = 100, export: int = 1) -> Tracer:
    sampler = Sampler(1.0, follows_parent=True)
    return Tracer(
        sampler,
        receiver,
        numbers,
        max_queued_spans=queued,
        max_export_spans=export,
        interval_s=0.001,
    )


def test_what_was_recorded_is_exported_before_the_end() -> None:
    receiver = Receiver()
    made = tracer(receiver, export=1000)
    made.start()
    for number in range(1, 11):
        made.record(call(number))
    made.close(PATIENCE)
    assert receiver.got == [number for number in range(1, 11) for _ in range(record_spans(call(1)))]
    counts = made.counts
    assert (counts.exported, counts.failed, counts.dropped) == (len(receiver.got), 0, 0)
    assert receiver.is_closed


def test_a_receiver_that_hangs_costs_spans_and_no_time() -> None:
    receiver = Receiver()
    receiver.gate.clear()
    made = tracer(receiver, queued=5 * record_spans(call(1)))
    made.start()
    made.record(call(1))
    assert receiver.is_inside.wait(PATIENCE)
    for number in range(2, 101):  # the first one waits inside the receiver and still counts
        made.record(call(number))
    size = record_spans(call(1))
    assert made.counts.dropped == 95 * size
    receiver.gate.set()
    made.close(PATIENCE)
    assert receiver.got == [number for number in range(1, 6) for _ in range(size)]


def test_a_queue_for_less_than_a_call_takes_one_call() -> None:
    receiver = Receiver()
    receiver.gate.clear()
    made = tracer(receiver, queued=1)
    made.start()
    made.record(call(1))
    made.record(call(2))
    receiver.gate.set()
    made.close(PATIENCE)
    assert set(receiver.got) == {1}


def test_the_end_does_not_wait_for_a_receiver_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver()
    receiver.gate.clear()
    made = tracer(receiver)
    made.start()
    made.record(call(1))
    assert receiver.is_inside.wait(PATIENCE)
    made.record(call(2))
    made.close(0.0)
    assert made.counts.dropped == 2 * record_spans(call(1))
    assert [record.getMessage() for record in caplog.records] == [
        "10 spans were not exported to a receiver of the test before the end"
    ]


def test_failing_and_working_again_are_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    receiver = Receiver()
    receiver.fails = True
    made = tracer(receiver)
    made.start()
    size = record_spans(call(1))
    for number in (1, 2):
        made.record(call(number))
    made.close(PATIENCE)
    assert made.counts.failed == 2 * size
    receiver.fails = False
    again = tracer(receiver)
    again.start()
    again.record(call(3))
    again.close(PATIENCE)
    assert again.counts.exported == size
    assert [record.getMessage() for record in caplog.records] == [
        "spans cannot be exported to a receiver of the test; requests are served as before: "
        "it was told to fail"
    ]


def test_an_exporter_that_raises_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Raising(Receiver):
        def export(self, spans: Sequence[object]) -> str | None:
            if not self.got:
                self.got.append("raised")
                raise RuntimeError("a bug of the exporter")
            return super().export(spans)

    receiver = Raising()
    made = tracer(receiver)
    made.start()
    made.record(call(1))
    made.record(call(2))
    made.close(PATIENCE)
    assert receiver.got == ["raised", *[2] * record_spans(call(2))]
    assert made.counts.failed == record_spans(call(1))
    assert "exporting spans failed" in caplog.text


def test_what_comes_after_the_end_is_counted_as_dropped() -> None:
    made = tracer(Receiver())
    made.start()
    made.close(PATIENCE)
    made.record(call(1))
    assert made.counts.dropped == record_spans(call(1))
