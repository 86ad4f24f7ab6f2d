"""Does the event loop stay quick while large batches run?

Four clients send a request of 20 MB each, four rows that fill a batch, at the same moments, once a
second (open loop): batches of 20 MB run through an identity model, 80 MB/s in and out. Beside them
a probe in a process of its own asks `/livez` every 10 ms. Its p50 and p99 are compared with the same probe
on the idle server; the difference is what the load adds to the loop. The server's own histogram
stoker_loop_lag_seconds is read over both spans as well.

Neither side is pinned: on a machine of two cores the clients, the model's threads and the probe
share them with the loop, so part of the lag is the scheduler's.

    python -m benchmarks.loop_lag [--rounds 3] [--seconds 20] [--rate 1]
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

from benchmarks.serving import Endpoint, facts, percentile, rest_request, serve, spread
from tests import models
from tests.models import ModelEntry, write_repository

WIDTH = 1_250_000
CONFIG = "max_batch_size: 4\ndynamic_batching {}"
INTERVAL = 0.01


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
    headers = {"Inference-Header-Content-Length": str(length)}
    began = time.monotonic()
    for beat in range(int(seconds * rate)):
        time.sleep(max(0.0, began + beat / rate - time.monotonic()))
        connection.request("POST", "/v2/models/large/infer", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"status {answer.status}")


def load(at: Endpoint, body: bytes, length: int, seconds: float, rate: float) -> None:
    """Four clients, in a process of their own."""
    threads = [
        threading.Thread(target=client, args=(at, body, length, seconds, rate)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def lag_counts(at: Endpoint) -> dict[str, float]:
    """The server's own lag histogram, cumulative by upper bound."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{at.metrics}/metrics").read().decode()
    found = re.findall(r'stoker_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
    return {bound: float(count) for bound, count in found}


def inference_counts(at: Endpoint) -> tuple[float, float]:
    """Rows and runs of the model."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{at.metrics}/metrics").read().decode()
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
    parser.add_argument("--rate", type=float, default=1.0)
    given = parser.parse_args()
    x = np.random.default_rng(1).standard_normal((4, WIDTH)).astype(np.float32)
    body, length = rest_request("large", x=x)
    seen: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        network = models.identity(DataType.FP32, ["batch", WIDTH])
        repository = write_repository(Path(folder), {"large": ModelEntry(network, CONFIG)})
        with serve(repository, core=None) as at:
            lags: dict[str, dict[str, float]] = {"idle": {}, "20 MB batches": {}}
            for _ in range(given.rounds):
                for name, seconds in (
                    ("idle", given.seconds / 2),
                    ("20 MB batches", given.seconds),
                ):
                    loading = multiprocessing.Process(
                        target=load, args=(at, body, length, seconds + 1, given.rate)
                    )
                    if name != "idle":
                        loading.start()
                        time.sleep(0.5)
                    before = lag_counts(at)
                    times = probed(at, seconds)
                    for bound, count in lag_counts(at).items():
                        lags[name][bound] = lags[name].get(bound, 0) + count - before[bound]
                    if name != "idle":
                        loading.join()
                    seen.setdefault(name, []).append(
                        (percentile(times, 0.5), percentile(times, 0.99))
                    )
            rows, runs = inference_counts(at)
    print(f"{facts()}; {given.rounds} rounds, medians (range)\n")
    print("| /livez round trip | p50 ms | p99 ms |\n|---|---|---|")
    for name, rounds in seen.items():
        p50s, p99s = [each[0] for each in rounds], [each[1] for each in rounds]
        print(f"| {name} | {spread(p50s, 2)} | {spread(p99s, 2)} |")
    print(f"\n{runs:.0f} batches of {rows / runs:.1f} rows of 5 MB\n")
    bounds = [bound for bound in lags["idle"] if bound != "+Inf" and float(bound) <= 0.01]
    print("| stoker_loop_lag_seconds, share up to |", end="")
    print("".join(f" {float(bound) * 1e3:g} ms |" for bound in bounds))
    print("|---|" + "---|" * len(bounds))
    for name, counts in lags.items():
        shares = "".join(f" {counts[bound] / counts['+Inf']:.4f} |" for bound in bounds)
        print(f"| {name} ({counts['+Inf']:.0f} probes) |{shares}")


if __name__ == "__main__":
    main()
