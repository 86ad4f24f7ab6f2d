"""Where the model is the limit, how much of bare ONNX Runtime's rate is left?

`resnetlike` has the shape of ResNet-18 and random weights. 32 clients each wait for their answer
(gRPC, one row a request); batches form by themselves. Beside it, in turn on the same core, bare
ONNX Runtime runs batches of 1 to 32 rows: the best of them is 1.00. Where a run of the benchmark
holds only a few batches, rates of the server are taken between the first and the last whole one.

    python -m benchmarks.compute_bound [--rounds 3] [--seconds 20] [--side 224]
"""

import os
from collections import defaultdict
from dataclasses import replace
from functools import partial

import onnxruntime  # type: ignore[import-untyped]  # it ships no types

from benchmarks import call_headers
from benchmarks.accounts import audited
from benchmarks.bodies import framed, grpc_request
from benchmarks.contenders import BARE, grpc_name, stokers_of
from benchmarks.figures import Promises, facts, ratios, spread
from benchmarks.generator import closed_loop
from benchmarks.networks import RESNETLIKE, Network, bare_runs, on_core, resnetlike
from benchmarks.raw_http2 import Http2Client
from benchmarks.rounds import options
from benchmarks.serving import LOAD_CORE, SERVER_CORE, Endpoint
from benchmarks.targets import connected

CLIENTS = 32
BATCHES = (1, 2, 4, 8, 16, 32)
MANY_RUNS = 200
"""So many runs give a rate by the clock to half a percent; of fewer, whole ones are counted."""


def resnet_of(side: int) -> Network:
    """`resnetlike` for pictures of side x side."""
    return replace(RESNETLIKE, make=partial(resnetlike, side), item=(3, side, side))


def loaded(at: Endpoint, network: Network, clients: int, seconds: float) -> tuple[float, float]:
    """Rows a second and rows a batch with so many clients that wait for their answers."""
    body = framed(grpc_request(network.name, x=network.rows()))
    fields = call_headers.grpc_fields(at.grpc)
    with (
        connected(lambda: Http2Client(at.grpc, 1), clients) as opened,
        audited(at) as account,
    ):
        scripts = [call_headers.repeated(each, fields, body) for each in opened]
        outcome = closed_loop(opened, scripts, seconds).all_good()
        account.counted, account.in_flight = outcome.good, clients
    grown = account.server
    runs = grown["nv_inference_exec_count"]
    rate = outcome.per_second if runs >= MANY_RUNS else outcome.steady_per_second()
    return rate, grown["nv_inference_count"] / runs


def bare_rates(
    bare: onnxruntime.InferenceSession, network: Network, seconds: float
) -> dict[int, float]:
    """Rows a second of `session.run`, by the rows of its batch."""
    rates = {}
    with on_core(SERVER_CORE):
        for rows in BATCHES:
            times = bare_runs(bare, network.rows(rows), seconds / len(BATCHES))
            rates[rows] = rows * len(times) / sum(times)
    return rates


def main() -> None:
    """Prints one table, and one of the promises."""
    parser = options(__doc__, rounds=3, seconds=20)
    parser.add_argument("--side", type=int, default=224, help="of the picture: 224 is ResNet's")
    given = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    network = resnet_of(given.side)
    seen: dict[str, list[float]] = defaultdict(list)
    batches: dict[str, list[float]] = defaultdict(list)
    best: list[float] = []
    with stokers_of(network) as (ours, bare):
        for _ in range(given.rounds):
            rates = bare_rates(bare, network, given.seconds)
            best.append(max(rates.values()))
            for rows, rate in rates.items():
                seen[f"{BARE}, batch {rows}"].append(rate)
            for transport, at in ours.items():
                name = f"{grpc_name(transport)}, {CLIENTS} clients"
                rate, mean = loaded(at, network, CLIENTS, given.seconds)
                seen[name].append(rate)
                batches[name].append(mean)
    print(f"{facts()}; {given.rounds} rounds of {given.seconds:g} s, medians (range)\n")
    print(
        f"| resnetlike, {given.side} x {given.side} | rows/s | of the best batch | rows a batch |"
    )
    print("|---|---|---|---|")
    promises = Promises()
    for name, values in seen.items():
        share = ratios(values, best)
        mean_rows = spread(batches[name], 1) if name in batches else ""
        print(f"| {name} | {spread(values, 1)} | {spread(share, 3)} | {mean_rows} |")
        if name in batches:
            promises.at_least(f"{name}: share of {BARE} at its best batch", 0.97, share, 3)
    promises.print()


if __name__ == "__main__":
    main()
