"""The memory limit of the control group, read from laid-out copies of the kernel's files."""

from pathlib import Path

from stoker.memory_limit import memory_limit_bytes


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_version_2_inside_a_container_reads_the_top(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", "1073741824\n")
    assert memory_limit_bytes(tmp_path) == 1 << 30


def test_the_smallest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/pods/one\n")
    write(tmp_path, "sys/fs/cgroup/pods/one/memory.max", "max\n")
    write(tmp_path, "sys/fs/cgroup/pods/memory.max", "5000\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", "9000\n")
    assert memory_limit_bytes(tmp_path) == 5000


def test_version_1_is_read_from_the_memory_controller(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "5:cpu,cpuacct:/c\n4:memory:/docker/abc\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(tmp_path, "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "7000\n")
    assert memory_limit_bytes(tmp_path) == 7000


def test_no_limit_and_no_files_give_none(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path) is None
    write(tmp_path, "proc/self/cgroup", "0::/\nnonsense\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    assert memory_limit_bytes(tmp_path) is None
