"""Readiness follows the registry, however often it was asked for before."""

from stoker.engine.registry import ModelRegistry
from stoker.lifecycle.health import ServerHealth
from stoker.model import ModelVersion, VersionState

FIRST, SECOND = ModelVersion("a", 1), ModelVersion("b", 1)


def ready_server() -> tuple[ModelRegistry, ServerHealth]:
    """Two models, of which the first is required; both serve."""
    registry = ModelRegistry()
    health = ServerHealth(registry, is_strict=True)
    health.require((FIRST.name,))
    for identity in (FIRST, SECOND):
        registry.set_state(identity, VersionState.LOADING)
        registry.set_state(identity, VersionState.READY)
    assert health.readiness().ready
    return registry, health


def test_a_server_that_was_ready_is_unready_when_its_model_goes_and_ready_when_it_is_back() -> None:
    registry, health = ready_server()

    registry.set_state(FIRST, VersionState.UNAVAILABLE, reason="its device broke")
    gone = health.readiness()
    registry.set_state(FIRST, VersionState.LOADING)
    loading = health.readiness()
    registry.set_state(FIRST, VersionState.READY)

    assert gone.reasons == ("model 'a' v1 is UNAVAILABLE: its device broke",)
    assert loading.reasons == ("model 'a' v1 is LOADING",)
    assert health.readiness().ready


def test_the_change_of_another_model_leaves_the_server_ready() -> None:
    registry, health = ready_server()

    registry.set_state(SECOND, VersionState.UNAVAILABLE, reason="its device broke")

    assert health.readiness().ready


def test_what_is_required_later_counts_at_once() -> None:
    _, health = ready_server()

    health.require((FIRST.name, "c"))
    first = health.readiness()
    health.require((FIRST.name,), problems=("'s3://nowhere' holds no model",))

    assert first.reasons == ("model 'c' is not ready: it is in none of the repositories",)
    assert health.readiness().reasons == ("'s3://nowhere' holds no model",)
