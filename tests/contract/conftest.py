"""Manifests that the selected tests need are rendered side by side before the first of them."""

import pytest

from tests.contract import manifests
from tests.tools import require_tool
from tests.workers import shared_folder


@pytest.fixture(scope="session")
def _rendered(request: pytest.FixtureRequest) -> None:
    require_tool("kubectl")
    manifests.share(shared_folder(request.config))
    parameters = [getattr(item, "callspec", None) for item in request.session.items]
    named = [each.params.get("target") for each in parameters if each is not None]
    manifests.prefetch(dict.fromkeys(each for each in named if isinstance(each, str)))


@pytest.fixture
def target(request: pytest.FixtureRequest, _rendered: None) -> str:
    """What to render; tests are parametrised by it."""
    value: object = request.param
    assert isinstance(value, str)
    return value
