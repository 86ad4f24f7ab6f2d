"""A process of the server with the arguments and variables of a rendered container."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_server
from typing import Final

import httpx
import pytest

PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class RenderedServer:
    """A running process, and for each port of the manifest the one it has here."""

    process: subprocess.Popen[str]
    here: Mapping[int, int]

    def get(self, path: str, port: int) -> httpx.Response:
        """What the kubelet or Prometheus would get from this path of this container port."""
        return httpx.get(f"http://127.0.0.1:{self.here[port]}{path}", timeout=PATIENCE_S)

    def wait_for(self, event: str) -> None:
        """Reads the log up to a record of that event."""
        assert self.process.stdout is not None
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            if json.loads(line).get("event") == event:
                return
        pytest.fail(f"expected the event {event}, got only:\n{''.join(seen)}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody has; in use again only if somebody takes one before the server does."""
    with ExitStack() as held:
        sockets = [held.enter_context(create_server(("", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def running(
    arguments: Sequence[str], variables: Mapping[str, str], home: Path, here: Mapping[int, int]
) -> Iterator[RenderedServer]:
    """The container's process; its output is its log, one JSON object a line."""
    with subprocess.Popen(
        [sys.executable, "-m", "stoker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(home),
            **variables,
        },
    ) as process:
        watchdog = threading.Timer(PATIENCE_S, process.kill)
        watchdog.start()
        try:
            yield RenderedServer(process, here)
        finally:
            watchdog.cancel()
            process.kill()
