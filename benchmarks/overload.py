"""At twice the load that a server can take, how much of its work is still of use?

A compute-bound network (`resnetlike` for small pictures). First its capacity: rows a second with
many clients that wait. Then an open loop at twice that rate, each call with a deadline: answers
within the deadline are goodput, and calls that cannot be in time should be told so at once instead
of after the deadline. Latencies count from the moment at which a call was due to be sent. The first
seconds, in which the queue fills, are left out of the rate.

    python -m benchmarks.overload [--rounds 3] [--seconds 20] [--deadline-ms 1000] [--side 64]
"""

import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

from benchmarks.accounts import audited
from benchmarks.bodies import framed, grpc_request
from benchmarks.call_headers import Encoding, blocks, grpc_fields
from benchmarks.compute_bound import loaded, resnet_of
from benchmarks.contenders import grpc_name, stokers_of
from benchmarks.figures import Promises, facts, ratios, spread
from benchmarks.generator import Outcome, arrivals, open_loop
from benchmarks.networks import Network
from benchmarks.raw_http2 import Call, Http2Client
from benchmarks.rounds import options
from benchmarks.serving import LOAD_CORE, Endpoint
from benchmarks.targets import connected

CONNECTIONS, STREAMS = 16, 100
FULL_AFTER_S = 2.0
DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 4, 8


@dataclass(frozen=True)
class Run:
    """One round: rows a second and microseconds."""

    capacity: float
    goodput: float
    refused_p50_ms: float
    refused_p99_ms: float
    good_p99_ms: float
    shares: Counter[str]
    """Calls by what became of them."""


def overloaded(
    at: Endpoint, network: Network, rate: float, deadline: float, seconds: float
) -> Outcome:
    """An open loop at `rate`, every call with a deadline."""
    body = framed(grpc_request(network.name, x=network.rows()))
    fields = [*grpc_fields(at.grpc), ("grpc-timeout", f"{deadline * 1e3:.0f}m")]

    def script(client: Http2Client) -> Iterator[Call]:
        encoded = blocks(Encoding.PLAIN, fields, table_bytes=client.table_bytes)
        yield from (Call(block, data) for block, data in zip(encoded, repeat(body)))

    with connected(lambda: Http2Client(at.grpc, STREAMS), CONNECTIONS) as clients:
        return open_loop(clients, [script(each) for each in clients], arrivals(rate, seconds))


def one_round(at: Endpoint, network: Network, deadline: float, seconds: float) -> Run:
    """Capacity, then twice as much."""
    capacity = loaded(at, network, 64, seconds).rate
    with audited(at, may_refuse=True) as account:
        outcome = overloaded(at, network, 2 * capacity, deadline, seconds)
        account.counted, account.in_flight = outcome.good, outcome.unanswered
    pairs = list(zip(outcome.moments, outcome.latencies.get(0, []), strict=True))
    in_time = [moment for moment, latency in pairs if latency <= deadline]
    counted = [moment for moment in in_time if FULL_AFTER_S <= moment <= outcome.seconds]
    shares = Counter(
        {
            "in time": len(in_time),
            "late": outcome.good - len(in_time),
            "refused": outcome.codes[RESOURCE_EXHAUSTED],
            "expired": outcome.codes[DEADLINE_EXCEEDED],
            "unanswered": outcome.unanswered,
        }
    )
    shares["otherwise"] = outcome.sent - shares.total()
    return Run(
        capacity,
        len(counted) / (outcome.seconds - FULL_AFTER_S),
        outcome.us(0.5, RESOURCE_EXHAUSTED) / 1e3,
        outcome.us(0.99, RESOURCE_EXHAUSTED) / 1e3,
        outcome.us(0.99) / 1e3,
        shares,
    )


@contextlib.contextmanager
def loop_on(core: int, at: Endpoint) -> Iterator[None]:
    """Moves a server's event loop, its first thread, to a core; the other threads stay."""
    before = os.sched_getaffinity(at.process)
    os.sched_setaffinity(at.process, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(at.process, before)


def main() -> None:
    """Prints two tables, and one of the promises."""
    parser = options(__doc__, rounds=3, seconds=20)
    parser.add_argument("--deadline-ms", type=float, default=1000)
    parser.add_argument("--side", type=int, default=64, help="of the picture")
    given = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    network = resnet_of(given.side)
    seen: dict[str, list[Run]] = defaultdict(list)
    with stokers_of(network) as (ours, _):
        for _ in range(given.rounds):
            for transport, at in ours.items():
                run = one_round(at, network, given.deadline_ms / 1e3, given.seconds)
                seen[grpc_name(transport)].append(run)
            fastest, at = next(iter(ours.items()))
            with loop_on(LOAD_CORE, at):
                run = one_round(at, network, given.deadline_ms / 1e3, given.seconds)
            seen[f"{grpc_name(fastest)}, loop on another core"].append(run)
    print(f"{facts()}; {given.rounds} rounds of {given.seconds:g} s, medians (range)\n")
    print(f"resnetlike, {given.side} x {given.side}, deadline {given.deadline_ms:g} ms\n")
    print("| at twice the capacity | capacity, rows/s | goodput, rows/s | share |", end="")
    print(" p99 of the good, ms | refused after p50 ms | p99 ms |\n|---|---|---|---|---|---|---|")
    promises = Promises()
    for name, runs in seen.items():
        share = ratios([run.goodput for run in runs], [run.capacity for run in runs])
        refused = [run.refused_p99_ms for run in runs if run.refused_p99_ms >= 0]
        cells = [
            spread([run.capacity for run in runs], 1),
            spread([run.goodput for run in runs], 1),
            spread(share, 3),
            spread([run.good_p99_ms for run in runs]),
            spread([run.refused_p50_ms for run in runs], 2),
            spread([run.refused_p99_ms for run in runs], 2),
        ]
        print(f"| {name} | {' | '.join(cells)} |")
        promises.at_least(f"{name}: goodput, share of capacity", 0.95, share, 3)
        promises.at_most(f"{name}: p99 of refusals, ms", 5, refused)
    print("\n| what became of the calls | calls | share |\n|---|---|---|")
    for name, runs in seen.items():
        total: Counter[str] = sum((run.shares for run in runs), Counter())
        for fate, count in total.items():
            print(f"| {name}: {fate} | {count:,} | {count / total.total():.3f} |")
    promises.print()


if __name__ == "__main__":
    main()
