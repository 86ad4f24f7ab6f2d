"""What do thousands of connections cost that say nothing?

REST over HTTP/1.1 (each connection has had one answer) and each gRPC transport (each has exchanged
settings). The rate of `tiny` under the usual load (wrk with 64 connections, h2load with 4 of 16
streams) is taken without and with the idle ones, in turn; the server's memory is read before they
come and when all are there. What the kernel keeps for a socket is not in it; later rounds find
memory that the first one left.

    python -m benchmarks.idle_connections [--connections 10000] [--rounds 3] [--seconds 2]
"""

import contextlib
import os
import resource
import socket
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator

from benchmarks import targets
from benchmarks.bodies import grpc_request
from benchmarks.contenders import REST_BINARY, grpc_name, stokers_of
from benchmarks.figures import Promises, facts, ratios, spread
from benchmarks.networks import TINY
from benchmarks.raw_http2 import ACK, SETTINGS, frame, opening
from benchmarks.rounds import options
from benchmarks.serving import LOAD_CORE, Endpoint, resident_bytes
from benchmarks.targets import Target

PATIENCE_S = 30
SPARE_FILES = 200
NOISE = 0.05
"""Rounds of the same load differ by as much on a quiet machine; results tell the range."""
READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def idle_rest(at: Endpoint) -> socket.socket:
    """A connection that has had one answer."""
    opened = socket.create_connection(("127.0.0.1", at.http), PATIENCE_S)
    opened.sendall(READY)
    if not opened.recv(4096).startswith(b"HTTP/1.1 200"):
        sys.exit("a connection that shall idle got no answer")
    return opened


def idle_grpc(at: Endpoint) -> socket.socket:
    """A connection on which both sides have said their settings."""
    opened = socket.create_connection(("127.0.0.1", at.grpc), PATIENCE_S)
    opened.sendall(opening())
    if opened.recv(4096)[3] != SETTINGS:
        sys.exit("a connection that shall idle got no settings")
    opened.sendall(frame(SETTINGS, ACK, 0))
    return opened


@contextlib.contextmanager
def idling(connect: Callable[[Endpoint], socket.socket], at: Endpoint, count: int) -> (
    Iterator[list[socket.socket]]
):  # fmt: skip
    """So many idle connections. Those that the server closed meanwhile end the benchmark."""
    with contextlib.ExitStack() as opened:
        idle = [opened.enter_context(connect(at)) for _ in range(count)]
        yield idle
        for each in idle:
            each.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while got := each.recv(4096):
                    if got.startswith(b"HTTP/1.1 4"):
                        sys.exit("the server answered an idle connection")
                sys.exit("the server closed an idle connection")


def main() -> None:
    """Prints one table, and one of the promises."""
    parser = options(__doc__, rounds=3, seconds=2)
    parser.add_argument("--connections", type=int, default=10_000)
    given = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = given.connections + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(f"{given.connections} connections need {needed} open files, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    alone: dict[str, list[float]] = defaultdict(list)
    beside: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, list[float]] = defaultdict(list)
    with stokers_of(TINY) as (ours, _):
        x, message = TINY.rows(), grpc_request("tiny", x=TINY.rows())
        first = next(iter(ours.values()))
        loads: list[tuple[Target, Callable[[Endpoint], socket.socket]]] = [
            (targets.rest_binary(REST_BINARY, first, "tiny", x), idle_rest)
        ]
        for transport, at in ours.items():
            loads.append((targets.grpc(grpc_name(transport), at, message), idle_grpc))
        for target, _ in loads:
            targets.measured(target, 4, 16, 0.5)
        for _ in range(given.rounds):
            for target, connect in loads:
                name, process = target.name, target.at.process
                rate = targets.measured(target, 4, 16, given.seconds).load.per_second
                alone[name].append(rate)
                before = resident_bytes(process)
                with idling(connect, target.at, given.connections):
                    grown = resident_bytes(process) - before
                    memory[name].append(grown / given.connections / 2**10)
                    rate = targets.measured(target, 4, 16, given.seconds).load.per_second
                    beside[name].append(rate)
    print(f"{facts()}; {given.rounds} rounds of {given.seconds:g} s, medians (range)\n")
    print(f"| {given.connections:,} idle connections | requests/s without | with | share |", end="")
    print(" KiB a connection, first round | all rounds |\n|---|---|---|---|---|---|")
    promises = Promises()
    for name, rates in beside.items():
        share = ratios(rates, alone[name])
        cells = [spread(alone[name]), spread(rates), spread(share, 2), f"{memory[name][0]:.1f}"]
        print(f"| {name} | {' | '.join(cells)} | {spread(memory[name], 1)} |")
        what = f"{name}: rate beside {given.connections:,} idle connections, share of that without"
        promises.at_least(what, 1 - NOISE, share)
    promises.print()


if __name__ == "__main__":
    main()
