"""Servers under test, each a process of its own pinned to one core: ours and the references.

Not a benchmark itself. Ours is `stoker serve` as users start it, with everything that it does by
default; the references of `benchmarks/peers/` answer constant bytes.
"""

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.certificates import Certificate

SERVER_CORE = 0
LOAD_CORE = max(os.sched_getaffinity(0))
NATIVE, GRPCIO = "native", "grpcio"


@dataclass(frozen=True)
class Endpoint:
    """Where a server under test listens, and its process. A port is 0 where it has none."""

    http: int
    grpc: int
    metrics: int
    process: int
    trusted: Path | None = None
    """The certificate that clients of the data ports trust over TLS; None: they are plain."""


@functools.cache
def options() -> str:
    """What `stoker serve --help` says."""
    command = [sys.executable, "-m", "stoker", "serve", "--help"]
    wide = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=wide).stdout


@functools.cache
def transports() -> tuple[str, ...]:
    """The gRPC transports that `stoker serve` has, the fastest first."""
    match = re.search(r"--grpc-transport (\S+)", options())
    known = match[1].split("|") if match else []
    return tuple(each for each in (NATIVE, GRPCIO) if each in known)


def without_native() -> str | None:
    """Why rows of the native transport are skipped; None where they run."""
    if NATIVE in transports():
        return None
    return "stoker serve has no --grpc-transport native"


@contextlib.contextmanager
def environment(**changes: str) -> Iterator[None]:
    """These variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def serve(
    repository: Path,
    *arguments: str,
    core: int | None = SERVER_CORE,
    transport: str | None = None,
    certificate: Certificate | None = None,
) -> Iterator[Endpoint]:
    """`stoker serve` on free ports, pinned to one core (None: not pinned), ready.

    `transport` is the gRPC transport; None leaves the choice to the server. With a certificate the
    data ports speak TLS.
    """
    program = ["stoker", "serve"]
    trusted = None
    if certificate is not None:
        trusted = certificate.certificate
        program = ["benchmarks.tls_server", str(trusted), str(certificate.key)]
    command = [sys.executable, "-m", *program, str(repository), "--host", "127.0.0.1"]
    for port in ("--http-port", "--grpc-port", "--metrics-port"):
        command += [port, "0"]
    if transport is not None:
        command += ["--grpc-transport", transport]
    command += ["--log-format", "json", "--log-level", "warning", "--drain-delay", "0s"]
    with _started([*command, *arguments], core) as (process, line):
        ready = json.loads(line)
        http, grpc, metrics = (
            int(ready[key].rpartition(":")[2]) for key in ("http", "grpc", "metrics")
        )
        yield Endpoint(http, grpc, metrics, process, trusted)


@contextlib.contextmanager
def grpc_echo(answer: bytes, core: int = SERVER_CORE) -> Iterator[Endpoint]:
    """The reference of `peers/grpc_echo.py`: only `grpc` is a port."""
    with _peer("grpc_echo", answer, core=core) as (process, port):
        yield Endpoint(0, port, 0, process)


@contextlib.contextmanager
def asgi_echo(
    answer: bytes, content_type: str = "application/octet-stream", core: int = SERVER_CORE
) -> Iterator[Endpoint]:
    """The reference of `peers/asgi_echo.py`: only `http` is a port."""
    with _peer("asgi_echo", answer, content_type, core=core) as (process, port):
        yield Endpoint(port, 0, 0, process)


@contextlib.contextmanager
def _peer(name: str, answer: bytes, *arguments: str, core: int) -> Iterator[tuple[int, int]]:
    """A reference that answers these bytes: its process and its port."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(answer)
        command = [sys.executable, "-m", f"benchmarks.peers.{name}", file.name, *arguments]
        with _started(command, core) as (process, line):
            yield process, int(line)


@contextlib.contextmanager
def _started(command: list[str], core: int | None) -> Iterator[tuple[int, str]]:
    """A process that says one line when it is ready: its number and that line."""
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(command)} ended with code {process.wait()}")
        # What else it says, such as an access log, is read and dropped, or it would wait for us.
        dropping = threading.Thread(target=_drop, args=(process.stdout,), daemon=True)
        dropping.start()
        yield process.pid, line
        process.terminate()
        dropping.join(60)
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.stdout.close()


def _drop(stream: IO[str]) -> None:
    while stream.read(1 << 16):
        pass


def cpu_seconds(process: int) -> float:
    """CPU time that a process has used, threads that have ended included, in steps of 10 ms."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(process: int) -> int:
    """Memory of a process that is in RAM."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
