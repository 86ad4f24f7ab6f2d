"""Which TensorRT is found: by libraries that a compiler makes, and by what this machine lacks."""

import shutil
import subprocess
from pathlib import Path

import pytest
from stoker.runtime.tensorrt_library import look, version_text

SOURCE = "int getInferLibVersion(void) { return %d; }"


@pytest.fixture
def compiler() -> str:
    found = shutil.which("gcc") or shutil.which("cc")
    if found is None:
        pytest.skip("no C compiler")
    return found


def library(folder: Path, name: str, compiler: str, version: int = 101601) -> None:
    source = folder / "source.c"
    source.write_text(SOURCE % version)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / name, source], check=True)


def test_a_machine_without_tensorrt_says_so_and_what_helps() -> None:
    found = look(())
    assert not found.version
    assert "libnvinfer.so.10, libnvonnxparser.so.10 could not be loaded" in found.problem
    assert "needs TensorRT 10; use an image with it" in found.problem


def test_the_version_comes_from_the_library_itself(tmp_path: Path, compiler: str) -> None:
    library(tmp_path, "libnvinfer.so.10", compiler)
    library(tmp_path, "libnvonnxparser.so.10", compiler)
    found = look((tmp_path,))
    assert found.version == "10.16.1"
    assert not found.problem


def test_another_major_is_named_with_the_one_that_is_needed(tmp_path: Path, compiler: str) -> None:
    library(tmp_path, "libnvinfer.so.11", compiler, 110400)
    found = look((tmp_path,))
    assert not found.version
    assert "libnvinfer.so.11 is there" in found.problem
    assert "needs TensorRT 10" in found.problem


def test_a_missing_parser_is_told_apart_from_a_missing_tensorrt(
    tmp_path: Path, compiler: str
) -> None:
    library(tmp_path, "libnvinfer.so.10", compiler)
    found = look((tmp_path,))
    assert not found.version
    assert found.problem.startswith("libnvonnxparser.so.10 could not be loaded")


@pytest.mark.parametrize(
    ("number", "text"), [(101601, "10.16.1"), (100000, "10.0.0"), (8601, "8.6.1")]
)
def test_a_version_number_reads_as_its_parts(number: int, text: str) -> None:
    assert version_text(number) == text
