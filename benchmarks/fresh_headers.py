"""What do headers cost that differ with every call?

Deadlines and traces make real calls differ: each has a fresh `grpc-timeout` and `traceparent`.
h2load repeats one header block, and a server may remember what a block means. Here the blocks of
all calls are encoded before the clock starts (`benchmarks.call_headers`): the same each time, fresh
ones from an encoder that indexes them, and fresh ones from an encoder that does not. `tiny`,
4 connections of 16 streams, a closed loop; rounds alternate. The generator's own share of its core
is told: near 1 it, not the server, is the limit.

    python -m benchmarks.fresh_headers [--rounds 3] [--seconds 2]
"""

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import islice

from benchmarks.accounts import audited
from benchmarks.bodies import framed, grpc_request
from benchmarks.call_headers import Encoding, blocks, grpc_fields
from benchmarks.contenders import grpc_name, stokers_of
from benchmarks.figures import Promises, facts, percentile, ratios, spread
from benchmarks.generator import closed_loop
from benchmarks.networks import TINY
from benchmarks.raw_http2 import Call, Http2Client
from benchmarks.rounds import options
from benchmarks.serving import LOAD_CORE, NATIVE, Endpoint, without_native
from benchmarks.targets import connected

CONNECTIONS, STREAMS = 4, 16
WARM_UP_S, WARM_UP_CALLS = 0.5, 20_000
NAMES = {
    Encoding.PLAIN: "the same headers each time",
    Encoding.INDEXED: "fresh, indexed",
    Encoding.LITERAL: "fresh, not indexed",
}


@dataclass(frozen=True)
class Run:
    """One closed loop."""

    per_second: float
    p50_us: float
    p99_us: float
    cpu_us: float
    generator_share: float


def loaded(at: Endpoint, encoding: Encoding, seed: int, calls: int, seconds: float) -> Run:
    """Loads for `seconds` with at most `calls` calls a connection."""
    body = framed(grpc_request("tiny", x=TINY.rows()))
    fields = grpc_fields(at.grpc)
    with connected(lambda: Http2Client(at.grpc, STREAMS), CONNECTIONS) as clients:
        scripts = [
            [
                Call(block, body)
                for block in islice(
                    blocks(
                        encoding,
                        fields,
                        table_bytes=client.table_bytes,
                        seed=seed * CONNECTIONS + number,
                    ),
                    calls,
                )
            ]
            for number, client in enumerate(clients)
        ]
        with audited(at) as account:
            used = time.process_time()
            outcome = closed_loop(clients, [iter(each) for each in scripts], seconds).all_good()
            used = time.process_time() - used
            account.counted, account.in_flight = outcome.good, CONNECTIONS * STREAMS
    latencies = outcome.latencies[0]
    return Run(
        outcome.per_second,
        percentile(latencies, 0.5) * 1e6,
        percentile(latencies, 0.99) * 1e6,
        account.cpu_us,
        used / outcome.seconds,
    )


def main() -> None:
    """Prints one table, and one of the promises."""
    given = options(__doc__, rounds=3, seconds=2).parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    seen: dict[tuple[str, Encoding], list[Run]] = defaultdict(list)
    with stokers_of(TINY) as (ours, _):
        calls: dict[str, int] = {}
        for transport, at in ours.items():
            # As many calls as the fastest encoding could use, and some more.
            rate = loaded(at, Encoding.PLAIN, 0, WARM_UP_CALLS, WARM_UP_S).per_second
            calls[transport] = int(1.5 * rate * given.seconds / CONNECTIONS)
        for number in range(given.rounds):
            for transport, at in ours.items():
                for encoding in Encoding:
                    run = loaded(at, encoding, number, calls[transport], given.seconds)
                    seen[transport, encoding].append(run)
    print(f"{facts()}; {given.rounds} rounds of {given.seconds:g} s, medians (range)\n")
    print("| gRPC, tiny, 4 x 16 | requests/s | of the plain rate | p50 us | p99 us |", end="")
    print(" server CPU us per request | generator's share of its core |")
    print("|---|---|---|---|---|---|---|")
    shares = {
        (transport, encoding): ratios(
            [run.per_second for run in runs],
            [run.per_second for run in seen[transport, Encoding.PLAIN]],
        )
        for (transport, encoding), runs in seen.items()
    }
    for key, runs in seen.items():
        cells = [
            spread([run.per_second for run in runs]),
            spread(shares[key], 2),
            spread([run.p50_us for run in runs]),
            spread([run.p99_us for run in runs]),
            spread([run.cpu_us for run in runs], 1),
            spread([run.generator_share for run in runs], 2),
        ]
        print(f"| {grpc_name(key[0])}: {NAMES[key[1]]} | {' | '.join(cells)} |")
    promises = Promises(absent=without_native())
    for encoding in (Encoding.INDEXED, Encoding.LITERAL):
        what = f"{grpc_name(NATIVE)}: {NAMES[encoding]}, share of the plain rate"
        promises.at_least(what, 0.6, shares.get((NATIVE, encoding), []))
    promises.print()


if __name__ == "__main__":
    main()
