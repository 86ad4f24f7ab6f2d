"""Does a server with many models still have the rate of a server with one?

Small networks, each with weights of its own, in servers of 1, 10, 16, 100 and 1,000 models, one
server core for all of them, taking turns. Mixed load goes over all models of a server in turn; of
the 1,000 only 10 are called. gRPC with 4 connections of 16 streams (our generator: h2load sends one
message only), REST with binary tensors over 64 connections (wrk). The time until ready and the
memory of a model are told as well.

    python -m benchmarks.many_models [--rounds 3] [--seconds 2] [--most 1000]
"""

import contextlib
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks import answers, call_headers
from benchmarks.accounts import audited
from benchmarks.bodies import binary_headers, framed, grpc_request, rest_request
from benchmarks.contenders import grpc_name
from benchmarks.figures import Promises, facts, ratios, spread
from benchmarks.generator import closed_loop
from benchmarks.load_tools import wrk_mixed
from benchmarks.networks import TINY, session, tiny
from benchmarks.raw_http2 import Call, Http2Client
from benchmarks.rounds import options
from benchmarks.serving import LOAD_CORE, Endpoint, resident_bytes, serve, transports
from benchmarks.targets import connected, rest_path
from tests.models import write_repository

CONNECTIONS, STREAMS = 4, 16
ACTIVE = 10
CHECKED = 5
"""Models of each server whose answers are checked, the last one among them."""
REST = "REST, binary"


@dataclass(frozen=True)
class Served:
    """A server of so many models, of which the first `active` are called."""

    models: int
    active: int
    at: Endpoint
    ready_s: float
    resident: int


def model_name(number: int) -> str:
    """Names sort as they are numbered."""
    return f"m{number:04d}"


def variant(number: int) -> onnx.ModelProto:
    """`tiny` with an output of its own, so that an answer tells which model gave it."""
    model = tiny()
    bias = next(each for each in model.graph.initializer if each.name == "b2")
    shifted = numpy_helper.to_array(bias) + np.arange(bias.dims[0]) * np.float32(number / 100)
    bias.CopyFrom(numpy_helper.from_array(shifted.astype(np.float32), "b2"))
    return model


@contextlib.contextmanager
def served(folder: Path, models: int, active: int, transport: str) -> Iterator[Served]:
    """A server of the first `models` variants, checked."""
    repository = write_repository(
        folder / f"of-{models}", {model_name(number): variant(number) for number in range(models)}
    )
    began = time.monotonic()
    with serve(repository, transport=transport) as at:
        ready_s = time.monotonic() - began
        for number in {*range(min(models, CHECKED - 1)), models - 1}:
            name = model_name(number)
            bare = session(repository / name / "1" / "model.onnx")
            answers.check(at, replace(TINY, name=name), bare)
        yield Served(models, active, at, ready_s, resident_bytes(at.process))


def grpc_load(server: Served, seconds: float) -> tuple[float, float]:
    """Calls a second and CPU microseconds a call, over all active models in turn."""
    at, x = server.at, TINY.rows()
    bodies = [framed(grpc_request(model_name(each), x=x)) for each in range(server.active)]
    fields = call_headers.grpc_fields(at.grpc)

    def script(client: Http2Client, first: int) -> Iterator[Call]:
        blocks = call_headers.blocks(
            call_headers.Encoding.PLAIN, fields, table_bytes=client.table_bytes
        )
        yield Call(next(blocks), bodies[0])
        block = next(blocks)
        calls = [Call(block, body) for body in bodies]
        yield from cycle(calls[first:] + calls[:first])

    with (
        connected(lambda: Http2Client(at.grpc, STREAMS), CONNECTIONS) as clients,
        audited(at) as account,
    ):
        scripts = [
            script(each, number * server.active // CONNECTIONS)  # no two call the same models
            for number, each in enumerate(clients)
        ]
        outcome = closed_loop(clients, scripts, seconds).all_good()
        account.counted, account.in_flight = outcome.good, CONNECTIONS * STREAMS
    return outcome.per_second, account.cpu_us


def rest_load(server: Served, seconds: float) -> tuple[float, float]:
    """The same over REST."""
    body, length = rest_request(x=TINY.rows())
    calls = [
        (rest_path(model_name(each)), body, binary_headers(length)) for each in range(server.active)
    ]
    with audited(server.at) as account:
        load = wrk_mixed(server.at.http, calls, connections=CONNECTIONS * STREAMS, seconds=seconds)
        account.counted, account.in_flight = load.requests, load.in_flight
    return load.per_second, account.cpu_us


def main() -> None:
    """Prints two tables, and one of the promises."""
    parser = options(__doc__, rounds=3, seconds=2)
    parser.add_argument("--most", type=int, default=1000, help="models of the largest server")
    given = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    transport = transports()[0]
    grpc = grpc_name(transport)
    if given.most <= 100:  # else its server would take the place of the one of 100, all called
        parser.error(f"expected --most above 100, got {given.most}")
    sizes = {1: 1, ACTIVE: ACTIVE, 16: 16, 100: 100, given.most: ACTIVE}
    seen: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        servers: list[Served] = []
        for models, active in sizes.items():
            server = opened.enter_context(served(Path(folder), models, active, transport))
            print(f"{models} models: ready in {server.ready_s:.1f} s", file=sys.stderr, flush=True)
            servers.append(server)
        for server in servers:
            grpc_load(server, 0.5)
            rest_load(server, 1)
        for _ in range(given.rounds):
            for server in servers:
                seen[grpc, server.models].append(grpc_load(server, given.seconds))
                seen[REST, server.models].append(rest_load(server, given.seconds))
    print(f"{facts()}; {given.rounds} rounds of {given.seconds:g} s, medians (range)\n")
    print("| models | ready after, s | resident, MiB |\n|---|---|---|")
    for server in servers:
        print(f"| {server.models:,} | {server.ready_s:.1f} | {server.resident / 2**20:,.0f} |")
    first, last = servers[0], servers[-1]
    each = (last.resident - first.resident) / (last.models - first.models) / 2**10
    print(f"\n{each:,.0f} KiB of memory a model\n")
    print("| protocol | models, called | requests/s | of one model's rate |", end="")
    print(" server CPU us per request |\n|---|---|---|---|---|")
    rates = {key: [rate for rate, _ in rounds] for key, rounds in seen.items()}
    promises = Promises()
    for protocol in (grpc, REST):
        for server in servers:
            key = (protocol, server.models)
            share = ratios(rates[key], rates[protocol, 1])
            costs = [cost for _, cost in seen[key]]
            print(
                f"| {protocol} | {server.models:,}, {server.active} | {spread(rates[key])} "
                f"| {spread(share, 2)} | {spread(costs, 1)} |"
            )
            if server.models in (16, 100):
                what = f"{protocol}: {server.models} models, all called, share of one model's rate"
                promises.at_least(what, 0.7, share)
        loaded = f"{protocol}: {given.most:,} models, {ACTIVE} called"
        kept = ratios(rates[protocol, given.most], rates[protocol, ACTIVE])
        promises.at_least(f"{loaded}, share of the rate of {ACTIVE} alone", 0.9, kept)
    promises.print()


if __name__ == "__main__":
    main()
