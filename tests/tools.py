"""Programs that tests drive: named where missing, required where the project's CI runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

PATIENCE: Final = 60.0
"""Seconds that a command may take."""

NOT_INSTALLED: Final = "is not installed"

_PLACES: Final = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
"""The extra `dev` brings programs too (kubectl), whose versions are known."""


def require_tool(name: str) -> str:
    """The path of the program `name`, that of the tests' own environment before the machine's.
    Skips the test without it; fails it when CI=true."""
    path = shutil.which(name, path=_PLACES)
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
