"""The report of the checks on hardware: what it says of each, and that a run writes it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.report import Check, render

ROOT = Path(__file__).parents[2]
FACTS = (("GPUs", "NVIDIA L4"), ("ONNX Runtime", "onnxruntime-gpu 1.31.1"))

TESTS = """
import pytest

def test_a_number_is_kept(record_property):
    record_property("GB/s", 12.3456)

def test_a_skip_says_why():
    pytest.skip("needs two GPUs")

def test_a_failure_says_what():
    assert 1 == 2, "one is not two"

@pytest.fixture
def broken():
    raise ValueError("no set-up")

def test_a_set_up_that_fails_is_a_failure(broken):
    pass
"""


CRASHES = """
import os

def test_a_check_before():
    pass

def test_b_that_ends_its_process():
    os._exit(70)
"""


def run(folder: Path, report: Path) -> "subprocess.CompletedProcess[str]":
    """pytest with the plugin, in a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.gpu.report", "--gpu-report", report, "."],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "server")])},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_report_counts_and_names_each_check() -> None:
    text = render(
        FACTS,
        [
            Check("test_a_copy_is_fast", "passed", 1.25, numbers={"GB/s": 12.3456, "ways": 2}),
            Check("test_two", "skipped", 0.0, "needs two GPUs"),
            Check("test_three", "failed", 0.0, "a | b\nc"),
        ],
    )

    assert "1 passed, 1 failed, 1 skipped." in text
    assert "- GPUs: NVIDIA L4" in text
    assert "| a copy is fast | passed | 1.2 | GB/s 12.35; ways 2 |" in text
    assert "| two | skipped | 0.0 | needs two GPUs |" in text
    assert "| three | failed | 0.0 | a \\| b c |" in text


def test_a_report_in_which_nothing_ran_says_so() -> None:
    assert "**nothing ran on a GPU**" in render(FACTS, [Check("test_a", "skipped", 0.0, "no GPU")])
    assert "nothing ran" not in render(FACTS, [Check("test_a", "failed", 0.0, "wrong")])


@pytest.mark.slow
def test_a_run_writes_both_files(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    path = tmp_path / "made" / "report"
    done = run(tmp_path, path)

    assert f"Report: {path}.md" in done.stdout
    written = json.loads(path.with_suffix(".json").read_text())
    assert {"commit", "GPUs", "ONNX Runtime"} <= set(written["machine"])
    checks = {check["name"]: check for check in written["checks"]}
    assert checks["test_a_number_is_kept"]["numbers"] == {"GB/s": 12.3456}
    assert checks["test_a_skip_says_why"]["reason"] == "needs two GPUs"
    assert "one is not two" in checks["test_a_failure_says_what"]["reason"]
    assert checks["test_a_set_up_that_fails_is_a_failure"]["outcome"] == "failed"
    assert "1 passed, 2 failed, 1 skipped." in path.with_suffix(".md").read_text()


@pytest.mark.slow
def test_the_report_of_a_run_that_crashes_has_what_came_before(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(CRASHES)

    done = run(tmp_path, tmp_path / "report")

    assert done.returncode == 70
    assert "| a check before | passed |" in (tmp_path / "report.md").read_text()
