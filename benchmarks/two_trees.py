"""What did a change do: this tree's server beside another tree's, on one server core?

Both servers and one that answers constant bytes and infers nothing (a raw ASGI app on uvicorn, for
gRPC a grpc.aio server) take turns in each round: closed loops by wrk, with tensors as JSON and as
binary data, and by h2load. The other tree is a checkout of another commit; it runs with this
environment's packages. Ratios are taken within a round: on a machine that others use they say more
than what they are made of.

    git worktree add ../before COMMIT
    python -m benchmarks.two_trees ../before [--network tiny] [--connections 64] [--rounds 5]
    python -m benchmarks.two_trees ../before --forms gRPC --connections 4 --streams 16
    python -m benchmarks.two_trees ../before --connections 1        # one request at a time
"""

import contextlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks import bodies, targets
from benchmarks.figures import facts, ratios, spread
from benchmarks.networks import NETWORKS, Network, session
from benchmarks.rounds import options
from benchmarks.serving import LOAD_CORE, NATIVE, Endpoint, asgi_echo, grpc_echo, serve
from benchmarks.targets import Target
from tests.models import write_repository

BEFORE, AFTER, ECHO = "before", "after", "echo"
FORMS = ("JSON", "binary", "gRPC")
WARM_UP_S = 1.0


@contextlib.contextmanager
def server_of(tree: Path, repository: Path) -> Iterator[Endpoint]:
    """The server of a tree's code."""
    mine = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{tree / 'server'}:{tree}"
    try:
        served = serve(repository, transport=NATIVE)
        at = served.__enter__()
    finally:
        if mine is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = mine
    try:
        yield at
    finally:
        served.__exit__(None, None, None)


@contextlib.contextmanager
def rows_of(network: Network, other: Path) -> Iterator[dict[str, dict[str, Target]]]:
    """What is loaded: by form, then by name."""
    with contextlib.ExitStack() as opened:
        enter = opened.enter_context
        folder = enter(tempfile.TemporaryDirectory())
        repository = write_repository(Path(folder), {network.name: network.make()})
        x, name = network.rows(), network.name
        y = session(repository / name / "1" / "model.onnx").run(["y"], {"x": x})[0]
        here = Path(__file__).resolve().parent.parent
        before = enter(server_of(other.resolve(), repository))
        after = enter(server_of(here, repository))
        text = enter(asgi_echo(bodies.json_answer(name, y=y), "application/json"))
        binary = enter(asgi_echo(bodies.binary_answer(name, y=y)))
        message = bodies.grpc_request(name, x=x)
        grpc_at = enter(grpc_echo(bodies.grpc_answer(name, y=y)))
        yield {
            "JSON": {
                who: targets.rest_json(who, at, name, x)
                for who, at in ((BEFORE, before), (AFTER, after), (ECHO, text))
            },
            "binary": {
                who: targets.rest_binary(who, at, name, x)
                for who, at in ((BEFORE, before), (AFTER, after), (ECHO, binary))
            },
            "gRPC": {
                who: targets.grpc(who, at, message)
                for who, at in ((BEFORE, before), (AFTER, after), (ECHO, grpc_at))
            },
        }


def main() -> None:
    """Prints one table."""
    parser = options(__doc__, rounds=5, seconds=2)
    parser.add_argument("other", type=Path, help="the other tree")
    parser.add_argument("--network", default="tiny", choices=NETWORKS)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--streams", type=int, default=1, help="of a connection, for gRPC")
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    given = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    costs: dict[tuple[str, str], list[float]] = defaultdict(list)
    latencies: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with rows_of(NETWORKS[given.network], given.other) as rows:
        for number in range(given.rounds + 1):
            for form in given.forms:
                streams = given.streams if form == "gRPC" else 1
                for who, target in rows[form].items():
                    seconds = given.seconds if number else WARM_UP_S
                    seen = targets.measured(
                        target,
                        given.connections,
                        streams,
                        seconds,
                        with_latency=given.connections * streams == 1,
                    )
                    if number:
                        rates[form, who].append(seen.load.per_second)
                        costs[form, who].append(seen.cpu_us)
                        latencies[form, who].append((seen.load.p50_us, seen.load.p99_us))
    print(
        f"{facts()}; {given.network}, {given.connections} connections, by gRPC of {given.streams} "
        f"streams; {given.rounds} rounds of {given.seconds:g} s, medians (range)\n"
    )
    print(
        "| | | requests/s | times the echo | server CPU us | of before's | p50 us | of before's "
        "| p99 us |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for (form, who), seen_rates in rates.items():
        times = ratios(seen_rates, rates[form, ECHO])
        p50, p99 = zip(*latencies[form, who], strict=True)
        before, _ = zip(*latencies[form, BEFORE], strict=True)
        cpu_share = spread(ratios(costs[form, who], costs[form, BEFORE]), 2)
        told = " |  | "  # h2load tells latencies of one request at a time only
        if all(before):
            told = f"{spread(p50)} | {spread(ratios(p50, before), 2)} | {spread(p99)}"
        print(
            f"| {form} | {who} | {spread(seen_rates)} | {spread(times, 2)} "
            f"| {spread(costs[form, who], 1)} | {cpu_share} | {told} |"
        )


if __name__ == "__main__":
    main()
