"""A real Prometheus scrapes the metrics, in both formats, and keeps Triton's names."""

import asyncio
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from stoker.telemetry.metric import MetricType
from stoker.telemetry.metric_table import TABLE
from stoker.telemetry.metrics import MetricsRegistry

from tests.contract.manifests import objects, text
from tests.filled_metrics import filled_metrics
from tests.prometheus import Prometheus, run_prometheus
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

JOBS = ("classic", "openmetrics")


def config(port: int) -> dict[str, object]:
    """Scrapes both forms five times a second."""
    return {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
        "scrape_configs": [
            {
                "job_name": job,
                "metrics_path": f"/{job}",
                "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
            }
            for job in JOBS
        ],
    }


class Endpoint:
    """The least HTTP server that serves `render`. /classic looks away from the Accept header."""

    def __init__(self, metrics: MetricsRegistry) -> None:
        self._metrics = metrics
        self._scrapes = {"/classic": 0, "/openmetrics": 0}
        self.accepted: set[str] = set()
        self.each_was_scraped_twice = threading.Event()

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
        content_type, pieces = await self._metrics.render("" if path == "/classic" else accept)
        body = b"".join(pieces)
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


@dataclass(frozen=True)
class Stored:
    """What Prometheus made of the scrapes."""

    names: dict[str, set[str]]
    """Of all series, by job."""
    types: set[str]
    """That the texts declared for a counter of Triton's."""
    traces: dict[str, set[str]]
    """Trace ids of the exemplars, by job."""


def stored(prometheus: Prometheus) -> Stored:
    """Asks for all of it."""
    names = {
        job: prometheus.get("label/__name__/values", **{"match[]": f'{{job="{job}"}}'})
        for job in JOBS
    }
    metadata = prometheus.get("metadata", metric="nv_inference_count")
    assert isinstance(metadata, dict)
    found = prometheus.get(
        "query_exemplars",
        query="stoker_request_duration_seconds_bucket",
        start="1600000000",
        end="4000000000",
    )
    traces: dict[str, set[str]] = {job: set() for job in JOBS}
    for one in objects({"found": found}, "found"):
        job = text(one, "seriesLabels", "job")
        traces[job] |= {text(each, "labels", "trace_id") for each in objects(one, "exemplars")}
    return Stored(
        {
            job: {str(name) for name in listed}
            for job, listed in names.items()
            if isinstance(listed, list)
        },
        {text(entry, "type") for entry in objects(metadata, "nv_inference_count")},
        traces,
    )


@pytest.mark.slow
def test_prometheus_stores_names_types_and_exemplars_from_both_formats(tmp_path: Path) -> None:
    require_tool("prometheus")

    async def scraped() -> tuple[Stored, set[str]]:
        endpoint = Endpoint(filled_metrics(tmp_path / "machine"))
        async with await asyncio.start_server(endpoint.answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]

            def watch() -> Stored:
                keep = "--enable-feature=exemplar-storage"
                with run_prometheus(tmp_path / "prometheus", config(port), keep) as prometheus:
                    assert endpoint.each_was_scraped_twice.wait(60)
                    return stored(prometheus)

            return await asyncio.to_thread(watch), endpoint.accepted

    found, accepted = asyncio.run(scraped())

    assert len(accepted) == 2, "Prometheus took both formats"
    for job in JOBS:
        assert {name for name in found.names[job] if name.startswith("nv_")} == TRITON_NAMES
        ours = {name for name in found.names[job] if name.startswith("stoker_")}
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
    assert found.types == {"counter", "unknown"}
    # Two of the three noted ones share a bucket: the newer is shown.
    assert found.traces == {"classic": set(), "openmetrics": {f"{11:032x}", f"{12:032x}"}}


def test_promtool_finds_nothing_but_tritons_names(tmp_path: Path) -> None:
    promtool = require_tool("promtool")
    _, scraped = asyncio.run(filled_metrics(tmp_path).render("text/plain"))

    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=b"".join(scraped),
        capture_output=True,
        timeout=30,
        check=False,
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
