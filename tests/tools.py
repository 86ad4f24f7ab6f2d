"""Programs that tests drive: named where missing, required where the project's CI runs."""

import os
import shutil

import pytest


def require_tool(name: str) -> str:
    """The path of the program `name`. Skips the test without it; fails it when CI=true."""
    path = shutil.which(name)
    if path is not None:
        return path
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed, and CI=true requires it")
    pytest.skip(f"{name} is not installed")
