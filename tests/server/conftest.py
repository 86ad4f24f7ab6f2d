"""What server tests share besides `serve`."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stoker.settings import GrpcTransport, Settings

from tests.calls import BATCHING, ServeFake, fake_repository
from tests.conftest import FREE_PORTS, RunningServer, Serving
from tests.fake_runtime import FakeRuntime
from tests.grpc_server import ServeCalls, serving_by


@pytest.fixture
def runtime(serve: Serving) -> Iterator[FakeRuntime]:
    """A fake runtime that lets go of all runs before the servers of the test stop."""
    fake = FakeRuntime()
    yield fake
    fake.release()


@pytest.fixture
def serve_fake(serve: Serving, runtime: FakeRuntime, tmp_path: Path) -> ServeFake:
    """Serves one model of the fake runtime."""

    def start(
        config: str = BATCHING,
        *,
        settings: Settings = FREE_PORTS,
        profile_seconds: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> RunningServer:
        return serve(
            fake_repository(tmp_path, config),
            runtime=runtime,
            settings=settings,
            profile_seconds=profile_seconds,
            clock=clock,
        )

    return start


@pytest.fixture
def serving(grpc_transport: GrpcTransport) -> ServeCalls:
    """Starts the gRPC transport of the test over a table of methods."""
    return serving_by(grpc_transport)
