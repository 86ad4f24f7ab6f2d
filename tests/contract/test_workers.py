"""Tests in processes side by side: what they share, and a test that measures is alone."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

from tests.calls import wait_until
from tests.named_tests import ROOT
from tests.tools import output_of, require_tool
from tests.workers import turn

CONFTEST = """
from tests.workers import Workers

def pytest_configure(config):
    config.pluginmanager.register(Workers())
    config.addinivalue_line("markers", "alone")
"""
TESTS = """
import pytest
from tests.contract.test_workers import is_free
from tests.workers import shared_folder

def test_beside(request):
    assert is_free(shared_folder(request.config) / "room")

@pytest.mark.alone
def test_alone(request):
    assert not is_free(shared_folder(request.config) / "room")
"""


def is_free(file: Path) -> bool:
    """Whether one more process may hold it together with those that do."""
    with file.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_marked_test_has_the_machine_for_itself(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in "ab":
        (tmp_path / f"test_{name}.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "2", "--dist", "loadfile"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert " 4 passed" in done.stdout, done.stdout


def test_who_waits_to_be_alone_is_not_passed_by(tmp_path: Path) -> None:
    came: list[bool] = []

    def measure() -> None:
        with turn(tmp_path, is_alone=True):
            came.append(is_free(tmp_path / "room"))

    waiting = threading.Thread(target=measure)
    with turn(tmp_path, is_alone=False), turn(tmp_path, is_alone=False):
        waiting.start()
        wait_until(lambda: not is_free(tmp_path / "door"), "the lone one to stand at the door")
        assert is_free(tmp_path / "room")
        assert came == []
    waiting.join()
    assert came == [False]


def test_a_target_is_rendered_once_for_all_processes(tmp_path: Path) -> None:
    require_tool("kubectl")
    program = (
        "import json, pathlib, sys; from tests.contract import manifests; "
        "manifests.share(pathlib.Path(sys.argv[1])); print(json.dumps(manifests.render('base')))"
    )

    def rendered() -> str:
        return output_of(sys.executable, "-c", program, str(tmp_path))

    first = rendered()
    assert "Deployment" in first
    (kept,) = [each for each in tmp_path.iterdir() if each.suffix != ".lock"]
    kept.write_text("[]")
    assert rendered() == "[]\n"
