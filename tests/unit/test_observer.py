"""What is kept of calls that have ended: of those that somebody is told of, and of the others."""

import math
import os
from collections.abc import Iterator

import pytest
from stoker.telemetry.access_log import AccessLog
from stoker.telemetry.observation import MOST_CHARACTERS, Caller, Observation
from stoker.telemetry.observer import Observer

LONG = "a" * 10_000


class Arrival:
    """Implements `observation.Arrival`: counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def describe(self) -> Caller:
        self.asked += 1
        return Caller(
            is_grpc=True, method="POST", path=LONG, route="", peer="", scheme="http",
            protocol_version="2", request_id=LONG, traceparent="",
        )  # fmt: skip


@pytest.fixture
def descriptor() -> Iterator[int]:
    """Where lines go that nobody reads."""
    opened = os.open(os.devnull, os.O_WRONLY)
    yield opened
    os.close(opened)


def ended(observer: Observer, arrival: Arrival) -> Observation:
    """A call whose client wrote much, when it is over."""
    observation = Observation(arrival, 1.0, 0, None)
    observation.model = observation.version = observation.client_id = LONG
    observer.end(observation)
    return observation


def test_of_a_call_that_becomes_a_line_as_much_is_kept_as_it_says(descriptor: int) -> None:
    arrival = Arrival()
    observer = Observer(None, AccessLog("json", descriptor, share=0.0, slow_s=0.0))
    call = ended(observer, arrival)
    texts = (
        call.caller.path, call.caller.request_id, call.model, call.version, call.client_id,
    )  # fmt: skip
    assert {len(each) for each in texts} == {MOST_CHARACTERS + 1}
    assert arrival.asked == 1


def test_of_a_call_that_nobody_is_told_of_nothing_is_asked(descriptor: int) -> None:
    arrival = Arrival()
    observer = Observer(None, AccessLog("json", descriptor, share=0.0, slow_s=math.inf))
    ended(observer, arrival)
    assert arrival.asked == 0


def test_the_requests_of_a_stream_say_who_called_it(descriptor: int) -> None:
    arrival = Arrival()
    observer = Observer(None, AccessLog("json", descriptor, share=1.0, slow_s=math.inf))
    stream = Observation(arrival, 1.0, 0, None)
    request = observer.begin_in(stream, 5)
    observer.end(request)
    observer.end(stream)
    assert request.caller is stream.caller
    assert (stream.requests, stream.bytes_in, arrival.asked) == (1, 5, 1)
