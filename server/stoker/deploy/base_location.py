"""Where an overlay finds base/ and components/: beside it, in a copy of its own, or elsewhere.

`stoker k8s init` takes, in this order: what --base names, a path or a URL; the checkout that the
output folder lies in; the manifests that the package carries, copied beside the overlay, so that
who has installed Stoker by pip needs no checkout and the folder can be committed as it is.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PACKAGED: Final = Path(__file__).parent / "manifests"
"""k8s/ in an installed package. Source: pyproject.toml, force-include."""
CHECKOUT: Final = Path(__file__).resolve().parents[3] / "k8s"
"""k8s/ of the checkout that this package is run from."""
COPY: Final = "stoker"
"""The folder, in the overlay's, of a copy."""


class NoBase(Exception):
    """No base where one was looked for: one line."""


@dataclass(frozen=True, slots=True)
class BaseLocation:
    """A base, as a kustomization names it."""

    prefix: str
    """What stands before `base` and `components/NAME`."""
    suffix: str
    """What stands behind: the query of a URL."""
    folder: Path
    """Where its files can be read; for a URL those of this version's package."""
    is_copied: bool
    """Whether `folder` has to be copied beside the overlay."""
    origin: str

    def entry(self, name: str) -> str:
        """An entry of `resources` or `components`."""
        return f"{self.prefix}{name}{self.suffix}"

    def has(self, component: str) -> bool:
        """Whether there is such a component."""
        return (self.folder / "components" / component / "kustomization.yaml").is_file()


def find_base(output: Path, given: str) -> BaseLocation:
    """The base of an overlay that will be written to `output`. Raises NoBase."""
    if "://" in given or given.startswith("git@"):
        address, mark, query = given.partition("?")
        prefix = f"{address.rstrip('/')}/"
        return BaseLocation(prefix, mark + query, _own(), False, f"the base of {given}")
    if given:
        folder = Path(given).resolve()
        if not _is_base(folder):
            raise NoBase(f"--base: expected a folder with base/kustomization.yaml, got {given}")
        return _beside(output, folder, "the base that --base names")
    for above in output.resolve().parents:
        for folder in (above, above / "k8s"):
            if _is_base(folder):
                return _beside(output, folder, "the base of this checkout")
    return BaseLocation(f"{COPY}/", "", _own(), True, "a copy of this version's base")


def copy_base(location: BaseLocation, output: Path) -> None:
    """Puts base and components beside the overlay, in place of an older copy."""
    for name in ("base", "components"):
        target = output / COPY / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(location.folder / name, target)


def _own() -> Path:
    for folder in (PACKAGED, CHECKOUT):
        if _is_base(folder):
            return folder
    raise NoBase("this installation has no manifests; --base names a folder or URL that has")


def _beside(output: Path, folder: Path, origin: str) -> BaseLocation:
    relative = Path(os.path.relpath(folder, output.resolve())).as_posix()
    return BaseLocation(f"{relative}/", "", folder, False, origin)


def _is_base(folder: Path) -> bool:
    return (folder / "base" / "kustomization.yaml").is_file() and (folder / "components").is_dir()
