"""How many CPUs this process may really use, how instances share them, and at what priority.

ONNX Runtime sizes its pools by the host's cores, so a pod with a CPU limit of 2 on a node of 64
would start 64 threads and be throttled. `budget` is the affinity mask bounded by the cgroup's
quota; `placement` divides it. The decisions are functions of file contents; `read_budget` is the
only reader. Knows nothing of models.  Source: cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us`.
"""

import logging
import math
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

CGROUP_ROOT: Final = PurePosixPath("/sys/fs/cgroup")
COMPUTE_NICENESS: Final = 10
"""What compute threads add to the process's niceness, so that the event loop answers first."""
READ_LIMIT_BYTES: Final = 1 << 16
"""The files read here are a few hundred bytes; more is not one of them."""

ReadText = Callable[[str], str | None]
"""The content of a file, None where it cannot be read."""


def budget(affinity: int, quota: float | None) -> int:
    """CPUs to use: the affinity mask, or fewer when a quota (in CPUs) is lower. A part counts as
    a whole CPU, since a pool cannot be smaller than one thread."""
    usable = affinity if quota is None else min(affinity, math.ceil(quota))
    return max(1, usable)


def threads_per_instance(cpus: int, instances: int) -> int:
    """Threads of one run when `instances` runs may be under way at once; never fewer than 1."""
    return max(1, cpus // max(1, instances))


def parse_cpu_max(text: str) -> float | None:
    """CPUs granted by a v2 `cpu.max` such as `150000 100000`; None for `max` or nonsense."""
    words = text.split()
    if len(words) != 2:
        return None
    return _ratio(words[0], words[1])


def _ratio(quota: str, period: str) -> float | None:
    try:
        granted, length = int(quota), int(period)
    except ValueError:
        return None
    return granted / length if granted > 0 and length > 0 else None


def cgroup_folders(own: str) -> tuple[str, ...]:
    """Folders that may limit this process, from the text of `/proc/self/cgroup`.

    A container mostly sees its own group at the root of the mount, a host process at the path in
    the file; each folder on the way up can hold a lower limit, so all of them are looked at.
    """
    folders: dict[str, None] = {}
    for line in own.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not path.startswith("/"):
            continue
        if controllers == "":
            roots = [CGROUP_ROOT]
        elif "cpu" in controllers.split(","):
            roots = [CGROUP_ROOT / "cpu", CGROUP_ROOT / "cpu,cpuacct"]
        else:
            continue
        relative = PurePosixPath(path.lstrip("/"))
        for root in roots:
            for folder in (relative, *relative.parents):
                folders[str(root / folder)] = None
    return tuple(folders)


def quota(folders: Iterable[str], read: ReadText) -> float | None:
    """The lowest CPU quota that any of these folders states; None without one."""
    found: list[float] = []
    for folder in folders:
        text = read(f"{folder}/cpu.max")
        if text is not None:
            granted = parse_cpu_max(text)
        else:
            period = read(f"{folder}/cpu.cfs_period_us")
            limit = read(f"{folder}/cpu.cfs_quota_us")
            granted = None if period is None or limit is None else _ratio(limit, period)
        if granted is not None:
            found.append(granted)
    return min(found, default=None)


def read_budget() -> int:
    """CPUs of this process now, from its affinity and its control group."""
    own = _read_text("/proc/self/cgroup") or ""
    return budget(_affinity(), quota(cgroup_folders(own), _read_text))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_text(path: str) -> str | None:
    try:
        with Path(path).open() as file:
            return file.read(READ_LIMIT_BYTES)
    except (OSError, UnicodeDecodeError):
        return None


def at_low_priority(action: Callable[[], T]) -> T:
    """Runs `action` in a thread of its own at nice +10, which threads started by it inherit.

    A thread of its own, because only a privileged one could raise its priority again.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="open") as pool:
        return pool.submit(_lowered, action).result()


def _lowered(action: Callable[[], T]) -> T:
    lower_priority()
    return action()


def lower_priority() -> None:
    """Lets the calling thread run at nice +10, for good, and the threads that it starts."""
    thread = threading.get_native_id()
    try:
        current = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(19, current + COMPUTE_NICENESS))
    except OSError as error:  # systems where a thread has no priority of its own
        log.debug("the compute threads keep the process's priority: %s", error)
