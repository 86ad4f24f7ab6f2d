"""Dockerfile.gpu read as text: its pins, user, environment and layers. tests/image runs it."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, get_args

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from stoker import __version__
from stoker.runtime.placement import DeviceWish

from scripts.image_layout import OWN_LAYERS, budget
from scripts.lock_image import INTERPRETERS
from scripts.pip_access import CA_SECRET
from tests.contract.manifests import (
    ROOT,
    container,
    number,
    objects,
    pod,
    ports,
    text,
    volumes,
)

PIN: Final = re.compile(
    r"([a-z0-9-]+)==(\S+) \\\n"
    r"((?:    --hash=sha256:[0-9a-f]{64} \\\n)*    --hash=sha256:[0-9a-f]{64}\n)"
)
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: Final = PROJECT["project"]["optional-dependencies"]
VARIANTS: Final = ("gpu", "cpu")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a stage, continuation lines joined."""

    name: str
    arguments: str


def stages() -> dict[str, list[Instruction]]:
    """The instructions by stage; the last stage, the image, has no name and is ''."""
    lines = (ROOT / "Dockerfile.gpu").read_text().splitlines()
    joined = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", "")
    found: dict[str, list[Instruction]] = {}
    stage: list[Instruction] = []
    for line in filter(str.strip, joined.splitlines()):
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            arguments, _, stage_name = arguments.partition(" AS ")
            stage = found.setdefault(stage_name, [])
        stage.append(Instruction(name, " ".join(arguments.split())))
    return found


def defaults() -> dict[str, str]:
    """The build arguments above the first stage."""
    lines = (ROOT / "Dockerfile.gpu").read_text().partition("\nFROM ")[0].splitlines()
    found = (line.removeprefix("ARG ").partition("=") for line in lines if line[:4] == "ARG ")
    return {name: value for name, _, value in found}


def runs(stage: str) -> list[str]:
    return [each.arguments for each in stages()[stage] if each.name == "RUN"]


def commands(stage: str) -> list[list[str]]:
    """The words of every pip command of a stage."""
    found = (part.split() for each in runs(stage) for part in each.split("&&"))
    return [words for words in found if "pip" in words]


def of_image(name: str) -> list[str]:
    return [each.arguments for each in stages()[""] if each.name == name]


def pairs(name: str, stage: str = "") -> dict[str, str]:
    found = " ".join(each.arguments for each in stages()[stage] if each.name == name)
    return {key: value.strip('"') for key, value in re.findall(r'(\S+?)=(".*?"|\S+)', found)}


def pins(file: str) -> dict[str, str]:
    """Version by package; every line of the file must be a pin with its hash."""
    return {name: version for name, (version, _) in locked(file).items()}


def locked(file: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes by package."""
    lines = (ROOT / "docker" / file).read_text()
    body = "".join(line for line in lines.splitlines(keepends=True) if line[0] != "#")
    assert PIN.sub("", body) == "", f"docker/{file} has a line that is not a hashed pin"
    return {name: (version, hashes.count("--hash")) for name, version, hashes in PIN.findall(body)}


def missing(requirements: list[str], pinned: dict[str, str]) -> list[str]:
    """The requirements that no pin satisfies."""
    wanted = [Requirement(each) for each in requirements]
    return [
        str(each)
        for each in wanted
        if not each.specifier.contains(pinned.get(canonicalize_name(each.name), "0"))
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_dependency_is_pinned_to_a_version_that_the_project_allows(variant: str) -> None:
    wanted = PROJECT["project"]["dependencies"] + EXTRAS[variant] + EXTRAS["otel"]
    assert missing(wanted, pins(f"packages-{variant}.txt")) == []
    assert missing(PROJECT["build-system"]["requires"], pins("build.txt")) == []


def test_each_variant_has_one_onnx_runtime_and_it_is_the_tested_one() -> None:
    cpu, gpu = pins("packages-cpu.txt"), pins("packages-gpu.txt")
    assert "onnxruntime" not in gpu
    assert "onnxruntime-gpu" not in cpu
    assert missing(EXTRAS["cpu"], {"onnxruntime": gpu.pop("onnxruntime-gpu")}) == []
    cpu.pop("onnxruntime")
    gpu.pop("nvidia-ml-py")
    assert cpu == gpu, "the variants differ in nothing else"


def test_the_cuda_libraries_are_complete_and_a_layer_of_their_own() -> None:
    # What onnxruntime-gpu links or opens; cuBLAS is not in its `cuda` extra, only cuDNN brings it.
    assert set(pins("libraries-gpu.txt")) == {
        "nvidia-cublas",
        "nvidia-cuda-nvrtc",
        "nvidia-cuda-runtime",
        "nvidia-cudnn-cu13",
        "nvidia-cufft",
        "nvidia-curand",
        "nvidia-nvjitlink",
    }
    beside = {name for name in pins("packages-gpu.txt") if name.startswith("nvidia-")}
    assert beside == {"nvidia-ml-py"}  # a binding of some kilobytes, no library


@pytest.mark.parametrize("source", ["cpu", "base"])
def test_no_cuda_library_is_installed_where_none_is_used_or_the_base_has_them(source: str) -> None:
    assert pins(f"libraries-{source}.txt") == {}


def test_a_compiled_package_is_locked_for_each_interpreter_that_a_base_may_have() -> None:
    for name in ("onnxruntime-gpu", "numpy", "grpcio", "uvloop"):
        assert locked("packages-gpu.txt")[name][1] == len(INTERPRETERS), name


@pytest.mark.parametrize("stage", ["libraries", "packages", "code"])
def test_a_stage_installs_exactly_its_hashed_pins(stage: str) -> None:
    sources = {"code": "docker/build.txt /lock/"}
    variable = {"libraries": "LIBRARIES", "packages": "VARIANT"}.get(stage)
    source = f"docker/{stage}-${{{variable}}}.txt /lock/{stage}.txt"
    assert Instruction("COPY", sources.get(stage, source)) in stages()[stage]
    fetching, *others = commands(stage)
    file = "/lock/build.txt" if stage == "code" else f"/lock/{stage}.txt"
    assert {"--require-hashes", "--only-binary=:all:", f"--requirement={file}"} <= set(fetching)
    # Nothing else is fetched: what follows installs our own source.
    assert all("--no-index" in each for each in others)
    assert pairs("ENV", "builder")["PIP_NO_DEPS"] == "1"


def test_what_reaches_the_image_is_byte_compiled_at_build_time() -> None:
    for stage in ("libraries", "packages", "code"):
        *_, last = runs(stage)
        assert last.endswith(
            "&& /opt/stoker/bin/python -m compileall -q --invalidation-mode unchecked-hash"
            " /opt/stoker/lib"
        ), stage


def test_layers_are_ordered_from_the_rarely_to_the_often_changed() -> None:
    stages_copied = [
        re.fullmatch(r"--from=(\S+) /opt/stoker /opt/stoker", each) for each in of_image("COPY")
    ]
    assert [each and each[1] for each in stages_copied] == ["libraries", "packages", "code"]
    # What the image's stage begins with, what it copies, and what it runs.
    assert [each.arguments for each in stages()[""] if each.name == "FROM"] == ["interpreter"]
    assert OWN_LAYERS == ("interpreter", "libraries", "packages", "code", "verify")
    assert [json.loads(each) for each in of_image("RUN")] == [
        ["/opt/stoker/bin/python", "/opt/stoker/share/verify.py"]
    ]


def test_secrets_of_the_build_are_mounted_for_single_commands_and_copied_nowhere() -> None:
    text = (ROOT / "Dockerfile.gpu").read_text()
    mounts = re.findall(r"--mount=(\S+)", text)
    assert set(mounts) == {
        "type=secret,id=pip.conf,target=/etc/pip.conf",
        f"type=secret,id=ca.pem,target={CA_SECRET}",
    }
    for word in ("index-url", "trusted-host", "proxy", "password", "token", "://"):
        assert word not in text.lower(), word
    # A stage that is the image's own mounts nothing: a mount point would stay in a layer.
    assert "--mount" not in "".join(runs("interpreter") + runs(""))


def test_every_layer_has_a_budget_and_the_cpu_variant_keeps_its_promise() -> None:
    for variant in VARIANTS:
        allowed = budget(variant)
        assert set(allowed) == {"base", *OWN_LAYERS, "total", "pull"}
    assert budget("cpu")["total"] <= 400


def test_the_build_context_holds_what_is_copied_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        PurePosixPath(source).parts[0]
        for instructions in stages().values()
        for each in instructions
        if each.name == "COPY" and "--from=" not in each.arguments
        for source in each.arguments.split()[:-1]
    }
    assert "*" in lines
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_process_is_ours_alone_and_gets_the_signal() -> None:
    assert [json.loads(each) for each in of_image("ENTRYPOINT")] == [["stoker"]]
    assert [json.loads(each) for each in of_image("CMD")] == [["serve", "/models"]]
    assert of_image("STOPSIGNAL") == ["SIGTERM"]
    assert "stoker" in PROJECT["project"]["scripts"]


def verified(libraries: str) -> subprocess.CompletedProcess[str]:
    """What the image's last build step says of the environment of the tests."""
    command = [sys.executable, str(ROOT / "docker" / "verify.py")]
    variables = {**os.environ, "VARIANT": "cpu", "LIBRARIES": libraries}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_a_build_whose_libraries_are_all_here_names_what_it_has() -> None:
    done = verified("cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"stoker {__version__}, cpu: onnxruntime")


@pytest.mark.parametrize(
    ("libraries", "missing", "remedy"),
    [
        ("gpu", "libonnxruntime_providers_cuda.so", "docker/libraries-gpu.txt should bring them"),
        ("base", "libonnxruntime_providers_tensorrt.so", "CUDA 13, cuDNN 9 and TensorRT 10"),
    ],
)
def test_a_build_without_a_library_that_it_promises_fails_with_a_sentence(
    libraries: str, missing: str, remedy: str
) -> None:
    if "onnxruntime-gpu" in {each.name for each in importlib.metadata.distributions()}:
        pytest.skip("this environment has the libraries")
    done = verified(libraries)
    assert done.returncode == 1
    assert done.stdout.startswith("not in this image: ")
    assert missing in done.stdout
    assert remedy in done.stdout


def test_the_user_is_the_numeric_one_of_the_manifests() -> None:
    context = pod("base"), "spec", "securityContext"
    assert of_image("USER") == [f"{number(*context, 'runAsUser')}:{number(*context, 'runAsGroup')}"]


def test_the_environment_brings_the_driver_in_and_sends_nothing_out() -> None:
    environment = pairs("ENV")
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert environment["STOKER_DEVICE"] == "${VARIANT}"
    assert set(VARIANTS) <= set(get_args(DeviceWish))
    assert defaults()["VARIANT"] == "gpu"
    assert "NVIDIA_VISIBLE_DEVICES" not in environment
    assert "LD_LIBRARY_PATH" not in environment


def test_what_the_image_writes_to_is_writable_in_the_pod() -> None:
    scratch = {text(each, "name") for each in volumes("base", "emptyDir")}
    writable = [
        PurePosixPath(text(each, "mountPath"))
        for each in objects(container("base"), "volumeMounts")
        if text(each, "name") in scratch
    ]
    for variable in ("HOME", "XDG_CACHE_HOME", "CUDA_CACHE_PATH"):
        written = PurePosixPath(pairs("ENV")[variable])
        assert any(written.is_relative_to(each) for each in writable), variable


def test_the_image_names_the_version_of_the_package() -> None:
    assert pairs("ARG")["VERSION"] == __version__


def test_ports_of_the_image_are_those_of_the_manifests() -> None:
    assert of_image("EXPOSE") == [" ".join(str(each) for each in ports("base").values())]
