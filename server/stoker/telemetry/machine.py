"""What the kernel says about the process, its container and the machine.

In a container /proc shows the node, so the container's own figures come from its control group
(version 2, or 1 on old nodes) under our own names, and the node's go under Triton's names, as
Triton reports them. What a system does not have is absent, never 0.

Reads files: call `read` on a worker thread.  Source: the kernel's Documentation/admin-guide/
cgroup-v2.rst and cgroup-v1/, proc(5).
"""

import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from stoker.telemetry import machine_table as table
from stoker.telemetry.metric import Metric

_NO_LIMIT_V1: Final = 1 << 60
"""Version 1 writes a number near 2^63 when there is no memory limit."""
_LEAST_TICKS: Final = 10
"""Clock ticks of all cores between two readings below which a utilisation is noise."""


class Machine:
    """Reads under `root`; tests give a folder of their own."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        self._cgroup = root / "sys/fs/cgroup"
        self._ticks = parse_cpu_ticks(_text(self._proc / "stat"))
        self._utilization: float | None = None

    def read(self) -> dict[Metric, float]:
        """Every figure that this system has."""
        return {**self._process(), **self._container(), **self._node()}

    def _process(self) -> dict[Metric, float]:
        figures: dict[Metric, float] = {table.PROCESS_CPU: time.process_time()}
        fields = _text(self._proc / "self/statm").split()
        if len(fields) > 1:
            figures[table.PROCESS_MEMORY] = int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
        try:
            figures[table.PROCESS_FILES] = len(os.listdir(self._proc / "self/fd"))
        except OSError:
            pass
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit != resource.RLIM_INFINITY:
            figures[table.PROCESS_MOST_FILES] = limit
        return figures

    def _node(self) -> dict[Metric, float]:
        figures: dict[Metric, float] = {}
        memory = parse_pairs(_text(self._proc / "meminfo"))
        if "MemTotal:" in memory and "MemAvailable:" in memory:
            figures[table.CPU_MEMORY_TOTAL] = memory["MemTotal:"] * 1024
            used = memory["MemTotal:"] - memory["MemAvailable:"]
            figures[table.CPU_MEMORY_USED] = used * 1024
        ticks = parse_cpu_ticks(_text(self._proc / "stat"))
        if ticks is not None and self._ticks is not None:
            total = ticks[1] - self._ticks[1]
            if total >= _LEAST_TICKS:
                busy = (ticks[0] - self._ticks[0]) / total
                self._utilization = min(1.0, max(0.0, busy))
                self._ticks = ticks
        if self._utilization is not None:
            figures[table.CPU_UTILIZATION] = self._utilization
        return figures

    def _container(self) -> dict[Metric, float]:
        paths = parse_cgroup_paths(_text(self._proc / "self/cgroup"))
        if (self._cgroup / "cgroup.controllers").exists():
            return _version_2(self._folder("", paths.get("", "/")))
        return _version_1(
            self._folder("memory", paths.get("memory", "/")),
            self._folder("cpu", paths.get("cpu", "/")),
            self._folder("cpuacct", paths.get("cpuacct", "/")),
        )

    def _folder(self, controller: str, path: str) -> Path:
        """The process' group; inside a container the path is the node's and the mount is ours."""
        mount = self._cgroup / controller
        own = mount / path.lstrip("/")
        return own if own.is_dir() else mount


def _version_2(folder: Path) -> dict[Metric, float]:
    figures: dict[Metric, float] = {}
    usage = _integer(folder / "memory.current")
    if usage is not None:
        cache = parse_pairs(_text(folder / "memory.stat")).get("inactive_file", 0)
        figures[table.CONTAINER_MEMORY] = max(0, usage - cache)
    limit = _integer(folder / "memory.max")
    if limit is not None:
        figures[table.CONTAINER_MEMORY_LIMIT] = limit
    cpu = parse_pairs(_text(folder / "cpu.stat"))
    if "usage_usec" in cpu:
        figures[table.CONTAINER_CPU] = cpu["usage_usec"] / 1e6
    if "throttled_usec" in cpu:
        figures[table.CONTAINER_THROTTLED] = cpu["throttled_usec"] / 1e6
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit():
        figures[table.CONTAINER_CPU_LIMIT] = int(quota) / int(period)
    return figures


def _version_1(memory: Path, cpu: Path, cpuacct: Path) -> dict[Metric, float]:
    figures: dict[Metric, float] = {}
    usage = _integer(memory / "memory.usage_in_bytes")
    if usage is not None:
        cache = parse_pairs(_text(memory / "memory.stat")).get("total_inactive_file", 0)
        figures[table.CONTAINER_MEMORY] = max(0, usage - cache)
    limit = _integer(memory / "memory.limit_in_bytes")
    if limit is not None and limit < _NO_LIMIT_V1:
        figures[table.CONTAINER_MEMORY_LIMIT] = limit
    used_ns = _integer(cpuacct / "cpuacct.usage")
    if used_ns is not None:
        figures[table.CONTAINER_CPU] = used_ns / 1e9
    throttling = parse_pairs(_text(cpu / "cpu.stat"))
    if "throttled_time" in throttling:
        figures[table.CONTAINER_THROTTLED] = throttling["throttled_time"] / 1e9
    quota = _integer(cpu / "cpu.cfs_quota_us")
    period = _integer(cpu / "cpu.cfs_period_us")
    if quota is not None and quota > 0 and period:
        figures[table.CONTAINER_CPU_LIMIT] = quota / period
    return figures


def parse_pairs(text: str) -> dict[str, int]:
    """Lines of `name number ...`; other lines are passed over."""
    pairs = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 1 and fields[1].isdigit():
            pairs[fields[0]] = int(fields[1])
    return pairs


def parse_cpu_ticks(text: str) -> tuple[int, int] | None:
    """Busy and all clock ticks of all cores, from the first line of /proc/stat."""
    fields = text.partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    user, nice, system, idle, iowait, irq, softirq, steal = (int(field) for field in fields[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


def parse_cgroup_paths(text: str) -> Mapping[str, str]:
    """The group of each controller, from /proc/self/cgroup; version 2's is under the name ''."""
    paths = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _integer(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None
