"""A real Prometheus scrapes the metrics, in both formats, and keeps Triton's names."""

import asyncio
import json
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from stoker.telemetry.metric import MetricType
from stoker.telemetry.metric_table import TABLE
from stoker.telemetry.metrics import MetricsRegistry

from tests.filled_metrics import filled_metrics
from tests.tools import require_tool

TRITON_NAMES = {
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
    "nv_inference_pending_request_count",
    "nv_model_load_duration_secs",
    "nv_cpu_utilization",
    "nv_cpu_memory_total_bytes",
    "nv_cpu_memory_used_bytes",
    "nv_gpu_utilization",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_power_usage",
    "nv_gpu_power_limit",
    "nv_energy_consumption",
}

CONFIG = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs:
- job_name: classic
  metrics_path: /classic
  static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
- job_name: openmetrics
  metrics_path: /openmetrics
  static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


class Endpoint:
    """The least HTTP server that serves `render`. /classic looks away from the Accept header."""

    def __init__(self, metrics: MetricsRegistry) -> None:
        self._metrics = metrics
        self._scrapes = {"/classic": 0, "/openmetrics": 0}
        self.accepted: set[str] = set()
        self.each_was_scraped_twice = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        accept = next(
            (
                line.partition(":")[2]
                for line in head.splitlines()
                if line.lower().startswith("accept:")
            ),
            "",
        )
        content_type, body = await self._metrics.render("" if path == "/classic" else accept)
        self.accepted.add(content_type)
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        writer.close()
        # Prometheus stores a scrape before it begins the target's next one.
        self._scrapes[path] += 1
        if min(self._scrapes.values()) >= 2:
            self.each_was_scraped_twice.set()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stored_names(api: str, job: str) -> set[str]:
    """The names of all series that Prometheus took from a job."""
    url = f"{api}/label/__name__/values?match[]={{job=%22{job}%22}}"
    with urllib.request.urlopen(url, timeout=5) as response:
        return set(json.load(response)["data"])


def stored_types(api: str, name: str) -> set[str]:
    """The types that the scraped texts declared for a metric."""
    with urllib.request.urlopen(f"{api}/metadata?metric={name}", timeout=5) as response:
        return {entry["type"] for entry in json.load(response)["data"][name]}


@pytest.mark.slow
def test_prometheus_stores_the_exact_names_from_both_formats(tmp_path: Path) -> None:
    prometheus = require_tool("prometheus")

    async def scraped() -> tuple[dict[str, set[str]], set[str], set[str]]:
        endpoint = Endpoint(filled_metrics(tmp_path / "machine"))
        async with await asyncio.start_server(endpoint.answer, "127.0.0.1", 0) as server:
            config = tmp_path / "prometheus.yml"
            config.write_text(CONFIG.format(port=server.sockets[0].getsockname()[1]))
            url = f"127.0.0.1:{free_port()}"
            with (tmp_path / "log").open("w") as log:
                process = await asyncio.create_subprocess_exec(
                    prometheus,
                    f"--config.file={config}",
                    f"--storage.tsdb.path={tmp_path / 'data'}",
                    f"--web.listen-address={url}",
                    stderr=log,
                )
            try:
                async with asyncio.timeout(60):
                    await endpoint.each_was_scraped_twice.wait()
                api = f"http://{url}/api/v1"
                names = {
                    job: await asyncio.to_thread(stored_names, api, job)
                    for job in ("classic", "openmetrics")
                }
                types = await asyncio.to_thread(stored_types, api, "nv_inference_count")
            finally:
                process.terminate()
                await process.wait()
        return names, types, endpoint.accepted

    names, types, accepted = asyncio.run(scraped())

    assert len(accepted) == 2, "Prometheus took both formats"
    for job in ("classic", "openmetrics"):
        assert {name for name in names[job] if name.startswith("nv_")} == TRITON_NAMES
        ours = {name for name in names[job] if name.startswith("stoker_")}
        assert ours == {
            name
            for metric in TABLE
            if not metric.is_triton
            for name in (
                [f"{metric.name}_{part}" for part in ("bucket", "count", "sum")]
                if metric.type is MetricType.HISTOGRAM
                else [metric.name]
            )
        }
    assert types == {"counter", "unknown"}


def test_promtool_finds_nothing_but_tritons_names(tmp_path: Path) -> None:
    promtool = require_tool("promtool")
    _, text = asyncio.run(filled_metrics(tmp_path).render("text/plain"))

    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False
    )

    problems = (checked.stdout + checked.stderr).decode().splitlines()
    known = (
        'counter metrics should have "_total" suffix',
        'non-histogram and non-summary metrics should not have "_count" suffix',
        "metric names should not contain abbreviated units",
    )
    unknown = [line for line in problems if not (line.startswith("nv_") and line.endswith(known))]
    assert unknown == []
    assert problems, "the known ones are reported, so promtool did read the text"
