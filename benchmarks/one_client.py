"""What does a lone request cost above bare ONNX Runtime?

One client, one request at a time, on the tiny network: p50 and p99 of `session.run` in this
process, of REST (binary tensors and JSON, wrk with one connection) and of gRPC (a grpcio client).
Beside them stands a `grpc.aio` server that answers constant bytes: what the same call costs where
nothing is inferred.
Rounds alternate, so that a change of the machine's speed meets all of them. The server has one
core, the client the other.

    python -m benchmarks.one_client [--rounds 5] [--seconds 3]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import grpc
import onnxruntime  # type: ignore[import-untyped]  # it ships no types

from benchmarks.serving import (
    LOAD_CORE,
    Endpoint,
    facts,
    grpc_answer,
    grpc_echo,
    grpc_request,
    json_request,
    percentile,
    rest_request,
    row,
    serve,
    spread,
    tiny,
    wrk,
)
from tests.models import write_repository


def bare(path: Path, seconds: float) -> tuple[float, float]:
    """p50 and p99 of `session.run` in microseconds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds, times = {"x": row()}, []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        session.run(["y"], feeds)
        times.append((time.perf_counter() - began) * 1e6)
    return percentile(times, 0.5), percentile(times, 0.99)


def grpcio(at: Endpoint, seconds: float) -> tuple[float, float]:
    """p50 and p99 of a blocking Python client in microseconds."""
    message, times = grpc_request("tiny", x=row()), []
    with grpc.insecure_channel(f"127.0.0.1:{at.grpc}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer"
        )
        call(message)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            call(message)
            times.append((time.perf_counter() - began) * 1e6)
    return percentile(times, 0.5), percentile(times, 0.99)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    given = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    binary, length = rest_request("tiny", x=row())
    headers = {"Inference-Header-Content-Length": str(length)}
    seen: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        repository = write_repository(Path(folder), {"tiny": tiny()})
        path = repository / "tiny" / "1" / "model.onnx"
        answer = grpc_answer("tiny", y=row(4))
        with serve(repository) as at, grpc_echo(answer) as echo:
            for _ in range(given.rounds):
                seen.setdefault("bare ONNX Runtime", []).append(bare(path, given.seconds))
                infer = "/v2/models/tiny/infer"
                for name, body, extra in (
                    ("REST, binary tensors", binary, headers),
                    ("REST, JSON", json_request(x=row()), {}),
                ):
                    load = wrk(at.http, infer, body, extra, connections=1, seconds=given.seconds)
                    seen.setdefault(name, []).append((load.p50_us, load.p99_us))
                for name, server in (("gRPC", at), ("grpc.aio echo, no inference", echo)):
                    seen.setdefault(name, []).append(grpcio(server, given.seconds))
    print(f"{facts()}; {given.rounds} rounds of {given.seconds} s, medians (range)\n")
    print("| one request at a time | p50 us | p99 us | p50 above bare, us |\n|---|---|---|---|")
    base = sorted(p50 for p50, _ in seen["bare ONNX Runtime"])[given.rounds // 2]
    for name, rounds in seen.items():
        p50s, p99s = [p50 for p50, _ in rounds], [p99 for _, p99 in rounds]
        above = sorted(p50s)[len(p50s) // 2] - base
        print(f"| {name} | {spread(p50s)} | {spread(p99s)} | {above:,.0f} |")


if __name__ == "__main__":
    main()
