"""Builds the image without a daemon and without a registry: `make image`, as root on Debian.

    python -m scripts.build_image --variant cpu --output .image/cpu

debootstrap makes the base, as slim as Debian's own slim image; buildah builds Dockerfile.gpu on it
with chroot isolation, which works inside containers and virtual machines alike; the result is an
OCI image layout, which every registry client can push. This machine's way to packages (a mirror, a
private CA) is mounted for single commands of the build: see `pip_access`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from scripts import image_layout, pip_access

ROOT: Final = Path(__file__).resolve().parent.parent
BASE: Final = "localhost/debian:bookworm-slim"
SUITE: Final = "bookworm"
TOOLS: Final = ("buildah", "debootstrap")

SLIM: Final = """\
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
"""
"""What Debian's slim images tell dpkg to leave out; the licences stay."""


class Buildah:
    """buildah on a storage of its own. vfs copies every layer whole, and works everywhere."""

    def __init__(self, storage: Path, driver: str) -> None:
        self._command = ["buildah", "--storage-driver", driver]
        self._command += ["--root", str(storage / "layers"), "--runroot", str(storage / "run")]

    def run(self, *arguments: str | Path) -> None:
        """Runs one command. Raises CalledProcessError."""
        subprocess.run([*self._command, *map(str, arguments)], check=True)

    def ask(self, *arguments: str | Path) -> str:
        """What a command prints. Raises CalledProcessError."""
        done = subprocess.run(
            [*self._command, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Whether the storage holds an image of that name."""
        return image in self.ask("images", "--format", "{{.Name}}:{{.Tag}}").split()


def make_base(buildah: Buildah) -> None:
    """Makes Debian's smallest system, with its security updates, the image BASE."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        subprocess.run(["debootstrap", "--variant=minbase", SUITE, root], check=True)
        root.joinpath("etc/dpkg/dpkg.cfg.d/slim").write_text(SLIM)
        sources = root / "etc/apt/sources.list"
        mirror = sources.read_text().split()[1]
        sources.write_text(
            f"deb {mirror} {SUITE} main\n"
            f"deb {mirror} {SUITE}-updates main\n"
            f"deb {mirror}-security {SUITE}-security main\n"
        )
        for command in (["update"], ["upgrade", "--yes"], ["clean"]):
            subprocess.run(["chroot", root, "apt-get", "-qq", *command], check=True)
        _slim(root)
        container = buildah.ask("from", "scratch")
        buildah.run("add", "--quiet", container, root, "/")
        buildah.run("commit", "--quiet", "--rm", container, BASE)


def _slim(root: Path) -> None:
    for folder in ("var/lib/apt/lists", "var/cache", "var/log", "tmp", "dev"):
        for each in (root / folder).iterdir():
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
    for folder in ("man", "info", "locale"):
        shutil.rmtree(root / "usr/share" / folder, ignore_errors=True)
    for each in (root / "usr/share/doc").rglob("*"):
        if each.name != "copyright" and not each.is_dir():
            each.unlink()


def build(buildah: Buildah, variant: str, arguments: Sequence[str], output: Path) -> None:
    """Builds Dockerfile.gpu and writes the OCI layout `output`."""
    access = pip_access.read()
    if access.dropped:
        print(f"the build does without {', '.join(access.dropped)}: folders of this machine")
    name = f"localhost/stoker:{variant}"
    revision, moment = revision_of(ROOT)
    created = datetime.fromtimestamp(moment, UTC).isoformat()
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder, "pip.conf")
        conf.write_text(access.pip_conf())
        secrets = ["--secret", f"id=pip.conf,src={conf}"]
        if access.ca_bundle is not None:
            secrets += ["--secret", f"id=ca.pem,src={access.ca_bundle}"]
        settings = [f"VARIANT={variant}", f"REVISION={revision}", f"CREATED={created}", *arguments]
        buildah.run(
            *("bud", "--isolation", "chroot", "--network", "host", "--layers", "--format", "oci"),
            # A layer's name is its contents: with the same time in all, what did not change is not
            # pulled again.
            *("--timestamp", "0", "--identity-label=false", *secrets),
            *(word for each in settings for word in ("--build-arg", each)),
            *("--tag", name, "--file", ROOT / "Dockerfile.gpu", ROOT),
        )
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    buildah.run("push", "--quiet", name, f"oci:{output}:{name}")


def revision_of(root: Path) -> tuple[str, int]:
    """The commit that is checked out, `-dirty` with changes, and its time in epoch seconds."""
    git = ["git", "-C", str(root)]
    shown = subprocess.check_output([*git, "show", "-s", "--format=%H %ct"], text=True).split()
    changed = subprocess.check_output([*git, "status", "--porcelain"], text=True)
    return shown[0] + ("-dirty" if changed else ""), int(shown[1])


def main() -> int:
    """Builds one variant, prints its layers, and fails where one is over its budget."""
    parser = argparse.ArgumentParser(description="builds the image without a daemon")
    parser.add_argument("--variant", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--output", type=Path, required=True, help="folder of the OCI layout")
    parser.add_argument("--storage", type=Path, default=ROOT / ".image" / "storage")
    parser.add_argument("--storage-driver", default="vfs", help="overlay needs a tenth of the disk")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        print(f"expected root, and {' and '.join(TOOLS)} (Debian: apt install)", file=sys.stderr)
        return 2
    buildah = Buildah(options.storage, options.storage_driver)
    arguments: list[str] = options.build_arg
    try:
        if not any(each.startswith("BASE=") for each in arguments):
            if not buildah.has(BASE):
                make_base(buildah)
            arguments = [*arguments, f"BASE={BASE}"]
        build(buildah, options.variant, arguments, options.output)
    except subprocess.CalledProcessError as error:
        print(f"{error.cmd[0]} failed: its last lines say why", file=sys.stderr)
        return 1
    return image_layout.main(str(options.output))


if __name__ == "__main__":
    sys.exit(main())
