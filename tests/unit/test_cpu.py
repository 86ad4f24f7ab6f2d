"""CPU budgets out of made-up control groups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.runtime.cpu import (
    budget,
    cgroup_folders,
    parse_cpu_max,
    quota,
    read_budget,
    threads_per_instance,
)


@pytest.mark.parametrize(
    ("affinity", "granted", "cpus"),
    [(64, 2.0, 2), (64, 1.5, 2), (64, 0.1, 1), (2, 8.0, 2), (4, None, 4), (0, None, 1)],
)
def test_the_budget_is_the_smaller_of_affinity_and_quota(
    affinity: int, granted: float | None, cpus: int
) -> None:
    assert budget(affinity, granted) == cpus


@pytest.mark.parametrize(
    ("cpus", "instances", "threads"), [(8, 1, 8), (8, 2, 4), (8, 3, 2), (2, 4, 1), (1, 0, 1)]
)
def test_instances_share_the_budget(cpus: int, instances: int, threads: int) -> None:
    assert threads_per_instance(cpus, instances) == threads


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None), ("a b", None), ("1 0", None)],
)
def test_the_limit_of_version_2_is_read(text: str, cpus: float | None) -> None:
    assert parse_cpu_max(text) == cpus


def test_a_container_sees_its_group_at_the_root() -> None:
    files = {"/sys/fs/cgroup/cpu.max": "200000 100000"}
    assert quota(cgroup_folders("0::/"), files.get) == 2


def test_the_lowest_limit_on_the_way_up_counts() -> None:
    files = {
        "/sys/fs/cgroup/pods/one/cpu.max": "max 100000",
        "/sys/fs/cgroup/pods/cpu.max": "300000 100000",
        "/sys/fs/cgroup/cpu.max": "800000 100000",
    }
    assert quota(cgroup_folders("0::/pods/one"), files.get) == 3


def test_the_quota_of_version_1_is_read() -> None:
    own = "5:memory:/a\n4:cpu,cpuacct:/pod\n"
    files = {
        "/sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us": "250000\n",
        "/sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n",
    }
    assert quota(cgroup_folders(own), files.get) == 2.5


def test_version_1_without_a_limit_has_none() -> None:
    files = {
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    }
    assert quota(cgroup_folders("1:cpu:/"), files.get) is None


@given(st.text(), st.text())
def test_no_file_content_is_an_error(own: str, content: str) -> None:
    quota(cgroup_folders(own), lambda path: content)


def test_this_machine_has_a_budget() -> None:
    assert read_budget() >= 1
