"""A tool that is missing skips a test on a desk and fails it where CI=true."""

import pytest

from tests.tools import require_tool

MISSING = "stoker-no-such-tool"


def test_a_tool_that_is_there_gives_its_path() -> None:
    assert require_tool("sh").endswith("/sh")


def test_a_missing_tool_skips_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=MISSING):
        require_tool(MISSING)


def test_a_missing_tool_fails_with_its_name_when_ci_is_true(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=MISSING):
        require_tool(MISSING)
