"""A server that turns unready says so in its log, once, and so it does when it is ready again."""

import logging

import pytest
from stoker.engine.registry import ModelRegistry
from stoker.lifecycle.health import ServerHealth, ServerState
from stoker.lifecycle.readiness_log import ReadinessLog
from stoker.model import ModelVersion, VersionState


class Serving:
    """A server with one required model, and what its log says."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog
        self._registry = ModelRegistry()
        self._model = ModelVersion("m", 1)
        self.health = ServerHealth(self._registry, is_strict=True)
        self.health.require(("m",))
        self.health.watch(ReadinessLog(self.health).look)

    def move(self, *states: VersionState, reason: str = "") -> None:
        """The model goes this way."""
        for state in states:
            self._registry.set_state(self._model, state, reason=reason)
            self.health.changed()

    @property
    def told(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records]


@pytest.fixture
def serving(caplog: pytest.LogCaptureFixture) -> Serving:
    return Serving(caplog)


def test_nothing_is_told_while_the_server_starts(serving: Serving) -> None:
    serving.move(VersionState.LOADING, VersionState.READY)
    serving.health.become(ServerState.STARTED)
    assert serving.told == []


def test_a_server_that_has_started_without_its_model_says_why(serving: Serving) -> None:
    serving.move(VersionState.LOADING)
    serving.move(VersionState.UNAVAILABLE, reason="no such file")
    serving.health.become(ServerState.STARTED)
    serving.health.changed()
    (sentence,) = serving.told
    assert sentence.startswith("the server is not ready: ")
    assert sentence.endswith("no such file")


def test_turning_unready_and_ready_again_is_told_once_each(serving: Serving) -> None:
    serving.move(VersionState.LOADING, VersionState.READY)
    serving.health.become(ServerState.STARTED)
    serving.move(VersionState.UNAVAILABLE, reason="its device broke")
    serving.health.changed()
    serving.move(VersionState.LOADING, VersionState.READY)
    serving.health.changed()
    assert len([each for each in serving.told if "its device broke" in each]) == 1
    assert serving.told[-1] == "the server is ready again"
    assert serving.told.count("the server is ready again") == 1


def test_a_drain_is_no_news_here(serving: Serving) -> None:
    serving.move(VersionState.LOADING, VersionState.READY)
    serving.health.become(ServerState.STARTED)
    serving.health.become(ServerState.DRAINING)
    assert serving.told == []
