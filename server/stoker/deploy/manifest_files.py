"""Where `stoker k8s lint` gets manifests from: files, folders, standard input, a kustomization.

A folder with a kustomization is rendered by `kubectl kustomize` (or `kustomize build`), because its
patches and generators say what will be applied; other folders are read file by file.
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TextIO

from stoker.deploy.manifest import EXPECTED, Manifest, UnreadableManifests, parse_manifests

STANDARD_INPUT: Final = "-"
KUSTOMIZATIONS: Final = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_SUFFIXES: Final = (".yaml", ".yml", ".json")
_RENDERERS: Final = (("kubectl", "kustomize"), ("kustomize", "build"))


def read_manifests(places: Sequence[str], stdin: TextIO) -> list[Manifest]:
    """All manifests of these files and folders; `-` is standard input.

    Raises UnreadableManifests with what was expected, also where there is no manifest at all: a
    renderer that failed in front of a pipe leaves nothing.
    """
    found: list[Manifest] = []
    for place in places:
        if place == STANDARD_INPUT:
            manifests = parse_manifests(_read(stdin), "standard input")
        elif Path(place).is_dir():
            manifests = _of_folder(Path(place))
        else:
            manifests = parse_manifests(_text(Path(place)), place)
        if not manifests:
            where = "standard input" if place == STANDARD_INPUT else place
            raise UnreadableManifests(f"{where}: {EXPECTED}, got none")
        found += manifests
    return found


def _of_folder(folder: Path) -> list[Manifest]:
    if any((folder / name).is_file() for name in KUSTOMIZATIONS):
        return parse_manifests(render(folder), f"{folder} rendered")
    below = sorted(each.parent for name in KUSTOMIZATIONS for each in folder.rglob(name))
    if below:
        # Patches and components are no manifests, and bases are not what is applied.
        raise UnreadableManifests(
            f"{folder}: {EXPECTED}, got a folder with kustomizations below it: name one, "
            f"{below[0]} say"
        )
    files = sorted(each for each in folder.rglob("*") if each.suffix in _SUFFIXES)
    return [found for each in files for found in parse_manifests(_text(each), str(each))]


def render(folder: Path) -> str:
    """What `kubectl kustomize` prints for a folder. Raises UnreadableManifests."""
    for program, command in _RENDERERS:
        path = shutil.which(program)
        if path is None:
            continue
        words = [path, command, str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise UnreadableManifests(f"{folder}: `{program} {command}` failed: {said}")
        return done.stdout
    raise UnreadableManifests(
        f"{folder}: {EXPECTED}, got a kustomization and neither kubectl nor kustomize to render "
        f"it; where there is one: kubectl kustomize {folder} | stoker k8s lint -"
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableManifests(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnreadableManifests(
            f"{path}: {EXPECTED}, got a file that is not UTF-8 text (byte {error.start})"
        ) from error


def _read(stdin: TextIO) -> str:
    try:
        return stdin.read()
    except UnicodeDecodeError as error:
        raise UnreadableManifests(
            f"standard input: {EXPECTED}, got what is not UTF-8 text (byte {error.start})"
        ) from error
