"""What does a lone request cost above bare ONNX Runtime?

One client, one request at a time, on the tiny network: p50, p90 and p99 of `session.run` in this
process, of each gRPC transport by h2load and by a blocking grpcio client, of REST (binary tensors
and JSON) by wrk. Beside them stand the references that answer constant bytes: what the same call
costs where nothing is inferred. h2load and wrk cost next to nothing themselves; a Python client
does, and its row is what a Python user sees. Rounds alternate, so that a change of the machine's
speed meets all of them. The server has one core, the client the other.

    python -m benchmarks.one_client [--rounds 5] [--seconds 2]
"""

import os
import time
from collections import defaultdict

import grpc

from benchmarks import targets
from benchmarks.bodies import INFER, grpc_request
from benchmarks.contenders import (
    BARE,
    REST_BINARY,
    REST_JSON,
    contenders,
    grpc_name,
    stokers_of,
)
from benchmarks.figures import Promises, facts, percentile, spread
from benchmarks.networks import TINY, bare_runs, on_core
from benchmarks.rounds import options
from benchmarks.serving import LOAD_CORE, NATIVE, SERVER_CORE, Endpoint, without_native

Percentiles = tuple[float, float, float]


def percentiles(times: list[float]) -> Percentiles:
    """p50, p90 and p99 in microseconds."""
    p50, p90, p99 = (percentile(times, share) * 1e6 for share in (0.5, 0.9, 0.99))
    return p50, p90, p99


def grpcio(at: Endpoint, seconds: float) -> Percentiles:
    """A blocking Python client."""
    message = grpc_request("tiny", x=TINY.rows())
    times: list[float] = []
    with grpc.insecure_channel(f"127.0.0.1:{at.grpc}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(INFER)
        call(message)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            call(message)
            times.append(time.perf_counter() - began)
    return percentiles(times)


def main() -> None:
    """Prints one table, and one of the promises."""
    given = options(__doc__, rounds=5, seconds=2).parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    seen: dict[str, list[Percentiles]] = defaultdict(list)
    with stokers_of(TINY) as (ours, bare), contenders(TINY, ours, bare) as found:
        for _ in range(given.rounds):
            with on_core(SERVER_CORE):
                seen[BARE].append(percentiles(bare_runs(bare, TINY.rows(), given.seconds)))
            for target in found:
                load = targets.measured(target, 1, 1, given.seconds, with_latency=True).load
                seen[target.name].append((load.p50_us, load.p90_us, load.p99_us))
            for transport, at in ours.items():
                name = f"{grpc_name(transport)}, by a grpcio client"
                seen[name].append(grpcio(at, given.seconds))
    print(f"{facts()}; {given.rounds} rounds of {given.seconds:g} s, medians (range)\n")
    print("| one request at a time | p50 us | p90 us | p99 us | p50 above bare, us |")
    print("|---|---|---|---|---|")
    above = {
        name: [each[0] - base[0] for each, base in zip(rounds, seen[BARE], strict=True)]
        for name, rounds in seen.items()
    }
    for name, rounds in seen.items():
        cells = " | ".join(spread(each) for each in zip(*rounds, strict=True))
        print(f"| {name} | {cells} | {spread(above[name])} |")
    promises = Promises(absent=without_native())
    for name in (grpc_name(NATIVE), REST_BINARY, REST_JSON):
        promises.at_most(f"{name}: p50 above bare ONNX Runtime, us", 200, above.get(name, []), 0)
    promises.print()


if __name__ == "__main__":
    main()
