"""Writes the exact, hashed requirements of the image into docker/.

    ~/some-python3.11 -m venv /tmp/lock && /tmp/lock/bin/python scripts/lock_image.py

| file | holds |
|---|---|
| `build.txt` | what builds our wheel; not in the image |
| `libraries-gpu.txt` | the CUDA libraries: their own layer is not pulled again with the packages |
| `libraries-cpu.txt`, `libraries-base.txt` | nothing: there are none, or the base has them |
| `packages-gpu.txt`, `packages-cpu.txt` | the Python packages of each variant |

Run it with the image's Python (3.11) on x86_64 Linux, because pip resolves for the interpreter that
runs it; it refuses any other. Each pin carries the hashes of the wheels for every interpreter of
INTERPRETERS, so that a base image with another one installs the same versions. pip reads metadata
only; nothing is installed. `tests/contract/test_image.py` holds the files against pyproject.toml.
"""

import json
import platform
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
IMAGE_PYTHON: Final = (3, 11)
"""Debian 12's."""

INTERPRETERS: Final = ("3.11", "3.12")
"""Debian 12's and, for TensorRT images as a base, Ubuntu 24.04's."""

TESTED: Final = ("protobuf>=6.33,<7",)
"""Narrower than pyproject.toml, so that the image runs what the tests run: tritonclient, which only
the tests need, keeps protobuf below 7."""

Pins = dict[str, tuple[str, set[str]]]
"""Version and sha256 hashes by normalised name."""


def resolve(requirements: list[str], *options: str) -> Pins:
    """The wheels that pip would install, for this interpreter unless `options` say otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        constraints = Path(folder, "tested.txt")
        constraints.write_text("\n".join(TESTED))
        command = [sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--only-binary=:all:", "--constraint", str(constraints)]
        # pip wants a target with another interpreter's version; a dry run writes nothing there.
        command += ["--target", folder, *options]
        subprocess.run([*command, "--report", str(report), *requirements], check=True)
        installs = json.loads(report.read_text())["install"]
    return {
        item["metadata"]["name"].lower().replace("_", "-"): (
            item["metadata"]["version"],
            {item["download_info"]["archive_info"]["hashes"]["sha256"]},
        )
        for item in installs
    }


def lock(requirements: list[str]) -> Pins:
    """What this interpreter needs, with the hashes of the same versions for every interpreter.

    The wheels of another interpreter are looked up version by version: pip evaluates markers for
    the one that runs it, so a dependency that only the other has is not found.
    """
    pins = resolve(requirements)
    exact = [f"{name}=={version}" for name, (version, _) in pins.items()]
    for interpreter in INTERPRETERS:
        others = resolve(exact, "--no-deps", "--python-version", interpreter)
        for name, (_, hashes) in others.items():
            pins[name][1].update(hashes)
    return pins


def write(name: str, purpose: str, pins: Pins) -> None:
    """One requirements file in pip's hash-checking form."""
    lines = [f"# {purpose} Written by scripts/lock_image.py."]
    for package, (version, hashes) in sorted(pins.items()):
        first, *rest = (f"    --hash=sha256:{each}" for each in sorted(hashes))
        lines += [f"{package}=={version} \\", *(f"{line} \\" for line in (first, *rest))]
        lines[-1] = lines[-1].removesuffix(" \\")
    ROOT.joinpath("docker", name).write_text("\n".join(lines) + "\n")
    print(f"docker/{name}: {len(pins)} packages")


def main() -> int:
    """Resolves pyproject.toml with the extras `gpu` or `cpu`, and `otel`, and writes the files."""
    here = (sys.version_info[:2], platform.system(), platform.machine())
    if here != (IMAGE_PYTHON, "Linux", "x86_64"):
        print(f"expected CPython {IMAGE_PYTHON} on x86_64 Linux, got {here}", file=sys.stderr)
        return 2
    settings = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text())
    project = settings["project"]
    extras = project["optional-dependencies"]
    both = project["dependencies"] + extras["otel"]
    gpu = lock(both + extras["gpu"])
    # nvidia-ml-py is a binding of some kilobytes, which moves with the packages.
    libraries = {
        name: pin
        for name, pin in gpu.items()
        if name.startswith("nvidia-") and name != "nvidia-ml-py"
    }
    packages = {name: pin for name, pin in gpu.items() if name not in libraries}
    cpu = lock(both + extras["cpu"])
    write("build.txt", "What builds our wheel.", lock(settings["build-system"]["requires"]))
    write("libraries-gpu.txt", "The CUDA libraries.", libraries)
    write("libraries-cpu.txt", "No libraries: this variant has no GPU.", {})
    write("libraries-base.txt", "No libraries: the base image brings CUDA, cuDNN, TensorRT.", {})
    write("packages-gpu.txt", "The Python packages of the GPU variant.", packages)
    write("packages-cpu.txt", "The Python packages of the CPU variant.", cpu)
    return 0


if __name__ == "__main__":
    sys.exit(main())
