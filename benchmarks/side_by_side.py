"""How fast is Stoker beside what its users could run instead, on one server core?

In one run, taking turns: gRPC by the `native` and the `grpcio` transport, REST with binary tensors
and with JSON over HTTP/1.1, REST over HTTP/2, bare ONNX Runtime in this process, and two references
that answer constant bytes and infer nothing: a `grpc.aio` server and a raw ASGI app on uvicorn.
Three networks: `tiny`, `mlp`, and `img` with 588 KiB a request. `tiny` is also called by gRPC over
TLS 1.3. For each row

- the peak rate in a closed loop (h2load, wrk), and the server's CPU microseconds a request;
- p50, p90 and p99 of one client that sends one request at a time (h2load, wrk, tritonclient);
- p50, p90 and p99 at half of the peak rate of the same round, in an open loop (not over TLS, which
  our generator does not speak).

The server runs as users start it, with every check, limit and metric on, on core 0; the load comes
from the last core. Ratios are taken within each round. Every server's answers are checked against
ONNX Runtime first, and each loaded run is held against the server's own count of requests.

    make bench
    python -m benchmarks.side_by_side [--networks tiny,mlp,img] [--rounds 3] [--seconds 2]
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime  # type: ignore[import-untyped]  # it ships no types

from benchmarks import targets
from benchmarks.contenders import (
    ASGI_BINARY,
    ASGI_JSON,
    BARE,
    GRPC_ECHO,
    GRPC_TLS,
    REST_BINARY,
    REST_JSON,
    contenders,
    grpc_name,
    over_tls,
    stokers,
)
from benchmarks.figures import Promises, facts, percentile, ratios, spread
from benchmarks.networks import NETWORKS, TINY, Network, bare_runs, on_core, session
from benchmarks.serving import GRPCIO, LOAD_CORE, NATIVE, SERVER_CORE, without_native
from benchmarks.targets import Target
from benchmarks.triton_clients import triton_calls
from tests.models import write_repository

WARM_UP_S = 0.5

Setting = tuple[int, int]
"""Connections and streams of each; over HTTP/1.1 as many connections as there would be streams."""

SETTINGS: dict[str, tuple[Setting, ...]] = {
    "tiny": ((4, 16), (16, 8)),
    "mlp": ((4, 16),),
    "img": ((16, 1),),
}


@dataclass
class Seen:
    """Figures of one network, by row, one entry a round."""

    rates: dict[tuple[str, Setting], list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_us: dict[tuple[str, Setting], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    lone: dict[str, list[tuple[float, float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    half: dict[str, list[tuple[float, float, float, float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    bare_rows: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def above_bare(self, name: str) -> list[float]:
        """p50 of one client less that of bare ONNX Runtime, by round."""
        pairs = zip(self.lone[name], self.lone[BARE], strict=False)
        return [theirs[0] - bare[0] for theirs, bare in pairs]


def one_round(
    seen: Seen,
    network: Network,
    found: list[Target],
    clients: dict[str, Callable[[float], tuple[float, float, float]]],
    bare: onnxruntime.InferenceSession,
    seconds: float,
) -> None:
    """Each row once."""
    with on_core(SERVER_CORE):
        times = [took * 1e6 for took in bare_runs(bare, network.rows(), seconds / 4)]
        p50, p90, p99 = (percentile(times, share) for share in (0.5, 0.9, 0.99))
        seen.lone[BARE].append((p50, p90, p99))
        for count in (1, 32):
            runs = bare_runs(bare, network.rows(count), seconds / 4)
            seen.bare_rows[count].append(count * len(runs) / sum(runs))
    settings = SETTINGS[network.name]
    for target in found:
        for setting in settings:
            if setting != settings[0] and not target.name.startswith(("gRPC", "grpc")):
                continue
            got = targets.measured(target, *setting, seconds)
            seen.rates[target.name, setting].append(got.load.per_second)
            seen.cpu_us[target.name, setting].append(got.cpu_us)
    for target in found:
        load = targets.measured(target, 1, 1, seconds / 2, with_latency=True).load
        seen.lone[target.name].append((load.p50_us, load.p90_us, load.p99_us))
    for name, call in clients.items():
        seen.lone[name].append(call(seconds / 4))
    for target in found:
        if target.name == GRPC_TLS:
            continue
        rate = seen.rates[target.name, settings[0]][-1] / 2
        outcome, _ = targets.measured_at_rate(target, rate, *settings[0], seconds * 0.75)
        late = percentile(outcome.late, 0.99) * 1e6
        seen.half[target.name].append(
            (rate, outcome.us(0.5), outcome.us(0.9), outcome.us(0.99), late)
        )


def table(network: Network, seen: Seen) -> None:
    """What was seen of one network."""
    print(f"\n## {network.name}, {network.rows().nbytes:,} bytes of input\n")
    print("| closed loop | connections x streams | requests/s | server CPU us per request |")
    print("|---|---|---|---|")
    for count, values in seen.bare_rows.items():
        print(f"| {BARE}, rows/s | batch {count} | {spread(values)} | |")
    for (name, (connections, streams)), rates in seen.rates.items():
        costs = seen.cpu_us[name, (connections, streams)]
        over = f"{connections} x {streams}"
        if name in (REST_BINARY, REST_JSON, ASGI_BINARY, ASGI_JSON):
            over = str(connections * streams)
        print(f"| {name} | {over} | {spread(rates)} | {spread(costs, 1)} |")
    print("\n| one client, one request at a time | p50 us | p90 us | p99 us | p50 above bare, us |")
    print("|---|---|---|---|---|")
    for name, rounds in seen.lone.items():
        cells = " | ".join(spread(each) for each in zip(*rounds, strict=True))
        print(f"| {name} | {cells} | {spread(seen.above_bare(name))} |")
    print("\n| half of the peak rate, open loop | requests/s | p50 us | p90 us | p99 us |", end="")
    print(" p99 of sent late, us |\n|---|---|---|---|---|---|")
    for name, figures in seen.half.items():
        cells = " | ".join(spread(each) for each in zip(*figures, strict=True))
        print(f"| {name} | {cells} |")


def promise(promises: Promises, network: str, seen: Seen) -> None:
    """Holds what was seen against what is promised for this network."""
    native, grpcio = grpc_name(NATIVE), grpc_name(GRPCIO)
    rates, costs = seen.rates, seen.cpu_us

    def beside(name: str, echo: str, setting: Setting) -> list[float]:
        return ratios(rates[name, setting], rates[echo, setting])

    if network == "tiny":
        for name, setting, floor in (
            (native, (4, 16), 17),
            (native, (16, 8), 16),
            (grpcio, (4, 16), 0.6),
        ):
            what = f"tiny: {name}, {setting[0]} x {setting[1]}, times the grpc.aio echo"
            promises.at_least(what, floor, beside(name, GRPC_ECHO, setting))
        what = f"tiny: server CPU us per request of {native}, 4 x 16"
        promises.at_most(what, 16, costs[native, (4, 16)], 1)
        for name, echo, floor in ((REST_BINARY, ASGI_BINARY, 1.5), (REST_JSON, ASGI_JSON, 1.0)):
            what = f"tiny: {name}, 64 connections, times the uvicorn echo"
            promises.at_least(what, floor, beside(name, echo, (4, 16)))
        for name in (native, REST_BINARY, REST_JSON):
            what = f"tiny: one client of {name}, p50 above bare ONNX Runtime, us"
            promises.at_most(what, 200, seen.above_bare(name), 0)
    if network == "img":
        what = f"img: {native}, 16 connections, times the grpc.aio echo"
        promises.at_least(what, 4.3, beside(native, GRPC_ECHO, (16, 1)))
        what = f"img: CPU per request of {native}, 16 connections, share of the grpc.aio echo's"
        shares = ratios(costs[native, (16, 1)], costs[GRPC_ECHO, (16, 1)])
        promises.at_most(what, 0.25, shares)


def main() -> None:
    """Prints three tables for each network, and one of the promises."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="tiny,mlp,img", help="which, by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="of each peak; the rest follows")
    given = parser.parse_args()
    chosen = [NETWORKS[name] for name in given.networks.split(",")]
    os.sched_setaffinity(0, {LOAD_CORE})
    promises = Promises(absent=without_native())
    print(f"{facts()}; {given.rounds} rounds of {given.seconds:g} s, medians (range)", flush=True)
    if (reason := without_native()) is not None:
        print(f"\nSkipped: {grpc_name(NATIVE)}: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        repository = write_repository(Path(folder), {each.name: each.make() for each in chosen})
        with stokers(repository) as ours:
            for network in chosen:
                bare = session(repository / network.name / "1" / "model.onnx")
                clients = triton_calls(network, ours)
                seen = Seen()
                with contenders(network, ours, bare) as found, contextlib.ExitStack() as opened:
                    if network is TINY and NATIVE in ours:
                        secured = over_tls(network, repository, bare)
                        found.append(opened.enter_context(secured))
                    for target in found:
                        targets.measured(target, *SETTINGS[network.name][0], WARM_UP_S)
                    for number in range(given.rounds):
                        one_round(seen, network, found, clients, bare, given.seconds)
                        print(f"{network.name}: round {number + 1}", file=sys.stderr, flush=True)
                table(network, seen)
                promise(promises, network.name, seen)
    promises.print()


if __name__ == "__main__":
    main()
