"""The measurements of `benchmarks/gpu.py`, on the CPU's memory: the steps run and are told."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.gpu import COPIED, QUESTIONS, Bench, Network, Table, answer, copies, levels, render
from tests.driver_stubs import CUDART, build
from tests.gpu import networks
from tests.gpu.cudart import Cudart
from tests.gpu.hardware import hardware

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow  # sessions by the dozen


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    cuda = Cudart(str(build(tmp_path, CUDART) / CUDART))
    small = (
        Network("launches", networks.launches(16, 4), (16,), (16,)),
        Network("increment", networks.increment(), (64,), (64,)),
    )
    return Bench("cpu", cuda, tmp_path, rounds=2, repeats=2, networks=small, rows=(1, 4))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda each: each.__name__)
def test_every_question_has_an_answer_in_each_cell(
    bench: Bench, question: Callable[[Bench], Table]
) -> None:
    title, names, rows = question(bench)

    assert title
    assert rows
    for row in rows:
        assert len(row) == len(names)
        assert all(row)


def test_each_network_is_measured_at_each_size_and_each_size_copied(bench: Bench) -> None:
    assert len(levels(bench)[2]) == 4
    assert len(copies(bench)[2]) == len(COPIED)


def test_a_question_that_fails_is_told_and_ends_nothing(bench: Bench) -> None:
    def broken(bench: Bench) -> Table:
        raise RuntimeError("a | b\nc")

    assert answer(broken, bench) == ("broken: failed", ("why",), [("RuntimeError: a \\| b c",)])
    assert answer(levels, bench)[0] == "Level 0 against level 1"


def test_the_file_tells_the_command_the_machine_and_the_tables() -> None:
    text = render("make", [("GPUs", "NVIDIA L4")], [("Copies", ("a", "b"), [("1", "2")])])

    assert "    make\n" in text
    assert "- GPUs: NVIDIA L4\n" in text
    assert "## Copies\n\n| a | b |\n|---|---|\n| 1 | 2 |\n" in text


def test_without_a_gpu_nothing_is_measured_and_the_reason_is_told(tmp_path: Path) -> None:
    if not hardware().absence:
        pytest.skip("there is a GPU")
    output = tmp_path / "bench.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--output", str(output)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert done.stderr == f"bench-gpu measured nothing: {hardware().absence}\n"
    assert not output.exists()
