"""The real server, for tests: on free ports, with the real runtime or the fake one.

`serve(...)` runs `stoker.app.Server` on an event loop of its own thread, which is what the
process does but for signals; `run_stoker(...)` starts the process itself. Clients are real ones
over real sockets in both cases.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar, get_args

import hypothesis
import pytest
import uvloop
from stoker.app import Server, open_repository
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.session import Runtime
from stoker.settings import GrpcTransport, Settings

from tests.cudart_stub import CudartStub
from tests.driver_stubs import CUDART, build
from tests.named_tests import Ledger, named_tests
from tests.transport_counts import TransportCounts
from tests.workers import Workers

T = TypeVar("T")

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

PATIENCE = 60.0
"""Seconds after which waiting for a server is a failure."""

FREE_PORTS = Settings(
    host="127.0.0.1",
    http_port=0,
    grpc_port=0,
    metrics_port=0,
    drain_delay_s=0.0,
    drain_timeout_s=5.0,
    max_buffered_bytes=1 << 30,
)


@dataclass(frozen=True)
class Endpoints:
    """Where a server listens."""

    http_port: int
    grpc_port: int
    metrics_port: int

    @property
    def http(self) -> str:
        """`host:port`, as tritonclient wants it."""
        return f"127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        """`host:port`, as grpcio and tritonclient want it."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def url(self) -> str:
        """The REST base address."""
        return f"http://{self.http}"

    @property
    def management(self) -> str:
        """The base address of probes and metrics."""
        return f"http://127.0.0.1:{self.metrics_port}"

    def metrics(self, accept: str = "text/plain") -> str:
        """What a scrape reads."""
        request = urllib.request.Request(f"{self.management}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return str(response.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of a metric that carry these labels; 0 without any."""
        return sample(self.metrics(), name, **labels)

    def probe(self, path: str) -> tuple[int, str]:
        """Status and body of a management path."""
        try:
            with urllib.request.urlopen(f"{self.management}{path}", timeout=PATIENCE) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


def sample(scraped: str, name: str, **labels: str) -> float:
    """The sum of the samples of a metric in one scrape that carry these labels; 0 without any."""
    total = 0.0
    for line in scraped.splitlines():
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if match is None or match[1] != name:
            continue
        got = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
        if labels.items() <= got.items():
            total += float(match[3])
    return total


@pytest.fixture(scope="session")
def built_cudart(tmp_path_factory: pytest.TempPathFactory) -> CudartStub:
    """The stub of the CUDA runtime, compiled once."""
    return CudartStub(build(tmp_path_factory.mktemp("cudart"), CUDART) / CUDART)


@pytest.fixture
def cudart(built_cudart: CudartStub) -> CudartStub:
    """The stub of the CUDA runtime as if nobody had called it."""
    built_cudart.reset()
    return built_cudart


class Serving(Protocol):
    """What `serve` gives."""

    def __call__(
        self,
        *sources: Path,
        runtime: Runtime | None = None,
        settings: Settings = FREE_PORTS,
        profile_seconds: float = 0.0,
        wait: bool = True,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        access_log: int | None = None,
    ) -> "RunningServer": ...


class RunningServer:
    """A server on a thread's event loop."""

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime,
        *,
        profile_seconds: float,
        wait: bool,
        tls: ssl.SSLContext | None,
        clock: Callable[[], float],
        access_log: int | None,
    ) -> None:
        self._clock = clock
        self._access_log = access_log
        self._settings = settings
        self._runtime = runtime
        self._profile_seconds = profile_seconds
        self._up: Future[Endpoints] = Future()
        self._wait = wait
        self._tls = tls
        self._thread = threading.Thread(target=self._main, name="server", daemon=True)
        self._thread.start()
        self.at = self._up.result(PATIENCE)

    def on_loop(self, action: Callable[[Server], T]) -> T:
        """Runs `action(server)` on the server's loop and gives its result."""

        async def act() -> T:
            return action(self._server)

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(PATIENCE)

    def drain(self) -> int:
        """Drains as SIGTERM does; gives the number of requests that got DRAINING."""
        future = asyncio.run_coroutine_threadsafe(self._server.drain(), self._loop)
        return future.result(PATIENCE)

    def stop(self) -> None:
        """Ends the server; harmless when it has ended."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive(), "the server does not end"

    def _main(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as error:
            if not self._up.done():
                self._up.set_exception(error)
            raise

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._server = Server(
            self._settings,
            self._runtime,
            open_repository(self._settings),
            profile_seconds=self._profile_seconds,
            tls=self._tls,
            clock=self._clock,
            access_log=self._access_log,
        )
        at = await self._server.start()
        endpoints = Endpoints(at.http, at.grpc, at.metrics)
        try:
            if self._wait:
                await self._server.load()
                self._up.set_result(endpoints)
                await self._stopping.wait()
            else:
                self._up.set_result(endpoints)
                loading = asyncio.create_task(self._server.load(), name="load")
                await self._stopping.wait()
                await loading
        finally:
            await self._server.close()


@contextlib.contextmanager
def serving(grpc_transport: GrpcTransport) -> Iterator[Serving]:
    """Starts real servers on threads, with this transport; stops them at the end."""
    running: list[RunningServer] = []

    def start(
        *sources: Path,
        runtime: Runtime | None = None,
        settings: Settings = FREE_PORTS,
        profile_seconds: float = 0.0,
        wait: bool = True,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        access_log: int | None = None,
    ) -> RunningServer:
        server = RunningServer(
            replace(settings, sources=tuple(map(str, sources)), grpc_transport=grpc_transport),
            runtime or OnnxRuntime("cpu"),
            profile_seconds=profile_seconds,
            wait=wait,
            tls=tls,
            clock=clock,
            access_log=access_log,
        )
        running.append(server)
        return server

    try:
        yield start
    finally:
        for server in running:
            server.stop()


@pytest.fixture(scope="module", params=get_args(GrpcTransport))
def grpc_transport(request: pytest.FixtureRequest) -> GrpcTransport:
    """Each of the gRPC transports in turn: what is promised holds for all. A test that is about
    one of them, or where one differs, skips the other with the reason that docs/grpc.md gives."""
    transport: GrpcTransport = request.param
    return transport


def pytest_configure(config: pytest.Config) -> None:
    """A run fails in which a test that documents name did not run, though nothing left it out; and
    its end says how many tests ran with each gRPC transport."""
    config.pluginmanager.register(Ledger(named_tests()), "named tests")
    config.pluginmanager.register(TransportCounts(), "gRPC transports")
    config.pluginmanager.register(Workers(), "workers")


@pytest.fixture
def serve(grpc_transport: GrpcTransport) -> Iterator[Serving]:
    """Starts real servers on threads; stops them when the test ends."""
    with serving(grpc_transport) as start:
        yield start


@pytest.fixture(scope="module")
def serve_module(grpc_transport: GrpcTransport) -> Iterator[Serving]:
    """As `serve`, for a server that the tests of a file share and none changes."""
    with serving(grpc_transport) as start:
        yield start


@dataclass
class StokerProcess:
    """`stoker serve` as a process of its own."""

    process: subprocess.Popen[str]
    at: Endpoints
    lines: list[str] = field(default_factory=list)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(PATIENCE)

    def __enter__(self) -> "StokerProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def run_stoker(
    *arguments: str,
    environment: dict[str, str] | None = None,
    inherits: bool = True,
    module: str = "stoker",
    stderr: int = subprocess.DEVNULL,
) -> StokerProcess:
    """Starts `stoker serve` on free ports and waits for its ready line. `environment` is added to
    that of the tests, or is all that there is where the process `inherits` nothing. `module`: what
    is run instead of `stoker`, with the same arguments."""
    process = subprocess.Popen(
        [
            sys.executable, "-m", module, "serve",
            "--host", "127.0.0.1", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0",
            "--log-format", "json", *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**(os.environ if inherits else {}), **(environment or {})},
    )  # fmt: skip
    assert process.stdout is not None
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
    finally:
        watchdog.cancel()
    assert line, f"stoker serve ended with code {process.wait()} before it was ready"
    ready = json.loads(line)
    ports = [int(ready[key].rpartition(":")[2]) for key in ("http", "grpc", "metrics")]
    return StokerProcess(process, Endpoints(*ports), [line])
