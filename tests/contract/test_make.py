"""The commands of a newcomer: `make`, the environment behind it, and the call that it shows.

The environment's script runs in a folder of its own with an interpreter that only writes down what
it was asked, so that nothing is installed.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import Serving
from tests.tools import require_tool

ROOT: Final = Path(__file__).resolve().parents[2]
TARGETS: Final = (
    *("help", "serve", "test", "test-stub", "test-rollout", "test-manifests", "test-monitoring"),
    *("check", "protos", "dashboard", "dashboard-picture", "bench", "bench-autoscaling", "load"),
    *("image", "image-test", "test-gpu", "bench-gpu"),
)

RECORDER: Final = """\
#!/bin/sh
# Answers as Python $VERSION and writes down what it is asked to run.
case "$*" in
    *version_info*:2*) echo "$VERSION" ;;
    *version_info*) [ "$VERSION" != 3.10 ] ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "$*" >>asked ;;
    "-m "*) echo "$*" >>asked ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder with the script, a pyproject.toml and the recording interpreter."""

    folder: Path

    def prepare(
        self, *arguments: str, version: str = "3.12", onnxruntime: str = "cpu", **more: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHON": f"{self.folder}/missing {self.folder}/python",
            "VERSION": version,
            "ONNXRUNTIME": onnxruntime,
            **more,
        }
        script = self.folder / "scripts" / "environment"
        return subprocess.run(
            [script, *arguments], env=environment, capture_output=True, text=True, check=False
        )

    def asked(self) -> list[str]:
        """What was run since the last look: the folder of `-m venv`, what `-m pip` installs and
        the folder of `-m compileall`."""
        file = self.folder / "asked"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [line.rpartition(" ")[2] for line in lines]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "environment", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    python = tmp_path / "python"
    python.write_text(RECORDER)
    python.chmod(0o755)
    return Checkout(tmp_path)


def make(*arguments: str) -> str:
    command = [require_tool("make"), "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_help_lists_every_target() -> None:
    assert tuple(re.findall(r"^  make ([\w-]+) +\S", make(), re.MULTILINE)) == TARGETS


def test_tests_run_after_linters_and_types_even_in_a_parallel_make() -> None:
    ran = [line.split()[0] for line in make("--dry-run", "-j8", "test").splitlines()]
    assert ran == [
        "scripts/environment",
        *(f".venv/bin/{name}" for name in ("ruff", "ruff", "mypy", "pytest")),
    ]


def test_every_contract_of_the_manifests_is_run_by_a_target_for_them() -> None:
    ran = make("--dry-run", "test-manifests") + make("--dry-run", "test-monitoring")
    reads = re.compile(
        r"^from tests\.contract(\.manifests import| import .*manifests)", re.MULTILINE
    )
    files = [
        each for each in Path(__file__).parent.glob("test_*.py") if reads.search(each.read_text())
    ]
    of_the_image = "test_image.py"
    assert len(files) > 15
    assert [each.name for each in files if each.name not in ran] == [of_the_image]


def test_an_environment_is_made_once_and_again_when_the_project_changes(checkout: Checkout) -> None:
    checkout.prepare("dev")
    assert checkout.asked() == [".venv", "pip", ".[cpu,dev]", ".venv/lib"]
    checkout.prepare("dev")
    checkout.prepare()
    assert checkout.asked() == []
    with (checkout.folder / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    checkout.prepare()
    assert checkout.asked() == ["pip", ".[cpu]", ".venv/lib"]
    checkout.prepare("dev")
    assert checkout.asked() == ["pip", ".[cpu,dev]", ".venv/lib"]


def test_the_other_onnx_runtime_gets_a_new_environment(checkout: Checkout) -> None:
    checkout.prepare(onnxruntime="cpu")
    checkout.prepare(onnxruntime="gpu")
    assert checkout.asked() == [
        *(".venv", "pip", ".[cpu]", ".venv/lib"),
        *(".venv", "pip", ".[gpu]", ".venv/lib"),
    ]


def test_the_gpu_package_for_tests_leaves_the_environment_alone(checkout: Checkout) -> None:
    checkout.prepare("dev")
    checkout.asked()
    checkout.prepare("dev", onnxruntime="gpu", VENV=".venv-gpu")
    assert checkout.asked() == [".venv-gpu", "pip", ".[gpu,dev]", ".venv-gpu/lib"]
    checkout.prepare("dev")
    checkout.prepare("dev", onnxruntime="gpu", VENV=".venv-gpu")
    assert checkout.asked() == []


def test_an_environment_that_was_moved_is_made_anew(checkout: Checkout, tmp_path: Path) -> None:
    checkout.prepare()
    checkout.asked()
    moved = checkout.folder.rename(tmp_path.with_name("moved"))
    Checkout(moved).prepare()
    assert Checkout(moved).asked() == [".venv", "pip", ".[cpu]", ".venv/lib"]


def test_an_old_python_is_told_with_its_version(checkout: Checkout) -> None:
    done = checkout.prepare(version="3.10")
    assert done.returncode == 1
    assert "3.11 or newer" in done.stderr
    assert "python is 3.10" in done.stderr
    assert checkout.asked() == []


def test_the_call_that_make_serve_shows_classifies_a_real_digit(serve: Serving) -> None:
    server = serve()
    shown = make("--dry-run", "serve", f"STOKER_HTTP_PORT={server.at.http_port}")
    call = shlex.split(re.findall(r"^ *\"? *(curl .*?)\"", shown, re.MULTILINE)[0])
    call[0] = require_tool(call[0])
    answer = subprocess.run(call, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    outputs = {each["name"]: each["data"] for each in json.loads(answer)["outputs"]}
    assert f"digit-{outputs['digit'][0]}.json" in call[-1]


@pytest.mark.parametrize(
    ("words", "host"),
    [
        ((), "localhost"),
        (("STOKER_HOST=0.0.0.0",), "localhost"),
        (("STOKER_HOST=10.0.0.1",), "10.0.0.1"),
        (("STOKER_HOST=::",), "[::1]"),
        (("ARGS=--host ::",), "[::1]"),
        (("ARGS=my/models --host=fd00::7", "STOKER_HOST=::"), "[fd00::7]"),
    ],
    ids=str,
)
def test_make_serve_shows_addresses_that_a_client_can_use(
    words: tuple[str, ...], host: str
) -> None:
    shown = make("--dry-run", "serve", *words)
    assert f"http://{host}:8000/v2/models/digits/infer" in shown
    assert f'"gRPC     {host}:8001"' in shown
    assert f'"metrics  http://{host}:8002/metrics,' in shown


@pytest.mark.parametrize("script", [".ci/run", "scripts/ci-packages", "scripts/environment"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    shell = path.read_text().splitlines()[0].rpartition("/")[2].rpartition(" ")[2]
    subprocess.run([require_tool(shell), "-n", path], check=True)
