"""The image in a container, as a node runs it: runc, the pod's user, a read-only root, no network.

What a pod adds to the image is taken from the rendered manifests. Left out: limits of CPU and
memory, and the seccomp profile. A container has a network of its own with the loopback alone, so
the image's ports are free and clients enter it with nsenter.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from stoker.deploy.manifest import at

from scripts.image_layout import Settings
from tests.contract import manifests
from tests.tools import require_tool

PATIENCE: Final = 120.0
"""Seconds after which waiting for a container is a failure."""

PROGRAM: Final = Path(sys.executable)


@dataclass(frozen=True, slots=True)
class Run:
    """What a runtime lays over the image's own settings."""

    arguments: tuple[str, ...] | None = None
    """In place of the image's command; None leaves it."""

    entry_point: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    scratch: tuple[str, ...] = ("/tmp", "/var/cache/stoker")
    """Empty writable folders, as `emptyDir` with the pod's fsGroup makes them."""

    mounts: Mapping[str, Path] = field(default_factory=dict)
    """Read only: folder in the container -> folder here."""


def of_pod(target: str, folder: Path) -> Run:
    """The container of a rendered manifest; its ConfigMap is written to `folder`."""
    container = manifests.container(target)
    places = {
        manifests.text(each, "name"): manifests.text(each, "mountPath")
        for each in manifests.objects(container, "volumeMounts")
    }
    for name, contents in manifests.config_map(target).items():
        path = folder / name
        path.write_text(contents)
        path.chmod(0o440)
        os.chown(path, 0, manifests.number(manifests.pod(target), *FS_GROUP))
    scratch = [manifests.text(each, "name") for each in manifests.volumes(target, "emptyDir")]
    arguments = at(container, "args")
    assert isinstance(arguments, list)
    return Run(
        arguments=tuple(str(each) for each in arguments),
        environment=manifests.environment(target),
        scratch=tuple(places[name] for name in scratch),
        mounts={
            places[manifests.text(each, "name")]: folder
            for each in manifests.volumes(target, "configMap")
        },
    )


FS_GROUP: Final = ("spec", "securityContext", "fsGroup")


def bundle(
    settings: Settings, run: Run, rootfs: Path, scratch: Mapping[str, Path]
) -> dict[str, object]:
    """The config.json of an OCI bundle; `scratch`: writable folder -> folder here.

    Source: OCI runtime-spec 1.0, "Configuration".
    """
    user, _, group = settings.user.partition(":")
    tail = settings.command if run.arguments is None else run.arguments
    head = settings.entry_point if run.entry_point is None else run.entry_point
    variables = {**settings.environment, **run.environment}
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": int(user), "gid": int(group)},
            "args": [*head, *tail],
            "env": [f"{name}={value}" for name, value in variables.items()],
            "cwd": settings.working_folder,
            "noNewPrivileges": True,
            "capabilities": {kind: [] for kind in kinds},
        },
        "root": {"path": str(rootfs), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=64k"],
            },
            *(
                {
                    "destination": place,
                    "type": "bind",
                    "source": str(source),
                    "options": ["rbind", access, "nosuid", "nodev"],
                }
                for access, places in (("rw", scratch), ("ro", run.mounts))
                for place, source in places.items()
            ),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"],
        },
    }


class Container:
    """A running container. Leaving the context kills it."""

    def __init__(self, settings: Settings, run: Run, rootfs: Path, folder: Path) -> None:
        self._settings = settings
        self._name = f"stoker-{os.getpid()}-{folder.name}"
        self._runc = [require_tool("runc"), "--root", str(folder / "runc")]
        self._pid_file = folder / "pid"
        self._scratch = {place: folder / place.replace("/", "_") for place in run.scratch}
        for here in self._scratch.values():
            # As the kubelet makes an emptyDir for a pod with an fsGroup.
            here.mkdir()
            os.chown(here, 0, int(settings.user.partition(":")[2]))
            here.chmod(0o2777)
        config = bundle(settings, run, rootfs, self._scratch)
        folder.joinpath("config.json").write_text(json.dumps(config))
        command = [*self._runc, "run", "--bundle", str(folder)]
        command += ["--pid-file", str(self._pid_file), self._name]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.log: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="container log", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def __enter__(self) -> "Container":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self.signal("KILL")
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()
        subprocess.run([*self._runc, "delete", "--force", self._name], check=False)

    def until(self, text: str) -> str:
        """The first line from here on that contains `text`. Fails the test if none comes."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                line = None
            assert line is not None, f"no line with {text!r} in:\n" + "\n".join(self.log)
            self.log.append(line)
            if text in line:
                return line

    def signal(self, name: str) -> None:
        """Sends a signal to the container's first process."""
        subprocess.run([*self._runc, "kill", self._name, name], check=True)

    def exit_code(self) -> int:
        """Waits for the container to end."""
        code = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self.log.append(line)
        return code

    def stop(self) -> int:
        """Sends the image's stop signal and gives the exit code."""
        self.signal(self._settings.stop_signal)
        return self.exit_code()

    def client(self, *command: str | Path) -> str:
        """What a program of this machine prints that runs in the container's network."""
        return _output(["nsenter", f"--net=/proc/{self._pid()}/ns/net", *map(str, command)])

    def written(self, place: str) -> list[Path]:
        """What the container has written to one of its writable folders."""
        return [each for each in self._scratch[place].rglob("*") if each.is_file()]

    def _pid(self) -> int:
        return int(self._pid_file.read_text())


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def lines(found: Iterable[object]) -> str:
    """One a line, for the message of a failing test."""
    return "\n".join(map(str, found))
