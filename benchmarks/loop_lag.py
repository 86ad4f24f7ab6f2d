"""Does the event loop stay quick while large batches run?

Requests of 20 MB, four rows that fill a batch, run through an identity model at 80 MB/s in and out
(open loop): from one client four times a second, or from four clients at the same moments once a
second. Beside them a probe in a process of its own asks `/livez` every 10 ms. Its p50 and p99 are
compared with the same probe on the idle server. The server's own histogram stoker_loop_lag_seconds
is read over the same spans, and from the kernel how long the loop's thread was ready to run and
waited for a CPU: nothing is pinned, and on two cores clients, model, probe and loop share them.

    python -m benchmarks.loop_lag [--rounds 3] [--seconds 20]
"""

import argparse
import http.client
import multiprocessing
import re
import tempfile
import threading
import time
import urllib.request
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from stoker.tensor import DataType

from benchmarks.bodies import binary_headers, rest_request
from benchmarks.figures import facts, percentile, spread
from benchmarks.serving import Endpoint, serve
from tests import models
from tests.models import ModelEntry, write_repository

WIDTH = 1_250_000
CONFIG = "max_batch_size: 4\ndynamic_batching {}"
INTERVAL = 0.01
RATE = 4.0
IDLE = "idle"
LOADS = {IDLE: 0, "20 MB batches, one client": 1, "20 MB batches, four clients at once": 4}


def probe(port: int, seconds: float, results: Connection) -> None:
    """Round trips of `/livez` in milliseconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    times: list[float] = []
    due = time.perf_counter()
    end = due + seconds
    while due < end:
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        connection.request("GET", "/livez")
        connection.getresponse().read()
        times.append((time.perf_counter() - began) * 1e3)
        due += INTERVAL
    results.send(times)


def probed(at: Endpoint, seconds: float) -> list[float]:
    """The probe's answers, from a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=probe, args=(at.metrics, seconds, theirs))
    process.start()
    times: list[float] = ours.recv()
    process.join()
    return times


def client(at: Endpoint, body: bytes, length: int, seconds: float, rate: float) -> None:
    """Sends a request at each beat; a late answer delays no later beat that is still ahead."""
    connection = http.client.HTTPConnection("127.0.0.1", at.http)
    headers = binary_headers(length)
    began = time.monotonic()
    for beat in range(int(seconds * rate)):
        time.sleep(max(0.0, began + beat / rate - time.monotonic()))
        connection.request("POST", "/v2/models/large/infer", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"status {answer.status}")


def load(at: Endpoint, body: bytes, length: int, seconds: float, clients: int) -> None:
    """So many clients, in a process of their own, that send RATE requests a second together."""
    threads = [
        threading.Thread(target=client, args=(at, body, length, seconds, RATE / clients))
        for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def scrape(at: Endpoint) -> str:
    """What `/metrics` says, as classic text."""
    with urllib.request.urlopen(f"http://127.0.0.1:{at.metrics}/metrics") as answer:
        text: str = answer.read().decode()
    return text


def lag_counts(at: Endpoint) -> dict[str, float]:
    """The server's own lag histogram, cumulative by upper bound."""
    found = re.findall(r'stoker_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', scrape(at))
    return {bound: float(count) for bound, count in found}


def cpu_wait(at: Endpoint) -> float:
    """Seconds that the loop's thread was ready to run and had no CPU, since it began."""
    return int(Path(f"/proc/{at.process}/schedstat").read_text().split()[1]) / 1e9


def inference_counts(at: Endpoint) -> tuple[float, float]:
    """Rows and runs of the model."""
    text = scrape(at)
    rows, runs = (
        float(re.findall(rf"{name}\{{.*?\}} (\S+)", text)[0])
        for name in ("nv_inference_count", "nv_inference_exec_count")
    )
    return rows, runs


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20)
    given = parser.parse_args()
    x = np.random.default_rng(1).standard_normal((4, WIDTH)).astype(np.float32)
    body, length = rest_request(x=x)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in LOADS}
    lags: dict[str, dict[str, float]] = {name: {} for name in LOADS}
    waits = dict.fromkeys(LOADS, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        network = models.identity(DataType.FP32, ["batch", WIDTH])
        repository = write_repository(Path(folder), {"large": ModelEntry(network, CONFIG)})
        with serve(repository, core=None) as at:
            for _ in range(given.rounds):
                for name, clients in LOADS.items():
                    loading = multiprocessing.Process(
                        target=load, args=(at, body, length, given.seconds + 1, clients)
                    )
                    if clients:
                        loading.start()
                        time.sleep(0.5)
                    before, waited = lag_counts(at), cpu_wait(at)
                    times = probed(at, given.seconds)
                    waits[name] += cpu_wait(at) - waited
                    for bound, count in lag_counts(at).items():
                        lags[name][bound] = lags[name].get(bound, 0) + count - before[bound]
                    if clients:
                        loading.join()
                    seen[name].append((percentile(times, 0.5), percentile(times, 0.99)))
            rows, runs = inference_counts(at)
    print(f"{facts()}; {given.rounds} rounds of {given.seconds} s, medians (range)\n")
    print("| /livez round trip | p50 ms | p99 ms |\n|---|---|---|")
    for name, rounds in seen.items():
        p50s, p99s = [each[0] for each in rounds], [each[1] for each in rounds]
        print(f"| {name} | {spread(p50s, 2)} | {spread(p99s, 2)} |")
    print(f"\n{runs:.0f} batches of {rows / runs:.1f} rows of 5 MB\n")
    bounds = [bound for bound in lags[IDLE] if bound != "+Inf" and float(bound) <= 0.01]
    print("| stoker_loop_lag_seconds, share up to |", end="")
    print("".join(f" {float(bound) * 1e3:g} ms |" for bound in bounds), end="")
    print(" waits for a CPU |")
    print("|---|" + "---|" * (len(bounds) + 1))
    for name, counts in lags.items():
        shares = "".join(f" {counts[bound] / counts['+Inf']:.4f} |" for bound in bounds)
        waited_ms = waits[name] * 1e3 / (given.rounds * given.seconds)
        print(f"| {name} ({counts['+Inf']:.0f} probes) |{shares} {waited_ms:.1f} ms/s |")


if __name__ == "__main__":
    main()
