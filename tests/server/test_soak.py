"""A thousand requests at once, of random rows, over both protocols, many of which go away: every
other one is answered right, and exactly once."""

from pathlib import Path

import numpy as np
import pytest
from stoker.telemetry.statistics import FailureReason
from stoker.tensor import Array

from tests import models
from tests.calls import (
    Call,
    GrpcClient,
    RestClient,
    ServeFake,
    statistics,
    wait_for_in_flight,
)
from tests.conftest import RunningServer, Serving
from tests.fake_runtime import FakeRuntime
from tests.recording_runtime import RecordingRuntime

CONFIG = """
max_batch_size: 8
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching { priority_levels: 3 default_priority_level: 2 }
"""
REQUESTS = 1000
SHARE_CANCELLED = 0.3


class Soak:
    """A thousand requests on their way, and what must come back."""

    def __init__(self, rest: RestClient, grpc: GrpcClient, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._clients = (rest, grpc)
        self.sent: list[tuple[Array, Call]] = []
        self.cancelled: set[int] = set()

    def send(self) -> None:
        """One more request: up to 20 rows, of any priority; a few are more than a batch holds."""
        size = int(self._random.choice([1, 1, 2, 3, 5, 8, 20]))
        first = np.arange(size, dtype=np.float32)[:, None] / 32 + len(self.sent)
        given = np.repeat(first, 4, axis=1)
        client = self._clients[int(self._random.integers(2))]
        priority = int(self._random.integers(4))
        self.sent.append((given, client.send("m", {"x": given}, priority=priority)))

    def cancel_some(self, share: float) -> None:
        """Any of the requests so far go away, whatever became of them."""
        for place in range(len(self.sent)):
            if place not in self.cancelled and self._random.random() < share:
                self.cancelled.add(place)
                self.sent[place][1].cancel()

    def check_answers(self) -> None:
        """Every request that stayed has its own answer."""
        for place, (given, call) in enumerate(self.sent):
            if place not in self.cancelled:
                np.testing.assert_array_equal(call.answer().output(), given * 2)


def check_counts(server: RunningServer, soak: Soak, arrived: int) -> None:
    """Each request that arrived was counted once, and nothing is left."""
    wait_for_in_flight(server, 0)
    counted = statistics(server)
    cancelled = counted.failures[FailureReason.CANCELED]
    assert arrived <= counted.success_count + cancelled <= REQUESTS
    assert 0 < cancelled <= len(soak.cancelled)
    assert sum(counted.failures.values()) == cancelled
    assert counted.pending == 0
    admission = server.on_loop(lambda each: each.engine.served("m").admission)
    assert (admission.rows, admission.bytes) == (0, 0)
    assert not any(admission.requests_by_level.values())
    assert not any(admission.rows_by_level.values())
    assert server.at.metric("stoker_requests_in_flight") == 0
    assert server.at.metric("stoker_requests_pending") == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_requests_that_wait_together_are_answered_once_or_were_cancelled(
    serve_fake: ServeFake, runtime: FakeRuntime, seed: int
) -> None:
    server = serve_fake(CONFIG)
    runtime.hold()
    with RestClient(server.at) as rest, GrpcClient(server.at) as grpc:
        soak = Soak(rest, grpc, seed)
        for _ in range(REQUESTS):
            soak.send()
        wait_for_in_flight(server, REQUESTS)
        soak.cancel_some(SHARE_CANCELLED / 2)
        runtime.step(20)
        soak.cancel_some(SHARE_CANCELLED / 2)
        runtime.release()
        soak.check_answers()
        check_counts(server, soak, REQUESTS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_requests_to_a_real_model_are_answered_once_or_were_cancelled(
    serve: Serving, tmp_path: Path, seed: int
) -> None:
    entry = models.ModelEntry(models.double(), CONFIG)
    runtime = RecordingRuntime()
    repository = models.write_repository(tmp_path / "repository", {"m": entry})
    server = serve(repository, runtime=runtime)
    with RestClient(server.at) as rest, GrpcClient(server.at) as grpc:
        soak = Soak(rest, grpc, seed)
        for _ in range(10):
            runtime.gate.clear()
            for _ in range(REQUESTS // 10):
                soak.send()
            soak.cancel_some(SHARE_CANCELLED / 10)
            runtime.gate.set()
        soak.check_answers()
        # grpcio sends nothing at all of a call that is cancelled soon enough.
        check_counts(server, soak, REQUESTS - len(soak.cancelled))
