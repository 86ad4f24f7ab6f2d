"""How many small requests a second does one server core answer?

The tiny network under a closed loop: REST with binary tensors and with JSON (wrk, 64 connections)
and over HTTP/2 (h2load, 4 connections of 16 streams), gRPC by the `grpcio` transport (as many), and
beside it a `grpc.aio` server that answers constant bytes. The server has one core, the load
generator the other; rounds alternate. CPU per request is the server's.

    python -m benchmarks.small_requests [--rounds 3] [--seconds 4]
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.serving import (
    Load,
    cpu_seconds,
    facts,
    grpc_answer,
    grpc_echo,
    grpc_h2load,
    grpc_request,
    h2load,
    json_request,
    rest_request,
    row,
    serve,
    spread,
    tiny,
    wrk,
)
from tests.models import write_repository

ECHO = "grpc.aio echo, no inference, 4 x 16"


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    given = parser.parse_args()
    seconds: int = given.seconds
    binary, length = rest_request("tiny", x=row())
    headers = {"Inference-Header-Content-Length": str(length)}
    path = "/v2/models/tiny/infer"
    seen: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        repository = write_repository(Path(folder), {"tiny": tiny()})
        answer = grpc_answer("tiny", y=row(4))
        with serve(repository) as at, grpc_echo(answer) as echo:
            message = grpc_request("tiny", x=row())
            loads: dict[str, Callable[[], Load]] = {
                "REST, binary tensors, 64 connections": lambda: wrk(
                    at.http, path, binary, headers, connections=64, seconds=seconds
                ),
                "REST, JSON, 64 connections": lambda: wrk(
                    at.http, path, json_request(x=row()), {}, connections=64, seconds=seconds
                ),
                "REST over HTTP/2, binary tensors, 4 x 16": lambda: h2load(
                    at.http, path, binary, headers, connections=4, seconds=seconds
                ),
                "gRPC by grpcio, 4 x 16": lambda: grpc_h2load(
                    at.grpc, message, connections=4, seconds=seconds
                ),
                ECHO: lambda: grpc_h2load(echo.grpc, message, connections=4, seconds=seconds),
            }  # fmt: skip
            for _ in range(given.rounds):
                for name, load in loads.items():
                    process = echo.process if name == ECHO else at.process
                    before = cpu_seconds(process)
                    got = load()
                    used = cpu_seconds(process) - before
                    cost = used / (got.per_second * got.busy_s) * 1e6
                    seen.setdefault(name, []).append((got.per_second, cost))
    print(f"{facts()}; {given.rounds} rounds of {seconds} s, medians (range)\n")
    print("| load | requests/s | server CPU us per request |\n|---|---|---|")
    for name, rounds in seen.items():
        rates, costs = [rate for rate, _ in rounds], [cost for _, cost in rounds]
        print(f"| {name} | {spread(rates)} | {spread(costs, 1)} |")


if __name__ == "__main__":
    main()
