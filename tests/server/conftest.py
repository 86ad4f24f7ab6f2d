"""What server tests share besides `serve`."""

from collections.abc import Iterator

import pytest

from tests.conftest import Serving
from tests.fake_runtime import FakeRuntime


@pytest.fixture
def runtime(serve: Serving) -> Iterator[FakeRuntime]:
    """A fake runtime that lets go of all runs before the servers of the test stop."""
    fake = FakeRuntime()
    yield fake
    fake.release()
