"""What server tests share besides `serve`."""

from collections.abc import Iterator

import pytest
from stoker.settings import GrpcTransport

from tests.conftest import Serving
from tests.fake_runtime import FakeRuntime
from tests.grpc_server import ServeCalls, serving_by


@pytest.fixture
def runtime(serve: Serving) -> Iterator[FakeRuntime]:
    """A fake runtime that lets go of all runs before the servers of the test stop."""
    fake = FakeRuntime()
    yield fake
    fake.release()


@pytest.fixture
def serving(grpc_transport: GrpcTransport) -> ServeCalls:
    """Starts the gRPC transport of the test over a table of methods."""
    return serving_by(grpc_transport)
