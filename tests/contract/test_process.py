"""What scripts and images rely on of `stoker serve` as a process: its ready line, its files, its
package."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Final

import httpx
import pytest
from stoker.app import DEMO
from stoker.client.connection import connect

from tests.conftest import PATIENCE, run_stoker
from tests.tools import require_tool


def has_ipv6() -> bool:
    """Whether this machine takes connections by IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as listener:
            listener.bind(("::1", 0))
    except OSError:
        return False
    return True


ROOT: Final = Path(__file__).resolve().parents[2]


def ready_line(log_format: str) -> str:
    """What `stoker serve` prints on standard output until it is stopped."""
    (line,) = printed(log_format, subprocess.DEVNULL)
    return line


def printed(log_format: str, stderr: int) -> list[str]:
    """The lines of a `stoker serve` that is stopped when it has printed `ready`."""
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "stoker", "serve", "--host", "127.0.0.1"),
            *("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"),
            *("--drain-delay", "0", "--log-format", log_format),
        ],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    ) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "stoker ready" in line:
                    process.terminate()
        finally:
            watchdog.cancel()
    assert process.returncode == 0
    return lines


def test_the_ready_line_in_text_has_the_three_addresses() -> None:
    line = ready_line("text")
    address = r"127\.0\.0\.1:[1-9]\d+"
    assert re.fullmatch(rf"stoker ready http={address} grpc={address} metrics={address}\n", line), (
        line
    )


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no address of IPv6")
@pytest.mark.parametrize("host", ["::", "::1"])
def test_the_ready_line_has_addresses_that_a_url_takes_where_the_server_listens_on_ipv6(
    host: str,
) -> None:
    server = run_stoker("--host", host)
    with server.process as process:
        try:
            ready = json.loads(server.lines[0])
            assert {ready[key].rpartition(":")[0] for key in ("http", "grpc", "metrics")} == {
                "[::1]"
            }
            probe = f"http://{ready['metrics']}/livez"
            assert httpx.get(probe, timeout=PATIENCE, verify=False).status_code == 200
            for scheme in ("http", "grpc"):
                client = connect(f"{scheme}://{ready[scheme]}", timeout_s=PATIENCE)
                assert client.metadata("digits", "").inputs
                client.close()
        finally:
            process.terminate()


def test_the_ready_line_in_json_has_the_three_addresses() -> None:
    record = json.loads(ready_line("json"))
    assert (record["event"], record["level"]) == ("ready", "info")
    for key in ("http", "grpc", "metrics"):
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d+", record[key])


def test_the_log_tells_of_every_model_before_the_ready_line() -> None:
    lines = printed("text", subprocess.STDOUT)
    ready = [line.startswith("stoker ready") for line in lines].index(True)
    models = [index for index, line in enumerate(lines) if " model_ready " in line]
    assert len(models) == 3
    assert max(models) < ready


def test_a_serving_process_writes_no_file_at_home(tmp_path: Path) -> None:
    """ONNX Runtime's telemetry keeps its state and its events under the home directory."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    places = {"HOME": str(home), "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(home / "cache")}
    with run_stoker(
        "--drain-delay", "0", environment={**kept, **places}, inherits=False
    ) as process:
        assert process.at.probe("/readyz")[0] == 200
        process.terminate()
        assert process.wait() == 0
    assert [*home.rglob("*"), *temporary.rglob("*")] == []


def test_the_demo_is_part_of_the_package() -> None:
    """The wheel holds `packages` whole, but for what git ignores or the build configuration takes
    out."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    wheel = build["targets"]["wheel"]
    assert wheel["packages"] == ["server/stoker"]
    # What it brings beside: tests/contract/test_lint_manifests.py.
    assert wheel.keys() == {"packages", "force-include"}
    assert build.keys() == {"targets"}
    assert DEMO.is_relative_to(ROOT / "server" / "stoker")
    files = [str(each.relative_to(ROOT)) for each in DEMO.parent.rglob("*") if each.is_file()]
    assert {Path(each).name for each in files} >= {"model.onnx", "config.pbtxt", "digit-7.json"}
    git = require_tool("git")
    ignored = subprocess.run(
        [git, "-C", str(ROOT), "check-ignore", "--stdin"],
        input="\n".join(files),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ignored.returncode, ignored.stdout) == (1, "")  # 1: none of them is


def test_the_demo_is_small() -> None:
    sizes = [each.stat().st_size for each in DEMO.parent.rglob("*") if each.is_file()]
    assert sum(sizes) < 400 * 1024
