"""Does the event loop stay quick while 1,000 models are scraped every second?

A server of 1,000 small models, each with weights of its own, on one core; a scraper, a process of
its own, reads `/metrics` as OpenMetrics once a second from the other, where the load runs as well.
(A real Prometheus takes over a second of such a core to store 110,000 samples.) Four cases take
turns: nobody scrapes; scraped while no number of a model changes; while 10 models get requests;
while every model gets one between two scrapes, so that each scrape writes all of it anew. In each
case the server's own stoker_loop_lag_seconds is read over the span, a probe in a process of its own
asks `/livez` every 10 ms, and the server's CPU is told. To read the lag is a scrape: a few of the
200 probes of the case without scrapes are beside the end of one or the beginning of another. The
promise is a p99 of the lag of at most 2 ms. On a machine that others use as well, --realtime lets
server and probe, as root, run before all of them, and the rest before most.

    python -m benchmarks.scraped_models [--models 1000] [--rounds 3] [--seconds 10] [--realtime]
"""

import contextlib
import http.client
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

STREAMS = 64
PROMISED_S = 0.002


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
    scrapes: list[float]
    """Seconds that each scrape took."""


def scrape_on(port: int, ending: Connection) -> None:
    """Scrapes at each full second until the other end says so; gives the seconds of each scrape."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    durations: list[float] = []
    due = time.monotonic()
    while not ending.poll(max(0.0, due - time.monotonic())):
        began = time.monotonic()
        connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200 or not text.endswith(b"# EOF\n"):
            raise SystemExit(f"a scrape was answered by {answer.status}")
        durations.append(time.monotonic() - began)
        due = max(due + 1.0, time.monotonic())
    ending.send(durations)


class Scraper:
    """A process that scrapes once a second, within a `with` block."""

    def __init__(self, port: int) -> None:
        self.durations: list[float] = []
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=scrape_on, args=(port, theirs))

    def __enter__(self) -> None:
        self._process.start()
        time.sleep(2.0)

    def __exit__(self, *_: object) -> None:
        self._ours.send(None)
        self.durations = self._ours.recv()
        self._process.join()


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


def watched(at: Endpoint, case: Case, span: Span) -> Seen:
    """One round."""
    seconds = span.seconds
    with contextlib.ExitStack() as opened:
        scraper = Scraper(at.metrics) if case.scraped else None
        if scraper is not None:
            opened.enter_context(scraper)
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
    lag = {bound: count - before[bound] for bound, count in after.items()}
    scrapes = scraper.durations if scraper is not None else []
    return Seen(lag, percentile(times, 0.99), used / seconds, scrapes)


def quantile(lag: dict[str, float], share: float) -> float:
    """Seconds, within the bucket by a straight line as PromQL does it."""
    rank, low, below = share * lag["+Inf"], 0.0, 0.0
    for bound, count in lag.items():
        if count >= rank:
            return low + (float(bound) - low) * (rank - below) / max(count - below, 1)
        low, below = float(bound), count
    return float("inf")


def loop_first(process: int) -> None:
    """The loop before all others; the other threads of the server below it, as the server wants."""
    for task in Path(f"/proc/{process}/task").iterdir():
        if int(task.name) != process:
            os.sched_setscheduler(int(task.name), os.SCHED_OTHER, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, int(task.name), os.getpriority(os.PRIO_PROCESS, 0) + 10)
    os.sched_setscheduler(process, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def figures(values: list[float]) -> str:
    """Median and range; a dash without any."""
    return spread(values) if values else "-"


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
            call(at, given.models, given.models, 2)  # every histogram and every thread exists
            if given.realtime:
                loop_first(at.process)
            lines, size = series(at)
            for _ in range(given.rounds):
                for case in every:
                    span = Span(given.models, given.seconds, given.realtime)
                    seen[case.name].append(watched(at, case, span))
                    late_ms = quantile(seen[case.name][-1].lag, 0.99) * 1e3
                    print(f"{case.name}: lag p99 {late_ms:.2f} ms", file=sys.stderr, flush=True)
    print(f"{facts()}; {given.rounds} rounds of {given.seconds:g} s, medians (range)\n")
    print(f"{given.models:,} models, {lines:,} series, {size / 2**20:.1f} MiB a scrape\n")
    print("| case | lag p50 ms | lag p99 ms | share up to 2 ms | `/livez` p99 ms | ", end="")
    print("CPU share of the server | a scrape takes ms | scrapes a second |")
    print("|---|---|---|---|---|---|---|---|")
    for name, rounds in seen.items():
        spans = len(rounds) * (given.seconds + 2.5)  # it scrapes before and a little longer
        p50 = [quantile(each.lag, 0.5) * 1e3 for each in rounds]
        p99 = [quantile(each.lag, 0.99) * 1e3 for each in rounds]
        within = [each.lag[f"{PROMISED_S}"] / each.lag["+Inf"] for each in rounds]
        print(
            f"| {name} | {spread(p50, 2)} | {spread(p99, 2)} | {spread(within, 4)} "
            f"| {spread([each.livez_p99_ms for each in rounds], 2)} "
            f"| {spread([each.cpu_share for each in rounds], 2)} "
            f"| {figures([taken * 1e3 for each in rounds for taken in each.scrapes])} "
            f"| {sum([len(each.scrapes) for each in rounds]) / spans:.2f} |"
        )
    promises = Promises()
    for case in every:
        if case.scraped:
            lags = [quantile(each.lag, 0.99) * 1e3 for each in seen[case.name]]
            promises.at_most(f"{given.models:,} models, {case.name}: lag p99, ms", 2.0, lags)
    promises.print()


if __name__ == "__main__":
    main()
