"""Documents name a test for every rule: each exists in the file that it is said to be in, and a
run of the tests in which one did not run fails."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.named_tests import DOCUMENTS, ROOT, Document

CONFTEST = """
from tests.named_tests import Ledger

def pytest_configure(config):
    config.pluginmanager.register(Ledger(["test_a.py::test_named", "test_b.py::test_other"]))
"""
PASSES = "def test_named(): pass\n"
SKIPS = "import pytest\n\ndef test_named(): pytest.skip()\n"
NOT_INSTALLED = "import pytest\n\ndef test_named(): pytest.skip('wrk is not installed')\n"
CASES = """
import pytest

@pytest.mark.parametrize("case", [1, 2])
def test_named(case):
    if case == 1:
        pytest.skip()
"""
BESIDE = "def test_beside(): pass\n"
OTHER = "def test_other(): pass\n"


def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {f"{file}::{each.name}" for each in tree.body if isinstance(each, ast.FunctionDef)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: each.path)
def test_every_test_that_is_named_exists(document: Document) -> None:
    known = {test for file in document.files.values() for test in functions(file)}
    named = [test for _, tests in document.rows() for test in tests]
    assert len(named) > 30
    assert set(named) <= known


def test_every_rule_of_http2_names_a_test() -> None:
    (document,) = [each for each in DOCUMENTS if each.path == "docs/http2.md"]
    assert [row for row, tests in document.rows() if not tests] == []


def ends(folder: Path, a: str, b: str, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a run of two small files of tests; `a` is to have `test_named`."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = .\n")
    (folder / "test_a.py").write_text(a)
    (folder / "test_b.py").write_text(b)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("a", "arguments"),
    [
        (PASSES, []),
        (CASES, []),
        (NOT_INSTALLED, []),
        (SKIPS + BESIDE, ["-k", "beside or other"]),
        (SKIPS + BESIDE, ["test_a.py::test_beside"]),
        (SKIPS, ["test_b.py"]),
        (SKIPS, ["--ignore", "test_a.py"]),
        (SKIPS, ["--collect-only"]),
    ],
)
def test_a_run_of_what_was_asked_for_passes(tmp_path: Path, a: str, arguments: list[str]) -> None:
    assert ends(tmp_path, a, OTHER, *arguments)[0] == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("a", "b", "arguments"),
    [
        (SKIPS, OTHER, []),
        (SKIPS, OTHER, ["test_a.py"]),
        (SKIPS, OTHER, ["test_a.py::test_named"]),
        (BESIDE, OTHER, ["test_a.py"]),
        ("", OTHER, []),
    ],
)
def test_a_run_in_which_a_named_test_did_not_run_fails(
    tmp_path: Path, a: str, b: str, arguments: list[str]
) -> None:
    code, said = ends(tmp_path, a, b, *arguments)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "test_a.py::test_named" in said


@pytest.mark.parametrize(
    ("a", "arguments", "code"),
    [
        (PASSES, [], pytest.ExitCode.OK),
        (SKIPS + BESIDE, ["-k", "beside or other"], pytest.ExitCode.OK),
        (SKIPS + BESIDE, ["test_a.py", "test_b.py"], pytest.ExitCode.TESTS_FAILED),
    ],
)
def test_a_run_in_several_processes_is_judged_as_one(
    tmp_path: Path, a: str, arguments: list[str], code: pytest.ExitCode
) -> None:
    xdist = ["-p", "xdist", "-n", "2", "--dist", "loadfile"]
    got, said = ends(tmp_path, a, OTHER, *xdist, *arguments)
    assert got == code
    assert ("test_a.py::test_named" in said) == (code != pytest.ExitCode.OK)
