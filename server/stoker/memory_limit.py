"""How many bytes of memory the control group (the container) of this process may use.

`config.py` derives the default of `--max-buffered-bytes` from it. Reads files under a given root
only, so that tests can lay out their own.  Source: Linux, Documentation/admin-guide/cgroup-v2.rst
(`memory.max`) and cgroup-v1/memory.rst (`memory.limit_in_bytes`).
"""

from pathlib import Path, PurePosixPath
from typing import Final

# Version 1 writes the largest page-aligned 64-bit number where there is no limit. No machine has
# an exbibyte of memory, so whatever is above it means "none".
_NO_LIMIT: Final = 1 << 60


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """The smallest limit of the process's group and the groups above it; None without a limit."""
    limits: list[int] = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        group = PurePosixPath("/" + path.lstrip("/"))
        if controllers == "":
            limits += _limits(root / "sys/fs/cgroup", group, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(root / "sys/fs/cgroup/memory", group, "memory.limit_in_bytes")
    return min(limits, default=None)


def _limits(mount: Path, group: PurePosixPath, file: str) -> list[int]:
    """Limits of `group` and its parents. Inside a container the group's own path is often the
    host's, and only the mount's top exists: absent folders simply say nothing."""
    found = []
    for each in (group, *group.parents):
        try:
            text = (mount / str(each).lstrip("/") / file).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < _NO_LIMIT:
            found.append(int(text))
    return found
