"""What a running server exposes is what docs/metrics.md says, in both formats."""

import re
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import (
    text_string_to_metric_families as classic_metric_families,
)
from stoker.telemetry.gpu_table import GPU_METRICS
from stoker.tensor import DataType

from tests.conftest import Endpoints, Serving
from tests.models import double, write_repository
from tests.rest_call import management
from tests.triton_client import PROTOCOLS, Given, TritonClient

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "metrics.md"
OPENMETRICS: Final = "application/openmetrics-text"
PARTS: Final = ("_bucket", "_count", "_sum")


@pytest.fixture(scope="module")
def at(serve_module: Serving, tmp_path_factory: pytest.TempPathFactory) -> Endpoints:
    """A server with a measured model that had a request on each protocol."""
    folder = write_repository(tmp_path_factory.mktemp("models"), {"m": double()})
    endpoints = serve_module(folder, profile_seconds=0.2).at
    row = {"x": Given(np.zeros((1, 4), np.float32), DataType.FP32)}
    for kind in PROTOCOLS:
        TritonClient(kind, endpoints).infer("m", row)
    return endpoints


def documented() -> dict[str, tuple[str, set[str]]]:
    """Type and labels of each metric of the document."""
    lines = [line.split("|") for line in DOCUMENT.read_text().splitlines() if line[:3] == "| `"]
    return {
        cells[1].strip(" `"): (cells[2].strip(), set(re.findall(r"`(\w+)`", cells[4])))
        for cells in lines
    }


def declared(text: str) -> dict[str, str]:
    """The type of each family as the text declares it."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


def series(text: str) -> dict[str, set[str]]:
    """Names of the series, without a histogram's parts, and the labels that each carries."""
    found: dict[str, set[str]] = {}
    known = documented()
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        bare = next((name.removesuffix(part) for part in PARTS if name.endswith(part)), name)
        family = name if name in known else bare
        found.setdefault(family, set()).update(re.findall(r'(\w+)="', labels))
    return found


def test_the_classic_text_declares_every_documented_metric_with_its_type(at: Endpoints) -> None:
    text = at.metrics("text/plain")
    expected = {
        name: "gauge" if kind == "info" else kind for name, (kind, _) in documented().items()
    }
    assert declared(text) == expected
    assert list(classic_metric_families(text))


def test_openmetrics_text_keeps_tritons_names_and_declares_our_types(at: Endpoints) -> None:
    text = at.metrics(OPENMETRICS)
    expected = {}
    for name, (kind, _) in documented().items():
        if name.startswith("nv_"):
            expected[name] = "unknown" if kind == "counter" else kind
        else:
            family = name.removesuffix("_total").removesuffix("_info" if kind == "info" else "")
            expected[family] = kind
    assert declared(text) == expected
    assert text.endswith("# EOF\n")
    assert list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]  # theirs


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
def test_series_have_the_documented_names_and_labels(at: Endpoints, accept: str) -> None:
    known = documented()
    for name, labels in series(at.metrics(accept)).items():
        kind, expected = known[name]
        assert labels - ({"le"} if kind == "histogram" else set()) == expected, name


def test_a_used_server_shows_all_but_what_its_machine_lacks(at: Endpoints) -> None:
    missing = documented().keys() - series(at.metrics()).keys()
    missing.discard("nv_cpu_utilization")  # a share of the time since an earlier scrape
    missing -= {metric.name for metric in GPU_METRICS}  # tests/server/test_gpu_metrics.py has them
    # No container, no load that hung, no model that asks for TensorRT, none on a GPU
    # (test_device_truth.py has that), and nobody looks at calls (test_tracing.py and
    # test_log_records.py have that).
    absent = (
        *("stoker_trace_spans_", "stoker_access_log_lines_"),
        *("stoker_container_", "stoker_hung_load_", "stoker_tensorrt_"),
        *("stoker_model_memcpy_nodes", "stoker_model_cpu_compute_nodes"),
    )
    assert {name for name in missing if not name.startswith(absent)} == set()


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        (f"{OPENMETRICS};version=1.0.0,text/plain;q=0.5", f"{OPENMETRICS}; version=1.0.0"),
    ],
)
def test_the_scraper_gets_the_format_that_it_accepts(
    at: Endpoints, accept: str, content_type: str
) -> None:
    answer = management(at, "/metrics/", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith(content_type)


def test_metrics_are_read_and_never_written(at: Endpoints) -> None:
    assert management(at, "/metrics", method="POST").status_code == 405
