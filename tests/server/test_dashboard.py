"""A real Prometheus scrapes a live server under load: every query of the dashboard has an answer.

The server's GPUs are a stand-in for the driver. What no server without a container's limits, a GPU
or TensorRT can show comes from a second target, the text of the registry in which every metric has
a value; `ONLY_RECORDED` says which and why, and nothing else may be answered by it alone.
"""

import http.server
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from scripts.drawing.answers import Window
from scripts.drawing.page import page
from scripts.drawing.plots import NO_DATA
from scripts.make_dashboard import ROWS
from tests import models
from tests.calls import wait_until
from tests.conftest import Endpoints, StokerProcess, run_stoker
from tests.contract import monitoring
from tests.contract.manifests import objects, text
from tests.contract.monitoring import PanelQuery, substituted
from tests.filled_metrics import filled_text
from tests.models import write_repository
from tests.prometheus import Prometheus, run_prometheus
from tests.stub.libraries import build_driver

LIVE, RECORDED = "stoker-live", "stoker-recorded"
JOB: Final = "serving/stoker"
ANY: Final = {"namespace": "serving", "job": ".*", "model": ".*"}
UUID: Final = "GPU-00000000-0000-0000-0000-000000000000"
DEMO: Final = Path(__file__).parents[2] / "server" / "stoker" / "demo"

ONLY_RECORDED: Final = {
    "stoker_container_": "a machine whose control group has no limit",
    "stoker_tensorrt_": "no TensorRT without a GPU",
    "stoker_model_memcpy_nodes": "no model on a GPU without one",
    "stoker_model_cpu_compute_nodes": "no model on a GPU without one",
    "stoker_trace_spans_total": "nobody receives spans",
    "stoker_access_log_lines_total": "an access log is off unless it is asked for",
}
"""Metrics that a live server on the test's machine does not have, and why."""


CAUSED: Final = {
    "StokerErrorBudgetBurn",
    "StokerErrorBudgetBurnSlow",
    "StokerGpuRowRemapPending",
    "StokerModelFailing",
    "StokerUnroutedRequests",
}
"""By runs that fail, by calls of a model that is not there, and by what the stand-in for the driver
says of its GPU."""

OF_A_BUSY_MACHINE: Final = {"StokerLoopLag", "StokerQueueDelay", "StokerSlowLoopRuns"}
"""Which may come and go where tests share two cores."""


class Recorded(http.server.BaseHTTPRequestHandler):
    """Serves the text of the filled registry."""

    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@dataclass(frozen=True)
class Watched:
    """A server under load and the Prometheus that scrapes it."""

    server: StokerProcess
    prometheus: Prometheus


def scrape_config(job: str, port: int, pod: str) -> dict[str, object]:
    """A target with the labels that a PodMonitor gives it."""
    labels = {
        "namespace": "serving", "pod": pod, "container": "stoker", "endpoint": "management",
    }  # fmt: skip
    target = {"targets": [f"127.0.0.1:{port}"], "labels": labels}
    return {"job_name": job, "static_configs": [target]}


def picky(value: int) -> bytes:
    """A request to the model whose runs fail on 99."""
    tensor = {"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [value]}
    return json.dumps({"inputs": [tensor]}).encode()


def keep_calling(at: Endpoints, stop: threading.Event) -> None:
    """Requests that are answered well, that fail in their run, that are invalid, and for a model
    that is not there."""
    digit = (DEMO / "images" / "digit-7.json").read_bytes()
    calls = [("digits", digit)] * 8 + [("picky", picky(2)), ("picky", picky(99))]
    calls += [("simple", digit), ("nobody", digit)]
    while not stop.is_set():
        for model, body in calls:
            try:
                urllib.request.urlopen(
                    f"{at.url}/v2/models/{model}/infer", body, timeout=30
                ).close()
            except urllib.error.HTTPError as error:
                error.close()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("dashboard")
    build_driver(folder)
    rules = folder / "rules.yaml"
    rules.write_text(monitoring.rules_text())
    Recorded.body = filled_text(folder / "machine").encode()
    recorded = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorded)
    threading.Thread(target=recorded.serve_forever, daemon=True).start()
    gpu = {
        "LD_LIBRARY_PATH": str(folder),
        "STUB_CUDA_DEVICES": "1",
        "NVML_STUB": f"gpus={UUID};xids=0:79",
    }
    stop = threading.Event()
    own = write_repository(folder / "models", {"picky": models.fails_on_data()})
    with run_stoker(
        str(DEMO / "models"), str(own), "--gpu-metrics-interval", "1s", environment=gpu
    ) as server:
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms",
                       "evaluation_interval": "500ms"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                scrape_config(JOB, server.at.metrics_port, LIVE),
                scrape_config("serving/recorded", recorded.server_port, RECORDED),
            ],
        }  # fmt: skip
        load = threading.Thread(target=keep_calling, args=(server.at, stop))
        load.start()
        try:
            with run_prometheus(folder / "prometheus", config) as prometheus:
                # The last to come: a mean over recorded rates of counters that rose.
                last = f'namespace_job:stoker_requests_failed:ratio_rate1d{{job="{JOB}"}}'
                wait_until(lambda: bool(prometheus.finite(last)), "recorded rates", timeout=60)
                risen = f'rate(nv_inference_count{{pod="{LIVE}",model="digits"}}[1m]) > 0'
                wait_until(lambda: bool(prometheus.query(risen)), "load", timeout=60)
                yield Watched(server, prometheus)
        finally:
            stop.set()
            load.join()
            recorded.shutdown()
            recorded.server_close()


pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "query", monitoring.dashboard_queries(), ids=[q.name for q in monitoring.dashboard_queries()]
)
def test_every_query_of_the_dashboard_has_a_finite_answer(
    watched: Watched, query: PanelQuery
) -> None:
    if watched.prometheus.finite(query.of(pod=LIVE, **ANY)):
        return
    reasons = [why for metric, why in ONLY_RECORDED.items() if metric in query.expr]
    assert reasons, f"no finite answer from a live server: {query.of(pod=LIVE, **ANY)}"
    assert watched.prometheus.finite(query.of(pod=RECORDED, **ANY)), query.expr


@pytest.mark.parametrize("name", monitoring.variables())
def test_every_variable_of_the_dashboard_offers_the_live_servers_values(
    watched: Watched, name: str
) -> None:
    selector, label = monitoring.variables()[name]
    asked = {"match[]": substituted(selector, pod=".*", **ANY)}
    values = watched.prometheus.get(f"label/{label}/values", **asked)
    assert isinstance(values, list)
    expected = {"namespace": "serving", "job": JOB, "pod": LIVE, "model": "digits"}
    assert expected[name] in values


def test_starts_of_servers_are_marked_at_their_moment(watched: Watched) -> None:
    (annotation,) = objects(monitoring.dashboard(), "annotations", "list")
    asked = substituted(text(annotation, "expr"), pod=LIVE, **ANY)
    (start,) = watched.prometheus.query(asked)
    (now,) = watched.prometheus.query("time() * 1000")
    assert 0 < now.value - start.value < 600_000


def test_every_rule_can_be_evaluated(watched: Watched) -> None:
    found = watched.prometheus.get("rules")
    assert isinstance(found, dict)
    rules = [rule for group in objects(found, "groups") for rule in objects(group, "rules")]
    assert len(rules) == len(monitoring.rules())
    wrong = {text(rule, "name"): rule.get("lastError") for rule in rules if rule["health"] != "ok"}
    assert wrong == {}


def test_what_is_wrong_with_the_load_becomes_an_alert_and_nothing_else_does(
    watched: Watched,
) -> None:
    """None fires within a test's seconds, so those that wait for their time count as well."""

    def alerting() -> set[str]:
        found = watched.prometheus.query(f'ALERTS{{job="{JOB}"}}')
        return {each.labels["alertname"] for each in found}

    wait_until(lambda: alerting() >= CAUSED, "the alerts that the load causes", timeout=60)
    assert alerting() - CAUSED <= OF_A_BUSY_MACHINE


def test_the_dashboard_can_be_drawn_and_no_panel_is_empty(watched: Watched) -> None:
    now = time.time()
    html, height = page(watched.prometheus.url, ROWS, Window(now - 10, now, 1.0, "10s"), "test")
    assert html.count('class="panel"') == len(monitoring.panels())
    assert html.count("<h2") == len(ROWS)
    empty = [part.partition("</header>")[0] for part in html.split("<header>") if NO_DATA in part]
    assert empty == []
    assert height > 1000
