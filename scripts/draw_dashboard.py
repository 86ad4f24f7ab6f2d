"""Draws the Grafana dashboard as a picture for the documents (`make dashboard-picture`).

Grafana itself is not needed: the panels, queries and units of the dashboard are drawn by
`scripts/drawing/`, with what a real Prometheus answers that scrapes two servers under load for some
minutes: a wave of requests to three models, a spike above what they can do, now and then a request
that fails or names no model. A share of the requests is traced, to a receiver that forgets them,
and logged. The row of GPUs is left out, since there is none where this runs.
chromium (Debian: `chromium`) makes the picture.

    python -m scripts.draw_dashboard [--seconds 150] [--output docs/images/dashboard.png]
"""

import argparse
import contextlib
import math
import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from benchmarks import call_headers, networks
from benchmarks.bodies import framed, grpc_request
from benchmarks.generator import open_loop
from benchmarks.raw_http2 import Call, Http2Client
from benchmarks.serving import environment, serve
from benchmarks.targets import connected
from scripts.drawing.answers import Window
from scripts.drawing.page import WIDTH, page
from scripts.make_dashboard import ROWS
from tests import models
from tests.contract import monitoring
from tests.models import write_repository
from tests.prometheus import run_prometheus
from tests.spans import receiving
from tests.tools import require_tool

ROOT: Final = Path(__file__).resolve().parent.parent
OUTPUT: Final = ROOT / "docs" / "images" / "dashboard.png"
LEFT_OUT: Final = "GPU and TensorRT"
PODS: Final = ("stoker-7d9c5-a", "stoker-7d9c5-b")
SIDE: Final = 64
DEADLINE: Final = "400m"
MEAN_RATE: Final = 150.0
SPIKE: Final = (0.62, 0.74)
"""The part of the time in which twice and a half as many requests come."""
STREAMS: Final = 256
OBSERVED: Final = ("--tracing", "--trace-sampling", "0.1", "--access-log", "sampled")


def rate(share: float) -> float:
    """Requests a second to one server when `share` of the time has gone by."""
    wave = MEAN_RATE * (1 + 0.5 * math.sin(2 * math.pi * (1.5 * share - 0.2)))
    return wave * (2.5 if SPIKE[0] < share < SPIKE[1] else 1)


def moments(seconds: float, seed: int) -> list[float]:
    """When requests come: a Poisson stream of the rate above."""
    numbers = np.random.default_rng(seed)
    due, now = [], 0.0
    while now < seconds:
        now += float(numbers.exponential(1 / rate(now / seconds)))
        due.append(now)
    return due


def mix() -> list[bytes]:
    """Bodies in the order in which they are sent, over and over."""
    numbers = np.random.default_rng(3)

    def row(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return numbers.standard_normal(shape).astype(np.float32)

    classifier = grpc_request("classifier", x=row(1, 16))
    ranker = grpc_request("ranker", x=row(4, 256))
    detector = grpc_request("detector", x=row(1, 3, SIDE, SIDE))
    hundred = ([classifier] * 5 + [ranker] * 4 + [detector]) * 10
    rare = [
        grpc_request("lookup", x=np.array([[99]], np.int64)),  # fails in its run
        grpc_request("lookup", x=np.array([[2]], np.int64)),
        grpc_request("clasifier", x=row(1, 16)),  # a misspelled name
        grpc_request("ranker", x=row(1, 255)),  # invalid
    ]
    return [framed(body) for body in (*hundred * 4, *rare)]


def load(port: int, seconds: float, seed: int) -> None:
    """The wave, to one server."""
    fields = [*call_headers.grpc_fields(port), ("grpc-timeout", DEADLINE)]
    bodies = mix()

    def script(client: Http2Client) -> Iterator[Call]:
        blocks = call_headers.blocks(
            call_headers.Encoding.PLAIN, fields, table_bytes=client.table_bytes
        )
        yield Call(next(blocks), bodies[0])
        block = next(blocks)
        yield from cycle([Call(block, body) for body in bodies])

    with connected(lambda: Http2Client(port, STREAMS), 4) as clients:
        open_loop(clients, [script(each) for each in clients], moments(seconds, seed), patience=3.0)


def target(pod: str, port: int) -> dict[str, object]:
    """A target with the labels that a PodMonitor gives it."""
    labels = {"namespace": "serving", "pod": pod, "container": "stoker", "endpoint": "management"}
    return {"targets": [f"127.0.0.1:{port}"], "labels": labels}


def draw(folder: Path, seconds: float, output: Path) -> None:
    """Serves, loads, asks, draws."""
    repository = write_repository(
        folder / "models",
        {
            "classifier": networks.tiny(),
            "ranker": networks.mlp(),
            "detector": networks.resnetlike(SIDE),
            "lookup": models.fails_on_data(),
        },
    )
    rules = folder / "rules.yaml"
    rules.write_text(monitoring.rules_text())
    with contextlib.ExitStack() as opened:
        receiver = opened.enter_context(receiving("silent"))
        with environment(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.grpc):
            servers = [opened.enter_context(serve(repository, *OBSERVED, core=None)) for _ in PODS]
        targets = [target(pod, at.metrics) for pod, at in zip(PODS, servers, strict=True)]
        config = {
            "global": {
                "scrape_interval": "1s",
                "scrape_timeout": "1s",
                "evaluation_interval": "1s",
            },
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "serving/stoker", "static_configs": targets}],
        }
        prometheus = opened.enter_context(run_prometheus(folder / "prometheus", config))
        time.sleep(3)  # idle at first
        start = time.time()
        clients = [
            multiprocessing.Process(target=load, args=(at.grpc, seconds, seed))
            for seed, at in enumerate(servers)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        window = Window(start, start + seconds, 2.0, "12s")
        rows = [row for row in ROWS if row.title != LEFT_OUT]
        html, height = page(prometheus.url, rows, window, "serving / stoker, two pods on CPUs")
    (folder / "page.html").write_text(html)
    photograph(folder / "page.html", height, output)


def photograph(html: Path, height: int, output: Path) -> None:
    """A picture of the page, in a palette of its own so that it is small."""
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [
        require_tool("chromium"), "--headless", "--no-sandbox", "--disable-gpu",
        "--hide-scrollbars", f"--window-size={WIDTH},{height}", f"--screenshot={output}",
        f"--user-data-dir={html.parent / 'chromium'}", html.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(output) as picture:
        small = reduced(picture.convert("RGB"))
    small.save(output, optimize=True)


def reduced(picture: Image.Image) -> Image.Image:
    """The picture in 256 colours. They are chosen by how far apart they are, so that a thin line
    keeps its colour, and then moved to the mean of what they stand for: areas keep theirs."""
    chosen = Image.Quantize.MAXCOVERAGE
    return picture.quantize(256, method=chosen, kmeans=1, dither=Image.Dither.NONE)


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), given.seconds, given.output)
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()
