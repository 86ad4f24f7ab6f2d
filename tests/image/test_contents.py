"""What is in the built image, layer by layer and file by file, and what must not be."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import certifi
import pip
import pytest
from stoker import __version__

from scripts import pip_access
from scripts.image_layout import Image, budget, overruns
from tests.image.container import Container, Run, lines
from tests.image.search import find

USER: Final = 10001
WRITABLE: Final = {"tmp", "var/tmp", "var/cache/stoker", "run/lock", "var/lock"}
"""The folders that the image's user may write to; in a pod the root is read only besides."""

PRIVATE_KEYS: Final = {
    f"{kind}private key": f"-----BEGIN {kind}PRIVATE KEY-----\n{start}".encode()
    for kind, start in (
        *((kind, "MI") for kind in ("", "RSA ", "EC ", "ENCRYPTED ")),
        ("OPENSSH ", "b3BlbnNzaC1rZXk"),
        ("RSA ", "Proc-Type"),
    )
}
"""How a key begins. Libraries have the first line alone, to write keys."""

PUBLIC_ROOTS: Final = ("/grpc/_cython/_credentials/roots.pem", "/certifi/cacert.pem")
"""Certificates that locked wheels bring: grpcio's, and those of OTLP over HTTP."""

BYTE_CODE: Final = """
import importlib.util, pathlib, sys
for top in sys.argv[1:]:
    for source in pathlib.Path(top).rglob("*.py"):
        compiled = pathlib.Path(importlib.util.cache_from_source(str(source)))
        head = compiled.read_bytes()[:16] if compiled.exists() else b""
        if head[:4] != importlib.util.MAGIC_NUMBER:
            print(f"{source}: no byte code")
        elif int.from_bytes(head[4:8], "little") != 1:
            print(f"{source}: checked at run time")
        elif head[8:] != importlib.util.source_hash(source.read_bytes()):
            print(f"{source}: byte code of another source")
"""
"""Prints every module without byte code of an unchecked hash (PEP 552: flags 1) that is its own."""


def files(rootfs: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file and folder, links not followed."""
    for folder, names, others in os.walk(rootfs):
        for name in (*names, *others):
            path = Path(folder, name)
            yield path, path.lstat()


def run_in(image: Image, rootfs: Path, folder: Path, run: Run) -> str:
    """What a program of the image prints."""
    with Container(image.settings, run, rootfs, folder) as container:
        code = container.exit_code()
        assert code == 0, lines(container.log)
        return lines(container.log)


def test_no_layer_is_over_its_budget(image: Image) -> None:
    assert overruns(image.sizes(), budget(image.settings.variant)) == []


def test_the_cpu_variant_keeps_under_400_megabytes(image: Image) -> None:
    if image.settings.variant != "cpu":
        pytest.skip("the promise is of the CPU variant")
    assert sum(unpacked for unpacked, _ in image.sizes().values()) < 400e6


def test_nothing_of_the_build_machine_is_in_any_layer(image: Image) -> None:
    traces = pip_access.traces(pip_access.read(), (Path(certifi.where()).read_text(),))
    mounted = {"the mounted CA": pip_access.CA_SECRET[1:].encode(), "pip.conf": b"etc/pip.conf"}
    found = find(image, mounted | traces)
    assert [each for each in found if not each.endswith(PUBLIC_ROOTS)] == []


def test_no_layer_has_a_private_key(image: Image) -> None:
    assert find(image, PRIVATE_KEYS) == []


def test_no_installed_package_says_where_it_came_from(rootfs: Path) -> None:
    # pip writes this file for what it did not take from an index; it holds a path or an address.
    assert list(rootfs.glob("opt/stoker/lib/*/site-packages/*/direct_url.json")) == []


def test_no_program_changes_its_user(rootfs: Path) -> None:
    found = [path for path, each in files(rootfs) if stat.S_ISREG(each.st_mode)]
    assert [path for path in found if path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)] == []


def test_the_user_can_change_no_file_and_write_to_the_named_folders_only(rootfs: Path) -> None:
    def may_write(each: os.stat_result) -> bool:
        mine = each.st_mode & stat.S_IWUSR and each.st_uid == USER
        ours = each.st_mode & stat.S_IWGRP and each.st_gid == USER
        return bool(mine or ours or each.st_mode & stat.S_IWOTH)

    found = {
        str(path.relative_to(rootfs))
        for path, each in files(rootfs)
        if not stat.S_ISLNK(each.st_mode) and may_write(each)
    }
    assert found <= WRITABLE
    assert {"tmp", "var/cache/stoker"} <= found


def test_nothing_is_left_that_only_a_build_needs(rootfs: Path) -> None:
    programs = {
        path.name
        for each in ("bin", "usr/bin", "opt/stoker/bin")
        for path in (rootfs / each).iterdir()
    }
    assert [
        name for name in sorted(programs) if re.fullmatch(r"(pip|gcc|cc|curl|wget)[\d.]*", name)
    ] == []
    assert [
        str(path) for path, _ in files(rootfs) if path.name in ("pip", "ensurepip", ".cache")
    ] == []
    for empty in ("var/lib/apt/lists", "var/log", "tmp", "models", "root"):
        left = [path.name for path in (rootfs / empty).rglob("*") if path.is_file()]
        assert [name for name in left if name not in (".bashrc", ".profile")] == [], empty
    assert [each.name for each in (rootfs / "var/cache").iterdir()] == ["stoker"]


def test_every_installed_package_has_what_it_requires(
    image: Image, rootfs: Path, tmp_path: Path
) -> None:
    # The image has no pip: this machine's is mounted.
    run = Run(
        entry_point=("python", "-m", "pip"),
        arguments=("check",),
        environment={"PYTHONPATH": "/mnt", "PIP_NO_CACHE_DIR": "1"},
        mounts={"/mnt/pip": Path(pip.__file__).parent},
    )
    rootfs.joinpath("mnt/pip").mkdir(exist_ok=True)
    try:
        assert run_in(image, rootfs, tmp_path, run) == "No broken requirements found."
    finally:
        rootfs.joinpath("mnt/pip").rmdir()


def test_every_module_has_byte_code_that_is_not_checked_again(
    image: Image, rootfs: Path, tmp_path: Path
) -> None:
    tops = ("/opt/stoker/lib", "/usr/lib/python3.11")
    run = Run(entry_point=("python", "-c", BYTE_CODE), arguments=tops)
    assert run_in(image, rootfs, tmp_path, run) == ""
    assert len(list(rootfs.glob("opt/stoker/lib/**/*.pyc"))) > 1000


def test_the_labels_tell_what_was_built(image: Image) -> None:
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): each for name, each in image.settings.labels.items()}
    assert labels["version"] == __version__
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert re.match(r"\d{4}-\d\d-\d\dT", labels["created"])
    assert labels["base.name"].endswith("debian:bookworm-slim")
