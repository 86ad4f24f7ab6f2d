"""The first second of `stoker serve` as a process: signals before it serves, and descriptors."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.calls import wait_until
from tests.conftest import PATIENCE, Endpoints

SERVE = [
    *(sys.executable, "-m", "stoker", "serve", "--host", "127.0.0.1", "--log-format", "json"),
    *("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"),
]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@contextmanager
def started(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A process that has not come far yet; killed when it does not end in time."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def catches(process: "subprocess.Popen[str]", number: signal.Signals) -> bool:
    """Whether the kernel would give the signal to the process, rather than act on its own."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_server_has_a_loop_ends_it_with_code_0(
    number: signal.Signals, tmp_path: Path
) -> None:
    file = tmp_path / "stoker.yaml"
    os.mkfifo(file)  # whoever reads it waits for a writer
    with started([*SERVE, "--config", str(file)]) as process:
        wait_until(lambda: catches(process, signal.SIGTERM), "a handler of SIGTERM")
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        assert process.communicate() == ("", "")


@pytest.mark.parametrize("library", ["pydantic_core", "onnxruntime", "grpc", "uvloop"])
def test_no_moment_of_the_start_loses_a_signal(library: str) -> None:
    with started([*SERVE, "--drain-delay", "0"]) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        wait_until(lambda: library in maps.read_text(), f"a process that imports {library}")
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_the_command_can_be_interrupted_before_it_imports_anything_that_takes_time() -> None:
    script = "import sys; before = set(sys.modules); import stoker.cli; "
    script += "print(*{each.partition('.')[0] for each in set(sys.modules) - before})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.split())
    assert "stoker" in modules
    assert not modules & {"argparse", "asyncio", "yaml", "pydantic", "numpy", "onnxruntime", "grpc"}


@contextmanager
def limited(flag: str, descriptors: int, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """A server whose limit of descriptors its parent has set."""
    shell = ["sh", "-c", f'ulimit {flag} {descriptors}; exec "$@"', "sh"]
    with started([*shell, *SERVE, "--drain-delay", "0", *words]) as process:
        yield process


def address(process: "subprocess.Popen[str]") -> Endpoints:
    """Where it listens, once it is ready."""
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    return Endpoints(*(int(ready[key].rpartition(":")[2]) for key in ("http", "grpc", "metrics")))


def stop(process: "subprocess.Popen[str]") -> list[dict[str, object]]:
    """Ends it; gives the records of its log."""
    process.terminate()
    _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    return [json.loads(line) for line in log.splitlines()]


def test_a_low_soft_limit_of_descriptors_is_raised_to_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with limited("-Sn", 128, "--log-level", "debug") as process:
        address(process)
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
        records = [each for each in stop(process) if each.get("event") == "descriptors"]
    assert [each["limit"] for each in records] == [hard]


def test_idle_rest_connections_leave_descriptors_for_the_probes() -> None:
    descriptors = 200
    with limited("-n", descriptors) as process, ExitStack() as plugs:
        at = address(process)
        for _ in range(descriptors + 50):
            plug = socket.create_connection(("127.0.0.1", at.http_port), timeout=PATIENCE)
            plugs.enter_context(plug)
        wait_until(lambda: at.metric("stoker_connections", transport="rest") >= 100, "a full port")
        assert at.metric("stoker_connections", transport="rest") == 100
        assert at.probe("/livez")[0] == 200
        plugs.close()
        warnings = [each for each in stop(process) if each.get("event") == "few_descriptors"]
    assert [(each["limit"], each["max_connections"]) for each in warnings] == [(200, 100)]
