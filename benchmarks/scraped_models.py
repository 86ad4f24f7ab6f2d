"""Does the event loop stay quick while 1,000 models are scraped every second?

A server of 1,000 small models, each with weights of its own, on one core; a real Prometheus scrapes
it once a second from the other, where the load runs as well. Four cases take turns: nobody scrapes;
scraped while no number of a model changes; while 10 models get requests; while every model gets one
between two scrapes, so that each scrape writes all of it anew. In each case the server's own
stoker_loop_lag_seconds is read over the span, a probe in a process of its own asks `/livez` every
10 ms, and the server's CPU is told. The promise is a p99 of the lag of at most 2 ms. On a machine
that others use as well, --realtime lets server and probe, as root, run before all of them, and the
rest before most.

    python -m benchmarks.scraped_models [--models 1000] [--rounds 3] [--seconds 10] [--realtime]
"""

import contextlib
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import call_headers
from benchmarks.bodies import framed, grpc_request
from benchmarks.figures import Promises, facts, percentile, spread
from benchmarks.generator import arrivals, open_loop
from benchmarks.loop_lag import lag_counts, probe, scrape
from benchmarks.many_models import model_name, variant
from benchmarks.networks import TINY
from benchmarks.raw_http2 import Call, Http2Client
from benchmarks.rounds import options
from benchmarks.serving import LOAD_CORE, Endpoint, cpu_seconds, serve
from benchmarks.targets import connected
from tests.models import write_repository
from tests.prometheus import Prometheus, run_prometheus

STREAMS = 64
PROMISED_S = 0.002
JOB = "stoker"
EVERY_SECOND = {"scrape_interval": "1s", "scrape_timeout": "1s"}


@dataclass(frozen=True)
class Case:
    """What happens while the loop is watched."""

    name: str
    scraped: bool
    called: int
    """Models that get requests, in turn."""


@dataclass(frozen=True)
class Seen:
    """One round of a case."""

    lag: dict[str, float]
    """Probes of the server's own by upper bound, cumulative."""
    livez_p99_ms: float
    cpu_share: float
    scrapes: tuple[int, int]
    """Good and failed ones."""
    scrape_s: float
    """How long a scrape took on average, as Prometheus saw it."""


def cases(models: int) -> list[Case]:
    """In the order in which they take turns."""
    return [
        Case("not scraped, no requests", False, 0),
        Case("scraped, nothing changes", True, 0),
        Case("scraped, 10 models called", True, 10),
        Case("scraped, every model called", True, models),
    ]


def call(at: Endpoint, models: int, rate: float, seconds: float) -> None:
    """Requests at even gaps, over the first `models` in turn; all must be answered well."""
    x = TINY.rows()
    bodies = [framed(grpc_request(model_name(each), x=x)) for each in range(models)]
    fields = call_headers.grpc_fields(at.grpc)

    def script(client: Http2Client) -> Iterator[Call]:
        blocks = call_headers.blocks(
            call_headers.Encoding.PLAIN, fields, table_bytes=client.table_bytes
        )
        yield Call(next(blocks), bodies[0])
        block = next(blocks)
        yield from cycle([Call(block, body) for body in bodies])

    with connected(lambda: Http2Client(at.grpc, STREAMS), 1) as clients:
        moments = arrivals(rate, seconds, even=True)
        open_loop(clients, [script(each) for each in clients], moments).all_good()


@dataclass(frozen=True)
class Span:
    """How each round goes."""

    rate: float
    seconds: float
    realtime: bool


def probe_first(port: int, span: Span, results: Connection) -> None:
    """As `probe`, before all others where asked."""
    if span.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
    probe(port, span.seconds, results)


def watched(at: Endpoint, case: Case, span: Span, folder: Path) -> Seen:
    """One round."""
    seconds = span.seconds
    with contextlib.ExitStack() as opened:
        prometheus: Prometheus | None = None
        if case.scraped:
            target = {"job_name": JOB, "static_configs": [{"targets": [f"127.0.0.1:{at.metrics}"]}]}
            config = {"global": EVERY_SECOND, "scrape_configs": [target]}
            prometheus = opened.enter_context(run_prometheus(folder, config))
            while prometheus.scrapes_of(JOB)[0] < 2:
                time.sleep(0.2)
        loading = threading.Thread(target=call, args=(at, case.called, span.rate, seconds + 1))
        if case.called:
            loading.start()
            time.sleep(0.5)
        before, cpu = lag_counts(at), cpu_seconds(at.process)
        ours, theirs = multiprocessing.Pipe()
        prober = multiprocessing.Process(target=probe_first, args=(at.metrics, span, theirs))
        prober.start()
        times: list[float] = ours.recv()
        prober.join()
        used = cpu_seconds(at.process) - cpu
        after = lag_counts(at)
        if case.called:
            loading.join()
        scrapes, scrape_s = (0, 0), 0.0
        if prometheus is not None:
            scrapes = prometheus.scrapes_of(JOB)
            scrape_s = prometheus.query("avg_over_time(scrape_duration_seconds[1h])")[0].value
    lag = {bound: count - before[bound] for bound, count in after.items()}
    return Seen(lag, percentile(times, 0.99), used / seconds, scrapes, scrape_s)


def quantile(lag: dict[str, float], share: float) -> float:
    """Seconds, within the bucket by a straight line as PromQL does it."""
    rank, low, below = share * lag["+Inf"], 0.0, 0.0
    for bound, count in lag.items():
        if count >= rank:
            return low + (float(bound) - low) * (rank - below) / max(count - below, 1)
        low, below = float(bound), count
    return float("inf")


def series(at: Endpoint) -> tuple[int, int]:
    """Lines and bytes of a scrape."""
    text = scrape(at)
    return len([line for line in text.splitlines() if line[:1] != "#"]), len(text)


def main() -> None:
    """Prints two tables and the promise."""
    parser = options(__doc__, rounds=3, seconds=10)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--realtime", action="store_true", help="under SCHED_RR (needs root)")
    given = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    if given.realtime:
        os.nice(-15)  # what is started inherits it
    seen: dict[str, list[Seen]] = defaultdict(list)
    every = cases(given.models)
    with tempfile.TemporaryDirectory() as folder:
        repository = write_repository(
            Path(folder) / "models",
            {model_name(number): variant(number) for number in range(given.models)},
        )
        if given.realtime:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))  # the server inherits it
        with serve(repository) as at:
            if given.realtime:
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            call(at, given.models, given.models, 2)  # every histogram exists
            lines, size = series(at)
            for turn in range(given.rounds):
                for case in every:
                    data = Path(folder) / f"prometheus-{turn}-{len(seen[case.name])}-{case.called}"
                    span = Span(given.models, given.seconds, given.realtime)
                    seen[case.name].append(watched(at, case, span, data))
                    late_ms = quantile(seen[case.name][-1].lag, 0.99) * 1e3
                    print(f"{case.name}: lag p99 {late_ms:.2f} ms", file=sys.stderr, flush=True)
    print(f"{facts()}; {given.rounds} rounds of {given.seconds:g} s, medians (range)\n")
    print(f"{given.models:,} models, {lines:,} series, {size / 2**20:.1f} MiB a scrape\n")
    print("| case | lag p50 ms | lag p99 ms | share up to 2 ms | `/livez` p99 ms | ", end="")
    print("CPU share of the server | a scrape takes s | scrapes, failed |")
    print("|---|---|---|---|---|---|---|---|")
    for name, rounds in seen.items():
        p50 = [quantile(each.lag, 0.5) * 1e3 for each in rounds]
        p99 = [quantile(each.lag, 0.99) * 1e3 for each in rounds]
        within = [each.lag[f"{PROMISED_S}"] / each.lag["+Inf"] for each in rounds]
        print(
            f"| {name} | {spread(p50, 2)} | {spread(p99, 2)} | {spread(within, 4)} "
            f"| {spread([each.livez_p99_ms for each in rounds], 2)} "
            f"| {spread([each.cpu_share for each in rounds], 2)} "
            f"| {spread([each.scrape_s for each in rounds], 2)} "
            f"| {sum([each.scrapes[0] for each in rounds])}, "
            f"{sum([each.scrapes[1] for each in rounds])} |"
        )
    promises = Promises()
    for case in every:
        if case.scraped:
            lags = [quantile(each.lag, 0.99) * 1e3 for each in seen[case.name]]
            promises.at_most(f"{given.models:,} models, {case.name}: lag p99, ms", 2.0, lags)
    promises.print()


if __name__ == "__main__":
    main()
