"""The kernel's figures, read from files of a made-up system."""

from pathlib import Path

from stoker.telemetry import machine_table as table
from stoker.telemetry.machine import Machine, parse_cgroup_paths, parse_cpu_ticks

from tests.filled_metrics import write_machine


def test_a_container_with_limits_shows_them(tmp_path: Path) -> None:
    figures = Machine(write_machine(tmp_path)).read()

    assert figures[table.CONTAINER_MEMORY] == 50_000
    assert figures[table.CONTAINER_MEMORY_LIMIT] == 100_000
    assert figures[table.CONTAINER_CPU] == 2.5
    assert figures[table.CONTAINER_THROTTLED] == 0.25
    assert figures[table.CONTAINER_CPU_LIMIT] == 1.5
    assert figures[table.PROCESS_FILES] == 2
    assert figures[table.CPU_MEMORY_TOTAL] == 2_048_000
    assert figures[table.CPU_MEMORY_USED] == 1_536_000


def test_a_container_without_limits_has_no_limit_series(tmp_path: Path) -> None:
    write_machine(tmp_path)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")

    figures = Machine(tmp_path).read()

    assert table.CONTAINER_MEMORY_LIMIT not in figures
    assert table.CONTAINER_CPU_LIMIT not in figures


def test_outside_a_container_the_process_own_group_counts(tmp_path: Path) -> None:
    write_machine(tmp_path)
    own = tmp_path / "sys/fs/cgroup/pod7/box"
    own.mkdir(parents=True)
    (own / "memory.current").write_text("123\n")

    assert Machine(tmp_path).read()[table.CONTAINER_MEMORY] == 123


def test_control_groups_of_version_1_are_read_too(tmp_path: Path) -> None:
    files = {
        "memory/memory.usage_in_bytes": "9000\n",
        "memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
        "memory/memory.stat": "total_inactive_file 1000\n",
        "cpuacct/cpuacct.usage": "3500000000\n",
        "cpu/cpu.cfs_quota_us": "-1\n",
        "cpu/cpu.cfs_period_us": "100000\n",
        "cpu/cpu.stat": "nr_periods 0\nthrottled_time 500000000\n",
    }
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    machine = Machine(tmp_path)

    figures = machine.read()

    assert figures[table.CONTAINER_MEMORY] == 8000
    assert table.CONTAINER_MEMORY_LIMIT not in figures
    assert figures[table.CONTAINER_CPU] == 3.5
    assert figures[table.CONTAINER_THROTTLED] == 0.5
    assert table.CONTAINER_CPU_LIMIT not in figures
    (tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("250000\n")
    assert machine.read()[table.CONTAINER_CPU_LIMIT] == 2.5


def test_utilisation_is_that_between_readings_and_absent_before_the_second(tmp_path: Path) -> None:
    machine = Machine(write_machine(tmp_path, busy=100, idle=300))
    assert table.CPU_UTILIZATION not in machine.read()

    write_machine(tmp_path, busy=130, idle=370)
    assert machine.read()[table.CPU_UTILIZATION] == 0.3
    write_machine(tmp_path, busy=131, idle=370)
    assert machine.read()[table.CPU_UTILIZATION] == 0.3


def test_a_system_without_any_of_the_files_shows_only_the_process(tmp_path: Path) -> None:
    expected = {table.PROCESS_CPU, table.PROCESS_MOST_FILES}
    assert set(Machine(tmp_path).read()) == expected


def test_this_machine_has_plausible_figures() -> None:
    figures = Machine().read()

    assert figures[table.PROCESS_MEMORY] > 1_000_000
    assert 0 < figures[table.CPU_MEMORY_USED] <= figures[table.CPU_MEMORY_TOTAL]
    assert figures[table.PROCESS_FILES] >= 3


def test_other_files_give_nothing_rather_than_wrong_numbers() -> None:
    assert parse_cpu_ticks("") is None
    assert parse_cpu_ticks("cpu0 1 2 3 4 5 6 7 8 9") is None
    assert parse_cgroup_paths("3:cpu,cpuacct:/a\n0::/b\n") == {
        "cpu": "/a",
        "cpuacct": "/a",
        "": "/b",
    }
