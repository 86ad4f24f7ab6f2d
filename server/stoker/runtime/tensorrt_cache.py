"""Built TensorRT engines on disk, shared by processes and pods that know nothing of each other.

An engine fits one model's bytes, one ONNX Runtime, one TensorRT, one kind of GPU and one set of
options; all of that is its key. Layout below the root, which is the setting --trt-cache-dir:

    <environment>/<key>/   manifest.json and the files that ONNX Runtime wrote; never changed again
    <environment>/timing/  what the builder measured of kernels, by GPU: makes later builds shorter
    <environment>/<key>...attempt-1 ...  who builds or loads, or died of it: `tensorrt_attempts.py`
    .building/<any name>/  where one process builds; nobody else looks at it

  1. A key's folder appears whole, by one rename, or not at all: readers need no lock.
  2. Of two that build the same engine, which attempts make rare, the first one to rename wins, and
     the other one serves from what it built.
  3. A folder whose files are not those of its manifest is no hit; where it can be, it is removed.
  4. A root that cannot be written to gives hits, and builds end in a folder of their own.
TensorRT trusts what it loads as it trusts a library: only the server may write below the root.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.runtime.model_files import file_digest
from stoker.runtime.tensorrt_attempts import Attempts
from stoker.telemetry.log import event

log = logging.getLogger(__name__)

MANIFEST: Final = "manifest.json"
_BUILDING: Final = ".building"
_TIMING: Final = "timing"
ABANDONED_S: Final = 24 * 3600.0
"""A folder in `.building` that nobody wrote to for so long belongs to a process that is gone."""

Proceed = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """All that an engine depends on."""

    model_digest: str
    onnxruntime: str
    tensorrt: str
    compute_capability: str
    """As `8.9`."""
    gpu_name: str
    options: Mapping[str, str]
    """Of the provider, without those that name a place on this machine."""
    files: Mapping[str, str]
    """Digests of what else the build reads, by a name for it: calibration table, plug-ins."""

    @property
    def environment(self) -> str:
        """The part of it that all models of a machine share, as the name of a folder."""
        words = (
            f"onnxruntime-{self.onnxruntime}",
            f"tensorrt-{self.tensorrt}",
            f"sm{self.compute_capability.replace('.', '')}",
            self.gpu_name.lower(),
        )
        return "_".join(re.sub(r"[^a-z0-9.-]+", "-", word).strip("-.") for word in words)

    @property
    def key(self) -> str:
        """The whole of it as 32 hexadecimal digits."""
        facts = [
            self.model_digest,
            self.onnxruntime,
            self.tensorrt,
            self.compute_capability,
            self.gpu_name,
            sorted(self.options.items()),
            sorted(self.files.items()),
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


class Building:
    """A folder in which one engine is built. Its owner publishes or discards it, once."""

    def __init__(self, path: Path, identity: EngineIdentity, home: Path | None) -> None:
        """`home`: the environment's folder; None: what is built here is not kept."""
        self.path = path
        self._identity = identity
        self._home = home

    @property
    def nbytes(self) -> int:
        """Bytes of the files so far."""
        return sum(each.stat().st_size for each in self._files())

    def publish(self) -> Path | None:
        """Makes the engine available to all. Gives its folder; None where it is not kept: the root
        cannot be written to, or another process was first."""
        if self._home is None:
            return None
        target = self._home / self._identity.key
        try:
            self._share_timing(self._home / _TIMING)
            _write_manifest(self.path, self._identity, self._files())
            for file in self.path.iterdir():
                _to_disk(file)
                _protect(file, 0o444)
            self.path.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                event(
                    log,
                    "engine_cache",
                    f"a TensorRT engine cannot be kept: {error.strerror}",
                    level=logging.WARNING,
                )
            return None
        _protect(target, 0o555)
        return target

    def discard(self) -> None:
        """Removes what was built, unless it was published."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(each for each in self.path.iterdir() if each.is_file())

    def _share_timing(self, folder: Path) -> None:
        for file in self.path.glob("*.timing"):
            folder.mkdir(exist_ok=True)
            private = folder / f".{uuid.uuid4().hex}"
            shutil.copyfile(file, private)
            private.replace(folder / file.name)


class EngineCache:
    """The folder of engines. Methods block on the disk; any thread may call them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, identity: EngineIdentity, proceed: Proceed = lambda: True) -> Path | None:
        """The folder of a whole engine, read through once; None where there is none.

        Raises InterruptedError when `proceed` says no.
        """
        folder = self.root / identity.environment / identity.key
        if not folder.is_dir():
            return None
        if _is_whole(folder, proceed):
            return folder
        event(
            log,
            "engine_cache",
            f"a damaged TensorRT engine is left out of use: {folder.name}",
            level=logging.WARNING,
        )
        self.remove(folder)
        return None

    def has(self, identity: EngineIdentity) -> bool:
        """Whether there is an engine, whole or not."""
        return (self.root / identity.environment / identity.key).is_dir()

    def builds(self, identity: EngineIdentity, *, is_shared: bool) -> Attempts:
        """The attempts to build an engine. Where it is not shared, this machine's own: nobody waits
        for what nobody else will get."""
        name = identity.key if is_shared else f"{identity.key}-on-{_machine()}"
        return Attempts(self.root / identity.environment, name)

    def loads(self, identity: EngineIdentity) -> Attempts:
        """This machine's attempts to load an engine."""
        name = f"{identity.key}-load-on-{_machine()}"
        return Attempts(self.root / identity.environment, name)

    def build(self, identity: EngineIdentity, *, keep: bool = True) -> Building:
        """A new folder to build in, with what is known of kernels of this GPU in it."""
        if keep:
            self.sweep()
            home = self.root / identity.environment
            try:
                home.mkdir(parents=True, exist_ok=True)
                place = self._private(identity.key)
            except OSError as error:
                event(
                    log,
                    "engine_cache",
                    f"the TensorRT cache cannot be written to ({error.strerror}): engines are "
                    "built for this process only",
                    level=logging.WARNING,
                )
            else:
                with contextlib.suppress(OSError):  # without them it only takes longer
                    for known in (home / _TIMING).glob("*.timing"):
                        shutil.copyfile(known, place / known.name)
                return Building(place, identity, home)
        return Building(Path(tempfile.mkdtemp(prefix="stoker-tensorrt-")), identity, None)

    def sweep(self, now: float | None = None) -> None:
        """Removes what processes that are gone left in `.building`."""
        oldest = (time.time() if now is None else now) - ABANDONED_S
        try:
            found = list((self.root / _BUILDING).iterdir())
        except OSError:
            return
        for each in found:
            with contextlib.suppress(OSError):  # another process removes it, or it is no folder
                if _newest(each) < oldest:
                    shutil.rmtree(each, ignore_errors=True)

    def _private(self, key: str) -> Path:
        place = self.root / _BUILDING / f"{key}-{uuid.uuid4().hex}"
        place.mkdir(parents=True)
        return place

    def remove(self, folder: Path) -> None:
        """Takes an engine away that is damaged or cannot be loaded, where that is possible."""
        away = self.root / _BUILDING / f"damaged-{uuid.uuid4().hex}"
        try:
            away.parent.mkdir(exist_ok=True)
            folder.chmod(0o755)
            folder.rename(away)
        except OSError:
            return
        shutil.rmtree(away, ignore_errors=True)


def _machine() -> str:
    """This machine, or pod, as part of a file's name, which clients may be told: not its own."""
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]


def folder_bytes(folder: Path) -> int:
    """Bytes of an engine's files."""
    return sum(each.stat().st_size for each in folder.iterdir() if each.is_file())


def _write_manifest(folder: Path, identity: EngineIdentity, files: list[Path]) -> None:
    described = {
        "model_digest": identity.model_digest,
        "onnxruntime": identity.onnxruntime,
        "tensorrt": identity.tensorrt,
        "compute_capability": identity.compute_capability,
        "gpu_name": identity.gpu_name,
        "options": dict(identity.options),
        "read": dict(identity.files),
        "files": {
            each.name: {"bytes": each.stat().st_size, "sha256": file_digest(each).hex()}
            for each in files
        },
    }
    (folder / MANIFEST).write_text(json.dumps(described, indent=1))


def _is_whole(folder: Path, proceed: Proceed) -> bool:
    try:
        described = json.loads((folder / MANIFEST).read_text())
        for name, facts in described["files"].items():
            file = folder / name
            if file.stat().st_size != facts["bytes"]:
                return False
            if file_digest(file, proceed=proceed).hex() != facts["sha256"]:
                return False
    except InterruptedError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _newest(folder: Path) -> float:
    """When anything in the folder was last written to, in seconds since the epoch."""
    return max(each.stat().st_mtime for each in (folder, *folder.iterdir()))


def _protect(path: Path, mode: int) -> None:
    """Nobody writes to what is published; file systems without modes have to be trusted."""
    with contextlib.suppress(OSError):
        path.chmod(mode)


def _to_disk(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
