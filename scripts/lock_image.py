"""Writes the exact, hashed requirements of the GPU image: docker/build.txt, cuda.txt, packages.txt.

    ~/some-python3.12 -m venv /tmp/lock && /tmp/lock/bin/python scripts/lock_image.py

Run it with the image's Python (3.12) on x86_64 Linux, because pip resolves for the interpreter that
runs it; it refuses any other. pip reads metadata only; nothing is installed. One file per image
layer, the rarely changing ones first: the CUDA libraries (1.3 GB) are not pulled again when a
Python package moves. `tests/contract/test_image.py` holds the files against pyproject.toml.
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
IMAGE_PYTHON: Final = (3, 12)

TESTED: Final = ("protobuf>=6.33,<7",)
"""Narrower than pyproject.toml, so that the image runs what the tests run: tritonclient, which only
the tests need, keeps protobuf below 7."""


def resolve(requirements: list[str]) -> dict[str, tuple[str, str]]:
    """The wheels pip would install: name -> (version, sha256)."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        constraints = Path(folder, "tested.txt")
        constraints.write_text("\n".join(TESTED))
        command = [sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--only-binary=:all:", "--constraint", str(constraints)]
        subprocess.run([*command, "--report", str(report), *requirements], check=True)
        installs = json.loads(report.read_text())["install"]
    return {
        item["metadata"]["name"].lower().replace("_", "-"): (
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in installs
    }


def write(name: str, purpose: str, wheels: dict[str, tuple[str, str]]) -> None:
    """One requirements file in pip's hash-checking form."""
    lines = [f"# {purpose} Written by scripts/lock_image.py from pyproject.toml."]
    for package, (version, sha256) in sorted(wheels.items()):
        lines += [f"{package}=={version} \\", f"    --hash=sha256:{sha256}"]
    ROOT.joinpath("docker", name).write_text("\n".join(lines) + "\n")
    print(f"docker/{name}: {len(wheels)} packages")


def main() -> int:
    """Resolves pyproject.toml with the `gpu` extra and writes the three files."""
    here = (sys.version_info[:2], platform.system(), platform.machine())
    if here != (IMAGE_PYTHON, "Linux", "x86_64"):
        print(f"expected CPython {IMAGE_PYTHON} on x86_64 Linux, got {here}", file=sys.stderr)
        return 2
    settings = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text())
    project = settings["project"]
    wheels = resolve(project["dependencies"] + project["optional-dependencies"]["gpu"])
    cuda = {name: wheel for name, wheel in wheels.items() if name.startswith("nvidia-")}
    packages = {name: wheel for name, wheel in wheels.items() if name not in cuda}
    write("build.txt", "What builds our wheel.", resolve(settings["build-system"]["requires"]))
    write("cuda.txt", "The CUDA libraries, the image's first layer.", cuda)
    write("packages.txt", "The Python packages, the image's second layer.", packages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
