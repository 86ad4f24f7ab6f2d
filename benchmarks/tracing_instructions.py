"""How many instructions does a call take with tracing and the access log off, and on?

The clock of a machine that others use tells nothing of a microsecond; the count of instructions
that the whole server process executes does. A server of this tree, or of another checkout, runs
under callgrind in each way; h2load sends it calls, gRPC and REST over HTTP/1.1 in turn. A count
ends when the server rests, so that spans that are exported behind their calls are in it. Needs
valgrind, and a minute for each way.

    python -m benchmarks.tracing_instructions [--tree ../before] [--only "traced 0 %"]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import bodies
from benchmarks.load_tools import tool
from benchmarks.networks import NETWORKS
from benchmarks.targets import rest_path
from benchmarks.tracing_cost import HERE, OFF
from tests.models import write_repository
from tests.spans import receiving

_TRACED: Final = ("--tracing", "--trace-sampling")
_LOGGED: Final = ("--access-log", "sampled")
WAYS: Final[Mapping[str, tuple[str, ...]]] = {
    OFF: (),
    "traced 0 %": (*_TRACED, "0"),
    "traced 1 %": (*_TRACED, "0.01"),
    "traced 100 %": (*_TRACED, "1"),
    "access log, sampled 0 %": (*_LOGGED, "--access-log-share", "0"),
    "access log, sampled 1 %": _LOGGED,
    "access log, all": ("--access-log", "all"),
}
WARM_UP: Final = 600
REST_S: Final = 0.5
"""A server that has used no CPU for so long, but for what it does by the clock, rests."""
_RESTING_SHARE: Final = 0.2


@dataclass(frozen=True)
class Calls:
    """What is sent."""

    path: str
    body: Path
    headers: Mapping[str, str]
    options: tuple[str, ...]

    def send(self, port: int, count: int) -> None:
        """Sends so many, and waits for the answers."""
        fields = [word for each in self.headers.items() for word in ("-H", ": ".join(each))]
        command = [
            tool("h2load"), *self.options, "-n", str(count), "-d", str(self.body), *fields,
            f"http://127.0.0.1:{port}{self.path}",
        ]  # fmt: skip
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert f"{count} succeeded" in said, said


class Counted:
    """A server under callgrind."""

    def __init__(self, tree: Path, repository: Path, arguments: tuple[str, ...], out: Path) -> None:
        self._out = out
        command = [
            "valgrind", "-q", "--tool=callgrind", "--instr-atstart=no",
            f"--callgrind-out-file={out}/counts", sys.executable, "-m", "stoker", "serve",
            str(repository), "--host", "127.0.0.1", "--http-port", "0", "--grpc-port", "0",
            "--metrics-port", "0", "--log-format", "json", "--log-level", "error",
            "--max-connection-age", "0s", "--drain-delay", "0s", *arguments,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": f"{tree / 'server'}:{tree}"}
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(command)} ended with code {self._process.wait()}")
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        ready = json.loads(line)
        self.ports = {
            form: int(ready[key].rpartition(":")[2])
            for form, key in (("REST", "http"), ("gRPC", "grpc"))
        }

    def ask(self, *words: str) -> None:
        """Tells callgrind something."""
        command = ["vgdb", f"--pid={self._process.pid}", *words]
        subprocess.run(command, check=True, capture_output=True)

    def count(self) -> int:
        """Instructions since the last time, when the server rests."""
        used = self._cpu_s()
        while True:
            time.sleep(REST_S)
            used, before = self._cpu_s(), used
            if used - before < _RESTING_SHARE * REST_S:
                break
        self.ask("dump")
        newest = max(self._out.glob("counts.*"), key=lambda each: int(each.suffix[1:]))
        found = re.search(r"^(?:summary|totals): (\d+)", newest.read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1])

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(120)

    def _cpu_s(self) -> float:
        words = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")


def counted(
    server: Counted, calls: Mapping[str, Calls], count: int, turns: int
) -> dict[str, list[float]]:
    """Thousands of instructions a call, by what is sent."""
    for form, each in calls.items():
        each.send(server.ports[form], WARM_UP)
    server.ask("instrumentation", "on")
    seen: dict[str, list[float]] = {form: [] for form in calls}
    for _ in range(turns):
        for form, each in calls.items():
            server.count()
            each.send(server.ports[form], count)
            seen[form].append(server.count() / count / 1000)
    return seen


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tree", type=Path, default=HERE)
    parser.add_argument("--only", choices=list(WAYS))
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    network = NETWORKS["tiny"]
    x = network.rows()
    rest, size = bodies.rest_request(x=x)
    print("| | | thousands of instructions a call, by turns |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, receiving("silent") as receiver:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.grpc
        os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "100"
        os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = "100000"  # none is dropped
        here = Path(folder)
        repository = write_repository(here / "models", {network.name: network.make()})
        message, body = here / "message", here / "body"
        message.write_bytes(bodies.framed(bodies.grpc_request(network.name, x=x)))
        body.write_bytes(rest)
        one = ("-c", "1", "-m", "1")
        calls = {
            "gRPC": Calls(bodies.INFER, message, bodies.GRPC_HEADERS, one),
            "REST": Calls(
                rest_path(network.name), body, bodies.binary_headers(size), (*one, "--h1")
            ),
        }
        for way in [given.only] if given.only else WAYS:
            out = here / re.sub(r"\W+", "-", way)
            out.mkdir()
            server = Counted(given.tree.resolve(), repository, WAYS[way], out)
            try:
                seen = counted(server, calls, given.calls, given.turns)
            finally:
                server.close()
            for form, each in seen.items():
                print(f"| {form} | {way} | {', '.join(f'{n:.0f}' for n in each)} |", flush=True)


if __name__ == "__main__":
    main()
