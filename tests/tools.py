"""Programs that tests drive: named where missing, required where the project's CI runs."""

import os
import shutil
import subprocess
from typing import Final

import pytest

PATIENCE: Final = 60.0
"""Seconds that a command may take."""

NOT_INSTALLED: Final = "is not installed"


def require_tool(name: str) -> str:
    """The path of the program `name`. Skips the test without it; fails it when CI=true."""
    path = shutil.which(name)
    if path is not None:
        return path
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} {NOT_INSTALLED}, and CI=true requires it")
    pytest.skip(f"{name} {NOT_INSTALLED}")


def output_of(*command: str) -> str:
    """What a command prints. Fails the test unless it ends well."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
