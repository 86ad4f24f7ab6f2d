"""Dockerfile.gpu read as text: its pins, user, environment and layers. It is not built here."""

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from stoker import __version__

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

PIN: Final = re.compile(r"([a-z0-9-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}\n")
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())


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
            stage = found.setdefault(arguments.partition(" AS ")[2], [])
        stage.append(Instruction(name, " ".join(arguments.split())))
    return found


def of_image(name: str) -> list[str]:
    return [each.arguments for each in stages()[""] if each.name == name]


def pairs(name: str) -> dict[str, str]:
    found = " ".join(of_image(name))
    return {key: value.strip('"') for key, value in re.findall(r'(\S+?)=(".*?"|\S+)', found)}


def pins(file: str) -> dict[str, str]:
    """Version by package; every line of the file must be a pin with its hash."""
    lines = (ROOT / "docker" / file).read_text()
    body = "".join(line for line in lines.splitlines(keepends=True) if line[0] != "#")
    assert PIN.sub("", body) == "", f"docker/{file} has a line that is not a hashed pin"
    return dict(PIN.findall(body))


def missing(requirements: list[str], pinned: dict[str, str]) -> list[str]:
    """The requirements that no pin satisfies."""
    wanted = [Requirement(each) for each in requirements]
    return [
        str(each)
        for each in wanted
        if not each.specifier.contains(pinned.get(canonicalize_name(each.name), "0"))
    ]


def test_every_dependency_is_pinned_to_a_version_that_the_project_allows() -> None:
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["gpu"]
    assert missing(wanted, pins("packages.txt")) == []
    assert missing(PROJECT["build-system"]["requires"], pins("build.txt")) == []


def test_the_image_has_one_onnx_runtime_and_it_is_the_tested_one() -> None:
    packages = pins("packages.txt")
    assert "onnxruntime" not in packages
    cpu = PROJECT["project"]["optional-dependencies"]["cpu"]
    assert missing(cpu, {"onnxruntime": packages["onnxruntime-gpu"]}) == []


def test_the_cuda_libraries_are_complete_and_a_layer_of_their_own() -> None:
    # What onnxruntime-gpu links or opens; cuBLAS is not in its `cuda` extra, only cuDNN brings it.
    assert set(pins("cuda.txt")) == {
        "nvidia-cublas",
        "nvidia-cuda-nvrtc",
        "nvidia-cuda-runtime",
        "nvidia-cudnn-cu13",
        "nvidia-cufft",
        "nvidia-curand",
        "nvidia-nvjitlink",
    }
    assert not [name for name in pins("packages.txt") if name.startswith("nvidia-")]


@pytest.mark.parametrize("stage", ["cuda", "packages", "code"])
def test_a_stage_installs_exactly_its_hashed_pins(stage: str) -> None:
    file = {"code": "build"}.get(stage, stage) + ".txt"
    instructions = stages()[stage]
    assert Instruction("COPY", f"docker/{file} /lock/") in instructions
    commands = [json.loads(each.arguments) for each in instructions if each.name == "RUN"]
    assert {"--require-hashes", "--no-deps", f"--requirement=/lock/{file}"} <= set(commands[0])
    # Nothing else is fetched: what follows installs our own source, without its dependencies.
    assert all({"--no-deps", "--no-build-isolation"} <= set(each) for each in commands[1:])
    assert any("--prefix=/layer" in each for each in commands)


def test_layers_are_ordered_from_the_rarely_to_the_often_changed() -> None:
    copies = [each for each in of_image("COPY") if "--from=" in each]
    assert copies == [
        f"--link --from={stage} /layer /usr/local" for stage in ("cuda", "packages", "code")
    ]


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


def test_the_user_is_the_numeric_one_of_the_manifests() -> None:
    context = pod("base"), "spec", "securityContext"
    assert of_image("USER") == [f"{number(*context, 'runAsUser')}:{number(*context, 'runAsGroup')}"]


def test_the_environment_brings_the_driver_in_and_sends_nothing_out() -> None:
    environment = pairs("ENV")
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert environment["STOKER_DEVICE"] == "gpu"
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


def test_the_image_names_the_version_and_the_ports_of_the_rest() -> None:
    assert pairs("ARG")["VERSION"] == __version__
    assert of_image("EXPOSE") == [" ".join(str(each) for each in ports("base").values())]
