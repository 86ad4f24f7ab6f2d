"""Which versions there are and which one serves: states, look-ups and their texts."""

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.control import IndexEntry
from stoker.engine.registry import ModelRegistry, version_number
from stoker.engine.served_model import ServedModel
from stoker.errors import InvalidRequest, ModelNotFound, ModelNotReady
from stoker.model import ModelVersion, VersionState

UNKNOWN, LOADING, READY = VersionState.UNKNOWN, VersionState.LOADING, VersionState.READY
UNLOADING, UNAVAILABLE = VersionState.UNLOADING, VersionState.UNAVAILABLE
LEGAL = {
    UNKNOWN: {LOADING},
    LOADING: {READY, UNAVAILABLE},
    READY: {UNLOADING, UNAVAILABLE},
    UNLOADING: {UNAVAILABLE},
    UNAVAILABLE: {LOADING},
}


def served(name: str) -> ServedModel:
    return cast(ServedModel, name)  # a registry hands it out and never looks at it


def loaded(registry: ModelRegistry, version: int, model: str = "m") -> ServedModel:
    identity, one = ModelVersion(model, version), served(f"{model}{version}")
    registry.set_state(identity, LOADING)
    registry.set_state(identity, READY, served=one)
    return one


@given(st.lists(st.sampled_from(list(VersionState)), max_size=12))
def test_a_version_goes_only_the_legal_ways(ways: list[VersionState]) -> None:
    registry, identity, state = ModelRegistry(), ModelVersion("m", 1), UNKNOWN
    one = served("m1")
    for way in ways:
        if way in LEGAL[state]:
            registry.set_state(identity, way, served=one)
            state = way
        else:
            with pytest.raises(ValueError, match=r"'m' v1 cannot go from"):
                registry.set_state(identity, way, served=one)
        assert (registry.serving("m", "") is one) == (state is READY)
        assert [record.state for record in registry.records("m")] == [state]


def test_a_request_without_a_version_gets_the_highest_ready_one() -> None:
    registry = ModelRegistry()
    second, tenth = loaded(registry, 2), loaded(registry, 10)
    assert registry.resolve("m") is tenth
    assert registry.resolve("m", "2") is second
    registry.set_state(ModelVersion("m", 10), UNLOADING)
    assert registry.resolve("m") is second
    registry.set_state(ModelVersion("m", 2), UNAVAILABLE, reason="it broke")
    assert registry.serving("m", "") is None


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("", "Request for unknown model: 'x' is not found"),
        ("3", "Request for unknown model: 'x' is not found"),
    ],
)
def test_an_unknown_model_is_not_found(version: str, text: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        ModelRegistry().resolve("x", version)
    assert caught.value.message == text


def test_an_unknown_version_is_not_found() -> None:
    registry = ModelRegistry()
    loaded(registry, 2)
    with pytest.raises(ModelNotFound) as caught:
        registry.resolve("m", "3")
    assert caught.value.message == "Request for unknown model: 'm' version 3 is not found"


def test_a_model_that_is_known_and_not_ready_says_why() -> None:
    registry = ModelRegistry()
    registry.set_state(ModelVersion("m", 1), LOADING)
    registry.set_state(ModelVersion("m", 2), LOADING)
    registry.set_state(ModelVersion("m", 2), UNAVAILABLE, reason="no such operator")
    with pytest.raises(ModelNotReady) as caught:
        registry.resolve("m")
    assert caught.value.message == (
        "model 'm' has no version that is ready: version 1 is LOADING; "
        "version 2 is UNAVAILABLE (no such operator)"
    )
    with pytest.raises(ModelNotReady) as caught:
        registry.resolve("m", "2")
    assert caught.value.message == (
        "model 'm' is not ready: version 2 is UNAVAILABLE (no such operator)"
    )


def test_a_model_without_any_version_says_why() -> None:
    registry = ModelRegistry()
    registry.declare("bad", reason="config.pbtxt:3: unknown field")
    registry.declare("empty")
    with pytest.raises(ModelNotReady, match=r"config\.pbtxt:3: unknown field"):
        registry.resolve("bad")
    with pytest.raises(ModelNotReady, match="it has no version"):
        registry.resolve("empty")


@pytest.mark.parametrize("version", ["-1", "v1", "1.0", "٣", " 1", "9" * 19])
def test_a_version_that_is_no_number_is_invalid(version: str) -> None:
    registry = ModelRegistry()
    loaded(registry, 1)
    with pytest.raises(InvalidRequest, match="model 'm': expected a version number"):
        registry.resolve("m", version)


def test_a_version_in_another_spelling_is_told_the_right_one() -> None:
    registry = ModelRegistry()
    loaded(registry, 7)
    with pytest.raises(InvalidRequest, match="expected the version as 7, got '007'"):
        registry.resolve("m", "007")


def test_no_version_means_the_servers_choice() -> None:
    assert version_number("", model="m") is None
    assert version_number("12", model="m") == 12


def test_the_index_lists_every_version_and_models_without_any() -> None:
    registry = ModelRegistry()
    registry.declare("bad", reason="unreadable")
    registry.declare("new")
    loaded(registry, 2)
    registry.set_state(ModelVersion("m", 1), LOADING)
    assert registry.index() == [
        IndexEntry("bad", "", UNAVAILABLE, "unreadable"),
        IndexEntry("m", "1", LOADING, ""),
        IndexEntry("m", "2", READY, ""),
        IndexEntry("new", "", None, ""),
    ]
    assert registry.index(ready_only=True) == [IndexEntry("m", "2", READY, "")]


def test_the_served_versions_are_the_ready_ones_in_order() -> None:
    registry = ModelRegistry()
    later, second, first = loaded(registry, 1, "z"), loaded(registry, 2), loaded(registry, 1)
    registry.set_state(ModelVersion("a", 1), LOADING)
    assert list(registry.served()) == [first, second, later]
    assert registry.names() == ["a", "m", "z"]
