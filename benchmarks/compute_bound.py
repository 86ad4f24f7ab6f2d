"""Where the model is the limit, how much of bare ONNX Runtime's rate is left?

`resnetlike` has the shape of ResNet-18 and random weights. 32 clients each wait for their answer
(gRPC, one row a request); batches form by themselves. Beside it, in turn on the same core, bare
ONNX Runtime runs batches of 1 to 32 rows: the size that is best by its median over the rounds is
1.00. Where a run of the benchmark holds only a few batches, rates of the server are taken between
the first and the last whole one. On a machine with other work the clock says little: there the CPU
time of a row, the server's whole process beside the bare run's thread, says what the server adds.

A rate must not be bought with the latency of those who come at once and leave: 32 requests behind
which nothing comes are answered one after the other where a batch of them gains little. Their mean
latency stands beside that of 32 bare runs of one row, whose answers come one by one: 16.5 runs.

    python -m benchmarks.compute_bound [--rounds 3] [--seconds 20] [--side 224]
"""

import os
import time
from collections import defaultdict
from dataclasses import replace
from functools import partial
from statistics import mean, median
from typing import NamedTuple

import onnxruntime  # type: ignore[import-untyped]  # it ships no types

from benchmarks import call_headers
from benchmarks.accounts import audited
from benchmarks.bodies import framed, grpc_request
from benchmarks.contenders import BARE, grpc_name, stokers_of
from benchmarks.figures import Promises, facts, ratios, spread
from benchmarks.generator import closed_loop, open_loop
from benchmarks.networks import RESNETLIKE, Network, bare_runs, on_core, resnetlike
from benchmarks.raw_http2 import Http2Client
from benchmarks.rounds import options
from benchmarks.serving import LOAD_CORE, SERVER_CORE, Endpoint, cpu_seconds
from benchmarks.targets import connected

CLIENTS = 32
BATCHES = (1, 2, 4, 8, 16, 32)
MANY_RUNS = 200
"""So many runs give a rate by the clock to half a percent; of fewer, whole ones are counted."""


def resnet_of(side: int) -> Network:
    """`resnetlike` for pictures of side x side."""
    return replace(RESNETLIKE, make=partial(resnetlike, side), item=(3, side, side))


class Seen(NamedTuple):
    """One run."""

    rate: float
    """Rows a second."""
    batch: float
    """Rows a batch, in the mean."""
    cpu_ms: float
    """CPU milliseconds a row."""


def loaded(at: Endpoint, network: Network, clients: int, seconds: float) -> Seen:
    """The server with so many clients that wait for their answers."""
    body = framed(grpc_request(network.name, x=network.rows()))
    fields = call_headers.grpc_fields(at.grpc)
    used = cpu_seconds(at.process)
    with (
        connected(lambda: Http2Client(at.grpc, 1), clients) as opened,
        audited(at) as account,
    ):
        scripts = [call_headers.repeated(each, fields, body) for each in opened]
        outcome = closed_loop(opened, scripts, seconds).all_good()
        account.counted, account.in_flight = outcome.good, clients
    used = cpu_seconds(at.process) - used  # until what ran at the end is counted
    grown = account.server
    rows, runs = grown["nv_inference_count"], grown["nv_inference_exec_count"]
    rate = outcome.per_second if runs >= MANY_RUNS else outcome.steady_per_second()
    return Seen(rate, rows / runs, used / rows * 1e3)


def burst_ms(at: Endpoint, network: Network, clients: int) -> float:
    """The mean latency of one request of each client, all sent at once to a server at rest."""
    body = framed(grpc_request(network.name, x=network.rows()))
    fields = call_headers.grpc_fields(at.grpc)
    with connected(lambda: Http2Client(at.grpc, 1), clients) as opened:
        scripts = [call_headers.repeated(each, fields, body) for each in opened]
        outcome = open_loop(opened, scripts, [0.0] * clients).all_good()
    return mean(outcome.latencies[0]) * 1e3


def bare_rates(
    bare: onnxruntime.InferenceSession, network: Network, seconds: float
) -> dict[int, Seen]:
    """`session.run`, by the rows of its batch."""
    seen = {}
    with on_core(SERVER_CORE):
        for rows in BATCHES:
            x = network.rows(rows)
            used = time.thread_time()
            times = bare_runs(bare, x, seconds / len(BATCHES))
            used = time.thread_time() - used
            cpu_ms = used / rows / (len(times) + 1) * 1e3  # the first run is not among the times
            seen[rows] = Seen(rows * len(times) / sum(times), rows, cpu_ms)
    return seen


def main() -> None:
    """Prints one table, and one of the promises."""
    parser = options(__doc__, rounds=3, seconds=20)
    parser.add_argument("--side", type=int, default=224, help="of the picture: 224 is ResNet's")
    given = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    network = resnet_of(given.side)
    seen: dict[str, list[Seen]] = defaultdict(list)
    bursts: dict[str, list[float]] = defaultdict(list)
    with stokers_of(network) as (ours, bare):
        for _ in range(given.rounds):
            for rows, run in bare_rates(bare, network, given.seconds).items():
                seen[f"{BARE}, batch {rows}"].append(run)
            for transport, at in ours.items():
                name = f"{grpc_name(transport)}, {CLIENTS} clients"
                seen[name].append(loaded(at, network, CLIENTS, given.seconds))
                bursts[grpc_name(transport)].append(burst_ms(at, network, CLIENTS))
    sizes = [runs for name, runs in seen.items() if name.startswith(BARE)]
    fastest = max(sizes, key=lambda runs: median(run.rate for run in runs))
    leanest = min(sizes, key=lambda runs: median(run.cpu_ms for run in runs))
    print(f"{facts()}; {given.rounds} rounds of {given.seconds:g} s, medians (range)\n")
    print(
        f"| resnetlike, {given.side} x {given.side} | rows/s | of the best batch "
        "| CPU ms a row | the best batch's by it | rows a batch |"
    )
    print("|---|---|---|---|---|---|")
    promises = Promises()
    for name, runs in seen.items():
        rates, used = [run.rate for run in runs], [run.cpu_ms for run in runs]
        share = ratios(rates, [run.rate for run in fastest])
        by_cpu = ratios([run.cpu_ms for run in leanest], used)
        cells = [
            spread(rates, 1),
            spread(share, 3),
            spread(used, 1),
            spread(by_cpu, 3),
            spread([run.batch for run in runs], 1),
        ]
        print(f"| {name} | {' | '.join(cells)} |")
        if not name.startswith(BARE):
            promises.at_least(f"{name}: share of {BARE} at its best batch", 0.97, share, 3)
            promises.at_least(f"{name}: the same by CPU", 0.97, by_cpu, 3)
    print(f"\n| {CLIENTS} at once | mean latency, ms | beside one bare run after the other |")
    print("|---|---|---|")
    alone = [(CLIENTS + 1) / 2 * 1e3 / run.rate for run in seen[f"{BARE}, batch 1"]]
    for name, means in bursts.items():
        print(f"| {name} | {spread(means)} | {spread(ratios(means, alone), 3)} |")
    promises.print()


if __name__ == "__main__":
    main()
