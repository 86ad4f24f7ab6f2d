"""Does the event loop stay quick while large batches run?

Requests of 5 MB come from four clients in a closed loop, so that batches of up to 20 MB run all
the time. Beside them a probe in a process of its own asks `/livez` every 10 ms. Its p50 and p99
are compared with the same probe on the idle server; the difference is what the load adds to the
loop. The server's own histogram stoker_loop_lag_seconds is read as well.

Neither side is pinned: on a machine of two cores the clients, the model's threads and the probe
share them with the loop, so part of the lag is the scheduler's.

    python -m benchmarks.loop_lag [--rounds 3] [--seconds 8]
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


def client(at: Endpoint, body: bytes, length: int, stop: threading.Event) -> None:
    """Sends one request after another."""
    connection = http.client.HTTPConnection("127.0.0.1", at.http)
    headers = {"Inference-Header-Content-Length": str(length)}
    while not stop.is_set():
        connection.request("POST", "/v2/models/large/infer", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"status {answer.status}")


def load(at: Endpoint, body: bytes, length: int, seconds: float) -> None:
    """Four clients, in a process of their own."""
    stop = threading.Event()
    threads = [threading.Thread(target=client, args=(at, body, length, stop)) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()


def lag_counts(at: Endpoint) -> dict[str, float]:
    """The server's own lag histogram, cumulative by upper bound."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{at.metrics}/metrics").read().decode()
    found = re.findall(r'stoker_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
    return {bound: float(count) for bound, count in found}


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8)
    given = parser.parse_args()
    x = np.random.default_rng(1).standard_normal((1, WIDTH)).astype(np.float32)
    body, length = rest_request("large", x=x)
    seen: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        network = models.identity(DataType.FP32, ["batch", WIDTH])
        repository = write_repository(Path(folder), {"large": ModelEntry(network, CONFIG)})
        with serve(repository, core=None) as at:
            before = lag_counts(at)
            for _ in range(given.rounds):
                idle = probed(at, given.seconds / 2)
                seen.setdefault("idle", []).append((percentile(idle, 0.5), percentile(idle, 0.99)))
                loading = multiprocessing.Process(
                    target=load, args=(at, body, length, given.seconds + 1)
                )
                loading.start()
                time.sleep(0.5)
                busy = probed(at, given.seconds)
                loading.join()
                seen.setdefault("20 MB batches", []).append(
                    (percentile(busy, 0.5), percentile(busy, 0.99))
                )
            after = lag_counts(at)
    print(f"{facts()}; {given.rounds} rounds, medians (range)\n")
    print("| /livez round trip | p50 ms | p99 ms |\n|---|---|---|")
    for name, rounds in seen.items():
        p50s, p99s = [each[0] for each in rounds], [each[1] for each in rounds]
        print(f"| {name} | {spread(p50s, 2)} | {spread(p99s, 2)} |")
    total = after["+Inf"] - before["+Inf"]
    shares = ", ".join(
        f"<= {float(bound) * 1e3:g} ms: {(after[bound] - before[bound]) / total:.4f}"
        for bound in after
        if bound != "+Inf" and float(bound) <= 0.01
    )
    print(f"\nstoker_loop_lag_seconds, idle and busy together: {shares}")


if __name__ == "__main__":
    main()
