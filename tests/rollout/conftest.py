"""What the rollouts share: the form that was asked for, and the report."""

import pytest

from tests.rollout.report import PLUGIN, Report
from tests.rollout.scene import SHORT, Form, long_form


def pytest_configure(config: pytest.Config) -> None:
    """Collects what scenes come to."""
    path = config.getoption("--rollout-report", None)
    config.pluginmanager.register(Report(path), PLUGIN)


@pytest.fixture(autouse=True)
def form(request: pytest.FixtureRequest) -> Form:
    """Short, unless `make test-rollout` asks for minutes; what is only for that skips."""
    seconds = request.config.getoption("--rollout-seconds", 0.0)
    if not seconds and request.node.get_closest_marker("rollout"):
        pytest.skip("takes minutes: make test-rollout")
    return long_form(seconds) if seconds else SHORT


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Where a scene that is over is told of."""
    collected = request.config.pluginmanager.get_plugin(PLUGIN)
    assert isinstance(collected, Report)
    return collected
