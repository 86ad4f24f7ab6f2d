"""A process as another one can know it: whether it is still there, told from where it is seen.

A PID alone says nothing: it is used again, and counts in its name space and on its machine only.
Source: proc(5), `/proc/PID/stat`; pid_namespaces(7).
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Builder:
    """A process, so that another one can tell whether it is still there."""

    host: str
    boot: str
    """The kernel's id of this run of the machine."""
    pids: str
    """The name space in which `pid` counts."""
    pid: int
    started: str
    """When the process started, in the kernel's ticks: a PID is used again."""
    began: str = ""
    """When the attempt did, in UTC."""

    def is_gone(self, here: "Builder", root: Path = Path("/proc")) -> bool | None:
        """Whether the process is gone, for a process that is `here`; None: cannot be seen."""
        if not self.boot or not self.pids:  # a sandbox need not tell, and every one has a PID 1
            return None
        if (self.boot, self.pids) != (here.boot, here.pids):
            return None
        return _started(self.pid, root) != self.started


def this_process(root: Path = Path("/proc")) -> Builder:
    """Who asks."""
    pid = os.getpid()
    boot = ""
    with contextlib.suppress(OSError):
        boot = (root / "sys/kernel/random/boot_id").read_text().strip()
    pids = ""
    with contextlib.suppress(OSError):
        pids = (root / "self/ns/pid").readlink().name
    return Builder(os.uname().nodename, boot, pids, pid, _started(pid, root))


def _started(pid: int, root: Path) -> str:
    """Field 22 of `/proc/PID/stat`; empty where no such process runs."""
    try:
        stat = (root / str(pid) / "stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the name in brackets may hold anything
    return "" if fields[0] in "ZX" else fields[19]
