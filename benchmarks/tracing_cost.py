"""What do tracing and the access log cost, off and on, in rate and server CPU?

Servers of this tree, each pinned to the server core, take turns in each round: without either, with
tracing of 1 % and of all requests, and with the access log of a share and of all. A receiver of
OTLP (tests/otlp_receiver.py) gets the spans, on the load core as a collector would be elsewhere; a
reader drops the lines. With another tree, a checkout of the commit before tracing, that one's
server takes turns too: `before`.

    git worktree add ../before COMMIT
    python -m benchmarks.tracing_cost [--before ../before] [--connections 4] [--streams 16]
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from benchmarks import bodies, targets
from benchmarks.figures import facts, ratios, spread
from benchmarks.networks import NETWORKS, session
from benchmarks.rounds import options
from benchmarks.serving import LOAD_CORE, Endpoint, environment, serve
from benchmarks.targets import Target
from tests.models import write_repository
from tests.spans import receiving

OFF, BEFORE = "off", "before"
HERE: Final = Path(__file__).resolve().parent.parent
WAYS: Final[Mapping[str, tuple[str, ...]]] = {
    OFF: (),
    "traced 1 %": ("--tracing", "--trace-sampling", "0.01"),
    "traced 100 %": ("--tracing", "--trace-sampling", "1"),
    "access log, sampled 1 %": ("--access-log", "sampled"),
    "access log, all": ("--access-log", "all"),
}
WARM_UP_S: Final = 1.0


@contextlib.contextmanager
def servers(repository: Path, before: Path | None, receiver: str) -> Iterator[dict[str, Endpoint]]:
    """All servers, by what they are."""
    with contextlib.ExitStack() as opened:
        found: dict[str, Endpoint] = {}
        if before is not None:
            path = f"{before.resolve() / 'server'}:{before.resolve()}"
            with environment(PYTHONPATH=path):
                found[BEFORE] = opened.enter_context(serve(repository))
        path = f"{HERE / 'server'}:{HERE}"
        with environment(PYTHONPATH=path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver):
            for who, arguments in WAYS.items():
                found[who] = opened.enter_context(serve(repository, *arguments))
        yield found


def main() -> None:
    """Prints one table."""
    parser = options(__doc__, rounds=5, seconds=1.5)
    parser.add_argument("--before", type=Path, help="the tree of the commit before")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=16)
    given = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    network = NETWORKS["tiny"]
    seen_rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    costs: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, receiving("silent") as receiver:
        repository = write_repository(Path(folder), {network.name: network.make()})
        x = network.rows()
        session(repository / network.name / "1" / "model.onnx").run(["y"], {"x": x})
        message = bodies.grpc_request(network.name, x=x)
        with servers(repository, given.before, receiver.grpc) as found:
            rows: dict[str, dict[str, Target]] = {
                "gRPC": {who: targets.grpc(who, at, message) for who, at in found.items()},
                "REST": {
                    who: targets.rest_binary(who, at, network.name, x) for who, at in found.items()
                },
            }
            for number in range(given.rounds + 1):
                for form, ways in rows.items():
                    # Who comes first in a round has the caches of nobody: they take turns in that.
                    order = list(ways.items())
                    turn = number % len(order)
                    for who, target in order[turn:] + order[:turn]:
                        seconds = given.seconds if number else WARM_UP_S
                        streams = given.streams if form == "gRPC" else 1
                        connections = given.connections if form == "gRPC" else 64
                        measured = targets.measured(target, connections, streams, seconds)
                        if number:
                            seen_rates[form, who].append(measured.load.per_second)
                            costs[form, who].append(measured.cpu_us)
            for who, at in found.items():
                print(f"{who}: {told(at)}", file=sys.stderr)
    print(f"{facts()}; tiny; {given.rounds} rounds of {given.seconds:g} s, medians (range)\n")
    print("| | | requests/s | server CPU us | CPU by that of off |")
    print("|---|---|---|---|---|")
    for form, who in seen_rates:
        times = ratios(costs[form, who], costs[form, OFF])
        print(
            f"| {form} | {who} | {spread(seen_rates[form, who])} | {spread(costs[form, who], 1)} "
            f"| {spread(times, 2)} |"
        )


def told(at: Endpoint) -> str:
    """What a server says of its spans and lines."""
    command = ["curl", "-s", f"http://127.0.0.1:{at.metrics}/metrics"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wanted = ("stoker_trace_spans_total{", "stoker_access_log_lines_total{")
    return "; ".join(line for line in text.splitlines() if line.startswith(wanted))


if __name__ == "__main__":
    main()
