"""Do batches form without a delay, and do they cost a lone request anything?

A compute-bound network whose run takes at least 1 ms (`slow`: 16 matrices of 768 x 768), served
with no delay and no preferred size. Three questions, in one run on the same machine:

1. 32 concurrent clients: the mean batch (nv_inference_count / nv_inference_exec_count), the rows a
   second, and their share of what bare ONNX Runtime does at its best batch with as many threads.
2. One client: p50 with batching as served, against the same model with batching off
   (max_batch_size 1), and against bare ONNX Runtime.
3. The batch limit that the cost curve implied.

Neither side is pinned: the model uses the threads that Stoker gives it.

    python -m benchmarks.batching [--rounds 3] [--seconds 5]
"""

import argparse
import tempfile
import urllib.request
from pathlib import Path

import numpy as np

from benchmarks.bodies import binary_headers, rest_request
from benchmarks.figures import facts, percentile, spread
from benchmarks.load_tools import wrk
from benchmarks.networks import bare_runs, session
from benchmarks.serving import Endpoint, serve
from tests import models
from tests.models import ModelEntry, write_repository

WIDTH, DEPTH = 768, 16
UNBATCHED = 'max_batch_size: 1\nparameters { key: "batching_proof" value { string_value: "off" } }'


def bare(path: Path, rows: int, threads: int, seconds: float) -> tuple[float, float]:
    """Rows a second and p50 in microseconds of `session.run` with batches of `rows`."""
    x = np.random.default_rng(1).standard_normal((rows, WIDTH)).astype(np.float32)
    times = bare_runs(session(path, threads), x, seconds)
    return rows * len(times) / sum(times), percentile(times, 0.5) * 1e6


def counters(at: Endpoint, model: str) -> dict[str, float]:
    """The model's series without further labels."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{at.metrics}/metrics").read().decode()
    marked = f'{{model="{model}",version="1"}} '
    return {
        line.split("{")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if marked in line
    }


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="intra-op threads of bare runs")
    given = parser.parse_args()
    network = models.slow(WIDTH, DEPTH)
    x = np.random.default_rng(1).standard_normal((1, WIDTH)).astype(np.float32)
    body, length = rest_request(x=x)
    headers = binary_headers(length)
    rates: dict[str, list[float]] = {}
    lone: dict[str, list[float]] = {}
    means: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        repository = write_repository(
            Path(folder), {"slow": network, "unbatched": ModelEntry(network, UNBATCHED)}
        )
        path = repository / "slow" / "1" / "model.onnx"
        with serve(repository, core=None) as at:
            for _ in range(given.rounds):
                for rows in (1, 8, 16, 32, 64, 128):
                    rate, p50 = bare(path, rows, given.threads, given.seconds / 3)
                    rates.setdefault(f"bare ONNX Runtime, batch {rows}", []).append(rate)
                    if rows == 1:
                        lone.setdefault("bare ONNX Runtime", []).append(p50)
                before = counters(at, "slow")
                load = wrk(
                    at.http, "/v2/models/slow/infer", body, headers, connections=32,
                    seconds=given.seconds,
                )  # fmt: skip
                after = counters(at, "slow")
                rows_run, runs = (
                    after[name] - before[name]
                    for name in ("nv_inference_count", "nv_inference_exec_count")
                )
                means.append(rows_run / runs)
                rates.setdefault("Stoker, 32 clients", []).append(load.per_second)
                for model in ("slow", "unbatched"):
                    load = wrk(
                        at.http, f"/v2/models/{model}/infer", body, headers, connections=1,
                        seconds=given.seconds,
                    )  # fmt: skip
                    name = "batching on" if model == "slow" else "batching off"
                    lone.setdefault(f"Stoker, {name}", []).append(load.p50_us)
            limit = counters(at, "slow").get("stoker_model_batch_limit_rows", float("nan"))
    print(f"{facts()}; {given.rounds} rounds, medians (range)\n")
    print(f"mean batch at 32 clients: {spread(means, 1)}; batch limit {limit:.0f} rows\n")
    print("| | rows/s |\n|---|---|")
    for name, values in rates.items():
        print(f"| {name} | {spread(values)} |")
    print("\n| one client | p50 us |\n|---|---|")
    for name, values in lone.items():
        print(f"| {name} | {spread(values)} |")


if __name__ == "__main__":
    main()
